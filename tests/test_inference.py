import dataclasses

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms
from pymatgen.core import Lattice, Molecule, Structure

from m3pot.calculator import M3PotCalculator
from m3pot.execution import compile_count
from m3pot.inference import predict
from m3pot.structure import StructureError
from tests.helpers import random_potential, structures

POTENTIAL = random_potential("tensorflow", units=4, blocks=1)


@pytest.mark.parametrize("max_edges", [None, 400])
def test_equals_the_calculator_in_the_order_of_the_input(max_edges):
    given = [*structures().values()]
    found = predict(given, POTENTIAL, dtype="float64", max_edges=max_edges)
    calc = M3PotCalculator(POTENTIAL, dtype="float64")
    assert [a.symbols.get_chemical_formula() for a in found] == [a.symbols.get_chemical_formula() for a in given]
    for before, after in zip(given, found, strict=True):
        atoms = before.copy()
        atoms.calc = calc
        assert after.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
        np.testing.assert_allclose(after.get_forces(), atoms.get_forces(), atol=1e-10)
        assert sorted(after.calc.results) == sorted(calc.results)
        if "stress" in calc.results:
            np.testing.assert_allclose(after.get_stress(), atoms.get_stress(), atol=1e-10)


def test_pymatgen_and_ase_together():
    rock = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    water = Molecule("OHH", [[0, 0, 0], [0.96, 0, 0], [-0.2, 0.93, 0]])
    salt = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    a, b, c = predict([rock, salt, water], POTENTIAL, dtype="float64")
    assert a.get_potential_energy() == pytest.approx(b.get_potential_energy(), abs=1e-9)
    assert "stress" not in c.calc.results
    (alone,) = predict(rock, POTENTIAL, dtype="float64")
    assert alone.get_potential_energy() == pytest.approx(a.get_potential_energy(), abs=1e-9)


def test_copies_keep_everything_but_results():
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    atoms.info["id"], atoms.arrays["mark"] = 7, np.array([1, 2])
    atoms.set_constraint(FixAtoms([0]))
    (found,) = predict([atoms], POTENTIAL)
    assert found is not atoms
    assert atoms.calc is None
    assert found.info == {"id": 7}
    np.testing.assert_array_equal(found.arrays["mark"], [1, 2])
    assert len(found.constraints) == 1


def test_nothing_in_nothing_out():
    assert predict([], POTENTIAL) == []


BAD = {
    "unknown element": Atoms("Fm"),
    "no atoms": Atoms(),
    "NaN": Atoms("Cu", positions=[[np.nan, 0, 0]]),
    "clash": Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 0.01]]),
    "flat cell": Atoms("Cu", cell=[[3, 0, 0], [0, 3, 0], [3, 3, 0]], pbc=True),
    "not finite": Atoms("Li"),
    "disordered": Structure(Lattice.cubic(4), [{"Na": 0.5, "K": 0.5}, "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "foreign": "NaCl",
}


@pytest.mark.parametrize("name", BAD)
def test_one_bad_structure(name):
    shift = np.array(POTENTIAL.shift)
    shift[3] = np.inf
    potential = dataclasses.replace(POTENTIAL, shift=shift)
    good = bulk("Cu")
    with pytest.raises(StructureError, match="structure 1: "):
        predict([good, BAD[name], good], potential)
    found = predict([good, BAD[name], good], potential, errors="keep")
    assert found[0].get_potential_energy() == found[2].get_potential_energy()
    assert found[1].calc is None
    assert found[1].info["reason"].endswith(".")


def test_progress_counts_every_structure():
    seen = []
    predict([bulk("Cu"), Atoms("Fm"), *[bulk("Si")] * 70], POTENTIAL, errors="keep", progress=seen.append)
    assert sum(seen) == 72


def test_batches_of_any_composition_share_compilations():
    rng = np.random.default_rng(0)
    table = [a for a in structures().values() if len(a)]
    draw = [table[k] for k in rng.integers(0, len(table), 300)]
    before = compile_count("predict")
    predict(draw, POTENTIAL, max_edges=2000)
    predict(draw[::-1], POTENTIAL, max_edges=2000)
    assert compile_count("predict") - before <= 5


def test_a_model_that_needs_more_memory_has_smaller_batches(monkeypatch):
    batches: dict[str, list[int]] = {"usual": [], "smaller": []}
    table = [bulk("Cu")] * 40
    usual = predict(table, POTENTIAL, progress=batches["usual"].append)
    monkeypatch.setattr(type(POTENTIAL.model), "appetite", 32, raising=False)
    found = predict(table, POTENTIAL, progress=batches["smaller"].append)
    assert batches["usual"] == [40]
    assert sum(batches["smaller"]) == 40
    assert max(batches["smaller"]) < 20
    assert found[-1].get_potential_energy() == pytest.approx(usual[-1].get_potential_energy(), abs=1e-5)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="errors"):
        predict([bulk("Cu")], POTENTIAL, errors="ignore")
    with pytest.raises(ValueError, match="dtype"):
        predict([bulk("Cu")], POTENTIAL, dtype="float16")
