import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from m3pot.properties.eos import BirchMurnaghan, eos, fit_birch_murnaghan, scaled
from m3pot.units import GPA
from tests.helpers import random_potential


def test_the_fit_recovers_a_curve():
    curve = BirchMurnaghan(41.3, -7.5, 95 * GPA, 4.7)
    found = fit_birch_murnaghan(*[(v := np.linspace(37, 44, 9)), curve.energies(v)])
    np.testing.assert_allclose(found, curve, rtol=1e-7)


def test_the_minimum_has_the_stated_curvature_and_its_derivative():
    curve, h = BirchMurnaghan(20.0, 3.0, 0.7, 5.2), 0.02
    v = 20.0 + h * np.arange(-3, 4)
    e = curve.energies(v)
    assert e.argmin() == 3
    second = (e[2] - 2 * e[3] + e[4]) / h**2
    third = (e[5] - 2 * e[4] + 2 * e[2] - e[1]) / (2 * h**3)
    np.testing.assert_allclose(20.0 * second, 0.7, rtol=1e-4)  # B = V E''
    np.testing.assert_allclose(-1 - 20.0 * third / second, 5.2, rtol=1e-3)  # B1 = -1 - V E''' / E''


def test_no_minimum():
    with pytest.raises(ValueError, match="no minimum"):
        fit_birch_murnaghan(np.linspace(9, 11, 7), np.linspace(9, 11, 7) ** -3.0)


def test_a_calculator_and_its_pressure():
    (found,) = eos(bulk("Cu"), EMT(), points=9, strain=0.04)
    assert found.inside
    assert 11.0 < found.fit.volume < 12.0
    slope = -np.gradient(found.energies, found.volumes)
    np.testing.assert_allclose(found.pressures[2:-2], slope[2:-2], atol=0.01)
    assert found.summary()["B0_GPa"] == pytest.approx(found.fit.bulk_modulus / GPA)


def test_a_calculator_that_shares_no_class_with_those_of_ase():
    class Foreign:
        def __init__(self):
            for name in ("get_potential_energy", "get_forces", "get_stress"):
                setattr(self, name, getattr(EMT(), name))

    crystal = bulk("Cu", a=3.6)
    (found,), (known,) = (eos([crystal], calculator) for calculator in (Foreign(), EMT()))
    np.testing.assert_allclose(found.energies, known.energies)


def test_relaxed_ions_lie_below():
    atoms = bulk("Cu", cubic=True)
    atoms[0].position += 0.15
    (stiff,), (soft,) = (eos(atoms, EMT(), relax=relax) for relax in ("none", "ions"))
    assert (soft.energies < stiff.energies - 1e-3).all()


def test_a_potential_in_one_batch_with_a_crystal_that_fails():
    crystals = [bulk("Si"), bulk("Pu", "fcc", a=4.3), bulk("NaCl", "rocksalt", a=5.6)]
    crystals[1].numbers[:] = 99
    seen = []
    first, second, third = eos(crystals, random_potential("matgl", units=4, blocks=1), progress=seen.append)
    assert "does not know" in second.reason
    assert second.summary()["status"] == "failed"
    assert np.isfinite(first.energies).all()
    assert np.isfinite(third.energies).all()
    assert sum(seen) == 21
    slope = -np.gradient(first.energies, first.volumes)
    np.testing.assert_allclose(first.pressures[1:-1], slope[1:-1], atol=0.1 * np.abs(slope).max())


def test_scaling_keeps_fractions():
    atoms = bulk("GaAs", "zincblende", a=5.6)
    bigger = scaled(atoms, 1.1 * atoms.cell.volume)
    np.testing.assert_allclose(bigger.get_scaled_positions(), atoms.get_scaled_positions(), atol=1e-12)
    assert bigger.cell.volume == pytest.approx(1.1 * atoms.cell.volume)


def test_a_molecule_has_none():
    with pytest.raises(ValueError, match="needs a crystal"):
        eos(molecule("H2O"), EMT())
