"""The door to ASE and pymatgen: what goes through, and one sentence for everything that does not."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from pymatgen.core import IStructure, Lattice, Molecule, Structure

from m3pot.structure import StructureError, check, from_ase, labels_from_ase, to_atoms


def salt(**options):
    return Structure(Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]], **options)


def refused(function, *args, **options):
    """The sentence of the error: one line that ends with a full stop and names a remedy after a semicolon."""
    with pytest.raises(StructureError) as caught:
        function(*args, **options)
    sentence = str(caught.value)
    assert sentence.count("\n") == 0
    assert sentence.endswith(".")
    assert ";" in sentence
    return sentence


def test_atoms_pass_through():
    atoms = bulk("Cu")
    assert to_atoms(atoms) is atoms


@pytest.mark.parametrize("kind", [Structure, IStructure])
def test_pymatgen_structure(kind):
    atoms = to_atoms(kind.from_sites(salt().sites))
    assert atoms.get_chemical_formula() == "ClNa"
    assert atoms.pbc.all()
    np.testing.assert_allclose(atoms.cell.array, np.eye(3) * 5.6)
    np.testing.assert_allclose(atoms.positions[1], 2.8)


def test_pymatgen_slab_and_molecule():
    slab = to_atoms(Structure(Lattice.cubic(4, pbc=(True, True, False)), ["Fe"], [[0, 0, 0.5]]))
    assert slab.pbc.tolist() == [True, True, False]
    molecule = to_atoms(Molecule(["O", "C"], [[0, 0, 0], [0, 0, 1.13]]))
    assert not molecule.pbc.any()
    assert len(from_ase(molecule, 5.0).receivers) == 2


def test_charged_and_magnetic_species():
    structure = Structure(Lattice.cubic(5.6), ["Na+", "Cl-"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    structure.add_site_property("magmom", [0.0, 1.0])
    assert to_atoms(structure).numbers.tolist() == [11, 17]


def test_disordered_sites():
    alloy = Structure(Lattice.cubic(3.6), [{"Cu": 0.5, "Au": 0.5}], [[0, 0, 0]])
    assert "shared by several species" in refused(to_atoms, alloy)


@pytest.mark.parametrize("thing", ["POSCAR", None, 3, np.zeros(3)], ids=str)
def test_something_else(thing):
    assert type(thing).__name__ in refused(to_atoms, thing)


def test_graph_of_a_crystal():
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    graph = from_ase(atoms, 3.0, dtype=np.float32)
    assert graph.species.tolist() == [11, 17]
    assert graph.positions.dtype == graph.cell.dtype == np.float32
    assert graph.receivers.tolist() == [0] * 6 + [1] * 6
    assert graph.cell.shape == (1, 3, 3)
    assert not graph.owner.any()


def test_graph_does_not_share_memory_with_the_atoms():
    atoms = bulk("Cu")
    graph = from_ase(atoms, 3.0)
    atoms.positions += 1
    atoms.cell *= 2
    atoms.numbers[:] = 1
    np.testing.assert_array_equal(graph.positions, 0)
    np.testing.assert_array_equal(graph.cell[0], bulk("Cu").cell.array)
    assert graph.species.tolist() == [29]


def test_empty_structure():
    assert "no atoms" in refused(from_ase, Atoms(), 5.0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_positions_and_cell_that_are_no_numbers(value):
    for spoil in ("positions", "cell"):
        atoms = bulk("Cu")
        getattr(atoms, spoil)[0, 1] = value
        assert "NaN or infinite" in refused(from_ase, atoms, 5.0)


@pytest.mark.parametrize(("symbol", "named"), [("Am", "Am"), ("Og", "Og"), ("X", "Z=0")])
def test_elements_beyond_the_table(symbol, named):
    sentence = refused(from_ase, Atoms(["Cu", symbol], [[0, 0, 0], [0, 0, 2]]), 5.0)
    assert f"does not know: {named};" in sentence


def test_elements_that_the_model_does_not_know():
    check(bulk("Cu"), frozenset({29}))
    sentence = refused(check, Atoms("CuAgAu", np.diag([1.0, 2, 4])), frozenset({29}))
    assert "does not know: Ag, Au;" in sentence


def test_unphysical_atomic_number():
    assert "Z=200" in refused(check, Atoms([200]))
    assert "Z=-1" in refused(check, Atoms(numbers=[-1]))


@pytest.mark.parametrize(
    "cell",
    [np.zeros((3, 3)), np.diag([5.0, 5, 0]), np.diag([5, 5, 1e-9]), [[5, 0, 0], [0, 5, 0], [5, 5, 0]], np.ones((3, 3))],
    ids=["none", "flat", "thin", "coplanar", "parallel"],
)
def test_periodic_without_volume(cell):
    assert "span no volume" in refused(from_ase, Atoms("Cu", cell=cell, pbc=True), 5.0)


def test_lattice_vector_shorter_than_a_clash():
    """Would be millions of images of one atom."""
    assert "span no volume" in refused(from_ase, Atoms("Cu", cell=np.diag([5, 5, 0.01]), pbc=True), 5.0)


def test_only_periodic_directions_need_a_vector():
    chain = Atoms("Cu", cell=[[2.5, 0, 0], [0, 0, 0], [0, 0, 0]], pbc=(True, False, False))
    assert len(from_ase(chain, 5.1).receivers) == 4
    chain.pbc = (True, True, False)
    assert "span no volume" in refused(from_ase, chain, 5.1)


def test_overlapping_atoms():
    sentence = refused(from_ase, Atoms("CuAg", [[0, 0, 0], [0, 0, 0.05]]), 5.0)
    assert "atoms 0 and 1 are only 0.050 A apart" in sentence
    assert "0.000 A" in refused(from_ase, Atoms("CuAg", np.ones((2, 3))), 5.0)


def test_overlap_through_the_boundary():
    atoms = Atoms("CuAg", [[0, 0, 0.01], [0, 0, 3.96]], cell=np.eye(3) * 4, pbc=True)
    assert "0.050 A apart" in refused(from_ase, atoms, 5.0)
    atoms.pbc = False
    assert len(from_ase(atoms, 5.0).receivers) == 2


def test_labels():
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    forces, stress = np.arange(6.0).reshape(2, 3), np.arange(1.0, 7)
    atoms.calc = SinglePointCalculator(atoms, energy=-3.0, forces=forces, stress=stress)
    labels = labels_from_ase(atoms)
    assert labels.energy.tolist() == [-3.0]
    np.testing.assert_array_equal(labels.forces, forces)
    np.testing.assert_array_equal(labels.stress[0], [[1, 6, 5], [6, 2, 4], [5, 4, 3]])
    assert np.isnan(labels.energies).all()


def test_labels_with_a_full_stress():
    atoms, stress = bulk("Cu"), np.arange(9.0).reshape(3, 3)
    atoms.calc = SinglePointCalculator(atoms)
    atoms.calc.results["stress"] = stress
    np.testing.assert_array_equal(labels_from_ase(atoms).stress, [stress])


def test_no_labels():
    labels = labels_from_ase(bulk("Cu"))
    assert all(np.isnan(value).all() for value in labels)
    assert [value.shape for value in labels] == [(1,), (1, 3), (1, 3, 3), (1,)]
