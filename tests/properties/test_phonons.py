import importlib.util

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from m3pot.properties.phonons import hessian_force_constants, phonons
from m3pot.properties.points import evaluate
from tests.helpers import random_potential

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
QUICK = {"mesh": 15.0, "band_points": 11}


@pytest.fixture(scope="module")
def copper():
    pytest.importorskip("phonopy")
    return phonons(bulk("Cu"), EMT(), supercell=(4, 4, 4), **QUICK)


def test_copper_is_stable_and_has_three_acoustic_branches(copper):
    assert copper.stable
    assert copper.imaginary == 0
    assert copper.evaluations == 1  # symmetry needs one displacement
    assert 5 < copper.highest < 12  # THz
    gamma = copper.band_frequencies[0][0]
    assert copper.band_labels[0][0] == "$\\Gamma$" or "GAMMA" in copper.band_labels[0][0].upper()
    np.testing.assert_allclose(gamma, 0, atol=1e-3)


def test_thermodynamics(copper):
    assert copper.at(copper.heat_capacity, 1000) == pytest.approx(3 * 8.314, rel=0.01)  # Dulong and Petit
    assert copper.at(copper.heat_capacity, 20) < 1.0
    slope = -np.gradient(copper.free_energy * 1000, copper.temperatures)
    np.testing.assert_allclose(copper.entropy[15:-5], slope[15:-5], rtol=0.01)  # below, 10 K is a long step
    width = np.diff(copper.dos_frequencies).mean()
    assert copper.dos.sum() * width == pytest.approx(3, rel=0.03)


def test_an_unstable_crystal_is_seen():
    found = phonons(bulk("Cu", "bcc", a=2.85), EMT(), supercell=(3, 3, 3), relax=False, **QUICK)
    assert not found.stable
    assert found.imaginary > 0
    assert found.lowest < -0.1


def test_the_analytic_hessian_is_the_slope_of_the_forces():
    potential = random_potential("matgl", units=4, blocks=1)
    atoms = bulk("GaAs", "zincblende", a=5.5) * (1, 1, 2)
    atoms.rattle(0.05, seed=1)
    constants = hessian_force_constants(potential, atoms)
    np.testing.assert_allclose(constants, constants.transpose(1, 0, 3, 2), atol=1e-9)
    h, moved = 1e-3, []
    for k in (0, 3):
        for sign in (1, -1):
            moved.append(atoms.copy())
            moved[-1].positions[k, 1] += sign * h
    forces = [point.calc.results["forces"] for point in evaluate(moved, potential)]
    for n, k in enumerate((0, 3)):
        slope = -(forces[2 * n] - forces[2 * n + 1]) / (2 * h)
        np.testing.assert_allclose(constants[:, k, :, 1], slope, atol=1e-5 * np.abs(constants).max())


def test_both_methods_agree():
    pytest.importorskip("phonopy")
    potential = random_potential("matgl", units=4, blocks=1)
    crystal = bulk("GaAs", "zincblende", a=5.5)
    more = {"supercell": (2, 1, 1), "relax": False, "displacement": 0.002, **QUICK}
    moved = phonons(crystal, potential, **more)
    exact = phonons(crystal, potential, method="hessian", **more)
    assert exact.evaluations == 0
    top = np.abs(exact.frequencies).max()
    np.testing.assert_allclose(moved.frequencies, exact.frequencies, atol=2e-3 * top)


def test_phonopy_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"m3pot\[phonons\]"):
        phonons(bulk("Cu"), EMT())


def test_impossible_choices():
    pytest.importorskip("phonopy")
    with pytest.raises(ValueError, match="supercell"):
        phonons(bulk("Cu"), EMT(), supercell=(2, 0, 2), relax=False)
    with pytest.raises(ValueError, match="needs a potential"):
        phonons(bulk("Cu"), EMT(), supercell=(1, 1, 1), relax=False, method="hessian")
