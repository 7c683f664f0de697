import copy
import dataclasses
import gzip
import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import CalculationFailed, PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress

import m3pot.calculator
from m3pot.calculator import M3PotCalculator
from m3pot.execution import compile_count
from m3pot.graph import sizes, sizes_for
from m3pot.structure import StructureError
from tests.helpers import evaluate_graphs, graph_of, random_potential, structures

POTENTIAL = random_potential("tensorflow", units=4, blocks=1)


def calculator(**options) -> M3PotCalculator:
    return M3PotCalculator(POTENTIAL, **options)


def crystal() -> Atoms:
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    atoms.rattle(0.1, seed=1)
    return atoms


def results(atoms: Atoms, calc: M3PotCalculator) -> dict:
    atoms = atoms.copy()
    atoms.calc = calc
    atoms.get_potential_energy()
    return calc.results


@pytest.fixture
def lists(monkeypatch) -> list:
    """Grows by one for each neighbour list that the calculators make."""
    made, real = [], m3pot.calculator.from_ase
    monkeypatch.setattr(m3pot.calculator, "from_ase", lambda *args, **kw: made.append(args) or real(*args, **kw))
    return made


def test_one_calculator_for_any_structure():
    calc = calculator(dtype="float64")
    for name, atoms in structures().items():
        found = results(atoms, calc)
        (expected,) = evaluate_graphs(POTENTIAL, [graph_of(atoms)], "float64")
        assert found["energy"] == pytest.approx(expected.energy, abs=1e-10), name
        assert found["free_energy"] == found["energy"]
        np.testing.assert_allclose(found["energies"], expected.energies, atol=1e-10, err_msg=name)
        np.testing.assert_allclose(found["forces"], expected.forces, atol=1e-10, err_msg=name)
        if atoms.cell.rank == 3:
            xx, yy, zz, yz, xz, xy = found["stress"]
            full = [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]
            np.testing.assert_allclose(full, expected.stress, atol=1e-10, err_msg=name)
        else:
            assert "stress" not in found


def test_derivatives_through_ase():
    atoms = crystal()
    atoms.calc = calculator(dtype="float64")
    np.testing.assert_allclose(calculate_numerical_forces(atoms, 1e-4), atoms.get_forces(), atol=1e-6)
    np.testing.assert_allclose(calculate_numerical_stress(atoms, 1e-5), atoms.get_stress(), atol=1e-6)


def test_no_volume_no_stress():
    atoms = molecule("H2O")
    atoms.calc = calculator()
    assert np.isfinite(atoms.get_forces()).all()
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


@pytest.mark.parametrize("on_accelerator", [False, True])
def test_a_walk_makes_few_lists_and_no_compilation(lists, on_accelerator):
    rng = np.random.default_rng(0)
    calc, fresh = calculator(skin=0.6, dtype="float64"), calculator(skin=0.0, dtype="float64")
    calc._trims = not on_accelerator  # there, the list with its skin stays on the device
    atoms = bulk("Cu") * 2
    results(atoms, calc)
    results(atoms, fresh)
    compiled, skinned = compile_count("predict"), []
    for _ in range(12):
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.005 * rng.normal(size=(3, 3))), scale_atoms=True)
        before = len(lists)
        found = results(atoms, calc)
        skinned.append(len(lists) - before)
        expected = results(atoms, fresh)
        np.testing.assert_allclose(found["forces"], expected["forces"], atol=1e-10)
        np.testing.assert_allclose(found["stress"], expected["stress"], atol=1e-10)
        assert found["energy"] == pytest.approx(expected["energy"], abs=1e-9)
    assert 0 < sum(skinned) < 8
    assert compile_count("predict") == compiled


def test_wrapping_and_another_element_are_noticed():
    calc = calculator(dtype="float64")
    atoms = crystal()
    first = results(atoms, calc)["forces"]
    atoms.positions[1] -= 2 * atoms.cell[0] + atoms.cell[2]
    np.testing.assert_allclose(results(atoms, calc)["forces"], first, atol=1e-10)
    atoms.symbols[1] = "Br"
    assert np.abs(results(atoms, calc)["forces"] - first).max() > 1e-3


def test_the_bucket_does_not_shrink_for_a_few_edges():
    calc = calculator()
    atoms = bulk("Cu") * 2
    dense = atoms.copy()
    dense.set_cell(dense.cell * 0.9, scale_atoms=True)
    assert len(graph_of(atoms).receivers) <= 416 < len(graph_of(dense).receivers)
    results(dense, calc)
    capacity = calc._capacity
    results(atoms, calc)
    assert calc._capacity == capacity
    results(crystal(), calc)  # another structure starts anew
    assert calc._capacity.edges < capacity.edges


def test_float32_far_from_the_origin():
    near, far = crystal(), crystal()
    far.positions += 1000
    far.positions[1] += 300 * far.cell[1]
    a, b = results(near, calculator()), results(far, calculator())
    np.testing.assert_allclose(a["forces"], b["forces"], atol=2e-6)
    assert a["energy"] == pytest.approx(b["energy"], abs=1e-6)


def test_dtypes_side_by_side():
    single, double = results(crystal(), calculator()), results(crystal(), calculator(dtype="float64"))
    assert 0 < abs(single["energy"] - double["energy"]) < 1e-5
    assert single["forces"].dtype == double["forces"].dtype == np.float64


def test_calculators_share_compiled_functions():
    results(crystal(), calculator())
    before = compile_count("predict")
    other = dataclasses.replace(POTENTIAL, shift=np.asarray(POTENTIAL.shift) + 1)
    energy = results(crystal(), M3PotCalculator(other))["energy"]
    assert compile_count("predict") == before
    assert energy == pytest.approx(results(crystal(), calculator())["energy"] + 2, abs=1e-5)


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_are_independent(clone):
    calc = calculator(dtype="float64", skin=0.3)
    first = results(crystal(), calc)["energy"]
    twin = clone(calc)
    assert (twin.dtype, twin.skin) == ("float64", 0.3)
    assert results(crystal(), twin)["energy"] == first
    results(bulk("Cu"), twin)
    assert calc.results["energy"] == first


def test_threads_may_share_a_calculator():
    calc = calculator(dtype="float64")
    table = [atoms for atoms in structures().values() if len(atoms) < 5]
    expected = [results(atoms, calc)["energy"] for atoms in table]

    def energy(k: int) -> float:
        atoms = table[k].copy()
        atoms.calc = calc
        return atoms.get_potential_energy()

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(energy, [*range(len(table))] * 8))
    np.testing.assert_allclose(found, expected * 8, atol=1e-10)


def test_results_are_cached(lists):
    atoms = crystal()
    atoms.calc = calculator()
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    forces[:] = 0  # the caller's copy
    assert np.abs(atoms.get_forces()).max() > 0
    assert atoms.get_potential_energy() == energy
    assert len(lists) == 1


def test_a_result_that_is_not_finite_is_an_error():
    shift = np.array(POTENTIAL.shift)
    shift[11] = np.nan
    atoms = crystal()
    atoms.calc = M3PotCalculator(dataclasses.replace(POTENTIAL, shift=shift))
    with pytest.raises(CalculationFailed, match="NaN or infinity for NaCl"):
        atoms.get_potential_energy()
    atoms.symbols[:] = "Cl"
    assert np.isfinite(atoms.get_potential_energy())


def test_bad_structures_are_refused():
    calc = calculator()
    atoms = crystal()
    results(atoms, calc)
    atoms.positions[0, 0] = np.nan
    with pytest.raises(StructureError, match="NaN"):
        results(atoms, calc)
    with pytest.raises(StructureError, match="Fm"):
        results(Atoms("Fm"), calc)


@pytest.mark.parametrize(
    "options", [{"skin": -1}, {"dtype": "float16"}, {"precision": "best"}, {"device": "abacus"}, {"device": "cpu:99"}]
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match="Expected"):
        calculator(**options)


def test_a_named_device():
    assert results(crystal(), calculator(device="cpu"))["energy"] == results(crystal(), calculator())["energy"]


def test_a_thousand_crystals_need_few_shapes(shared_data):
    """At most 12 compilations for 1000 random crystals: one for each rung of the ladder that they use."""
    with gzip.open(shared_data("structures/pool.extxyz.gz"), "rt") as file:
        text = file.readlines()
    starts, line = [], 0
    while line < len(text):
        starts.append(line)
        line += int(text[line]) + 2
    chosen = np.random.default_rng(0).choice(len(starts), 1000, replace=False)
    frames = "".join("".join(text[starts[k] : starts[k] + int(text[starts[k]]) + 2]) for k in chosen)
    shapes = {sizes_for(*sizes(graph_of(atoms))) for atoms in ase.io.iread(io.StringIO(frames), ":", format="extxyz")}
    assert 8 <= len(shapes) <= 12
