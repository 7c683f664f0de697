"""The batched relaxation: equal to one by one, to ASE, and within its constraints."""

import numpy as np
import pytest
from ase.constraints import FixAtoms, FixCartesian, FixedLine

from m3pot.calculator import M3PotCalculator
from m3pot.relaxation import MINIMIZERS, Options, Relaxer, iter_relax, relax
from m3pot.relaxation.ase_route import relax_with_ase
from m3pot.units import GPA
from tests.relaxation.helpers import distorted, morse, problems

TIGHT = dict(fmax=1e-4, smax=1e-6, steps=400, dtype="float64", max_edges=1024)  # one shape: one compilation


@pytest.fixture(scope="module")
def together():
    results = relax(problems().values(), morse(), **TIGHT)
    return dict(zip(problems(), results, strict=True))


def test_everything_converges_and_says_so(together):
    for name, result in together.items():
        assert result.status == "converged", (name, result)
        assert result.fmax < 1e-4
        assert result.smax < 1e-6
        forces = result.atoms.get_forces()
        assert result.fmax == pytest.approx(np.linalg.norm(forces, axis=1).max(), rel=1e-6)


def test_results_are_those_of_the_calculator(together):
    calculator = M3PotCalculator(morse(), dtype="float64")
    for result in together.values():
        atoms = result.atoms.copy()
        atoms.calc = calculator
        assert atoms.get_potential_energy() == pytest.approx(result.energy, abs=1e-9)
        np.testing.assert_allclose(atoms.get_forces(), result.atoms.get_forces(), atol=1e-8)


@pytest.mark.parametrize("name", ["oxide", "layer"])
def test_neighbours_in_the_batch_change_nothing(together, name):
    (alone,) = relax(problems()[name], morse(), **TIGHT)
    assert alone.steps == together[name].steps
    assert alone.energy == pytest.approx(together[name].energy, abs=1e-10)
    np.testing.assert_allclose(alone.atoms.positions, together[name].atoms.positions, atol=1e-9)
    np.testing.assert_allclose(alone.atoms.cell.array, together[name].atoms.cell.array, atol=1e-9)


def test_what_is_not_periodic_is_not_strained(together):
    before, after = problems()["layer"], together["layer"].atoms
    np.testing.assert_allclose(after.cell[2], before.cell[2], atol=1e-12)
    assert abs(after.cell[0, 0] - before.cell[0, 0]) > 1e-3
    np.testing.assert_array_equal(together["molecule"].atoms.cell.array, 0)


@pytest.mark.parametrize("cell", ["free", "fixed", "isotropic", "shape"])
def test_fire_takes_the_steps_of_ase(cell):
    """Same constants, same coordinates: the path is ASE's to rounding, and turns the crystal as ASE's does."""
    atoms = distorted(problems()["oxide"], 8)
    options = dict(cell=cell, minimizer="fire", steps=30, fmax=1e-9, smax=1e-9, pressure=2 * GPA, dtype="float64")
    (ours,) = relax(atoms, morse(), **options)
    theirs = relax_with_ase(atoms, M3PotCalculator(morse(), dtype="float64"), Options(**options))
    assert ours.steps == theirs.steps == 30
    np.testing.assert_allclose(ours.atoms.positions, theirs.atoms.positions, atol=1e-8)
    np.testing.assert_allclose(ours.atoms.cell.array, theirs.atoms.cell.array, atol=1e-8)
    assert np.linalg.norm(ours.atoms.positions - atoms.positions) > 0.1


@pytest.mark.parametrize("cell", ["free", "isotropic", "shape"])
def test_ends_where_ase_ends(cell):
    atoms, options = problems()["alloy"], dict(cell=cell, pressure=2 * GPA)
    (ours,) = relax(atoms, morse(), **TIGHT | options)
    limits = Options(fmax=1e-3, smax=1e-5, steps=400, minimizer="fire", dtype="float64", **options)
    theirs = relax_with_ase(atoms, M3PotCalculator(morse(), dtype="float64"), limits)
    assert ours.status == theirs.status == "converged"
    assert ours.energy == pytest.approx(theirs.energy, abs=1e-4)
    assert ours.volume_change == pytest.approx(theirs.volume_change, abs=1e-3)
    assert ours.steps < theirs.steps


def test_shape_keeps_the_volume_and_volume_keeps_the_shape():
    atoms = problems()["alloy"]
    (shape,) = relax(atoms, morse(), **TIGHT | dict(cell="shape"))
    assert shape.atoms.cell.volume == pytest.approx(atoms.cell.volume, rel=1e-10)
    (volume,) = relax(atoms, morse(), **TIGHT | dict(cell="volume"))
    assert volume.converged
    assert abs(volume.volume_change) > 0.01
    np.testing.assert_allclose(volume.atoms.get_scaled_positions(), atoms.get_scaled_positions(), atol=1e-10)
    np.testing.assert_allclose(volume.atoms.cell.angles(), atoms.cell.angles(), atol=1e-8)


def test_mask_holds_the_other_strains():
    atoms = distorted(problems()["alloy"], 8, strain=0)
    (result,) = relax(atoms, morse(), **TIGHT | dict(mask=[False, False, True, False, False, False]))
    deformation = np.linalg.solve(atoms.cell.array, result.atoms.cell.array)
    assert abs(deformation[2, 2] - 1) > 1e-3
    deformation[2, 2] = 1
    np.testing.assert_allclose(deformation, np.eye(3), atol=1e-12)


def test_fixed_atoms_keep_their_fractional_coordinates():
    atoms = problems()["oxide"]
    atoms.set_constraint([FixAtoms([0, 3]), FixCartesian(5, mask=(False, False, True))])
    (result,) = relax(atoms, morse(), **TIGHT | dict(cell="fixed"))
    moved = np.abs(result.atoms.positions - atoms.positions)
    np.testing.assert_allclose(moved[[0, 3]], 0, atol=1e-12)
    assert moved[5, 2] < 1e-12 < moved[5, 0]
    assert result.converged


def test_other_constraints_are_refused_with_the_remedy():
    atoms = problems()["oxide"]
    atoms.set_constraint(FixedLine(0, (1, 0, 0)))
    (result,) = relax(atoms, morse(), **TIGHT)
    assert result.status == "failed"
    assert "--engine ase" in result.reason


def test_pressure_shrinks_and_the_stress_balances_it():
    atoms = problems()["oxide"]
    (result,) = relax(atoms, morse(), **TIGHT | dict(pressure=5 * GPA))
    np.testing.assert_allclose(result.atoms.get_stress(), -5 * GPA * np.array([1, 1, 1, 0, 0, 0]), atol=2e-6)


def test_order_of_the_stream_is_free_but_complete():
    stream = ((index, atoms) for index, atoms in enumerate(problems().values()))
    options = Options(**TIGHT)
    assert sorted(result.index for result in iter_relax(stream, morse(), options)) == list(range(len(problems())))


def test_trajectory_holds_every_evaluation_and_relaxer_answers_like_matgl():
    relaxer = Relaxer(morse(), optimizer="FIRE", dtype="float64")
    result = relaxer.relax(problems()["alloy"], fmax=0.05, steps=4)
    assert len(result["trajectory"]) == result.steps + 1 == 5
    first, last = result.trajectory[0], result.trajectory[-1]
    np.testing.assert_allclose(first.positions, problems()["alloy"].positions, atol=1e-10)
    np.testing.assert_allclose(last.positions, result.atoms.positions, atol=1e-10)
    assert last.get_potential_energy() == pytest.approx(result["energy"])
    assert result["final_structure"].num_sites == 2
    assert result["converged"] is False


def test_impossible_choices_are_refused():
    with pytest.raises(ValueError, match="Expected cell"):
        relax([], morse(), cell="hexagonal")
    with pytest.raises(ValueError, match="lbfgs, fire"):
        relax([], morse(), minimizer="newton")
    with pytest.warns(UserWarning, match="16 GPa"):
        relax([], morse(), smax=0.1)
    assert set(MINIMIZERS) == {"lbfgs", "fire"}
