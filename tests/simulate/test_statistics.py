"""Ensembles against exact statistics, within five standard errors taken from independent replicas."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from scipy.interpolate import CubicSpline

from m3pot.potential import predict
from m3pot.simulate import md
from m3pot.structure import from_ase
from m3pot.units import BOLTZMANN, GPA
from tests.simulate.helpers import MORSE, Free, Morse, copper, potential

pytestmark = pytest.mark.physics


def assert_mean(samples: np.ndarray, expected: float, sigmas: float = 5.0) -> None:
    """``samples`` (rows, replicas): the mean over all agrees with theory, the error being that over replicas."""
    means = samples.mean(axis=0)
    error = means.std(ddof=1) / np.sqrt(len(means))
    assert abs(means.mean() - expected) < sigmas * error, f"{means.mean()} +- {error}, expected {expected}"
    assert error < 0.05 * abs(expected), "too few samples to tell"


@pytest.mark.parametrize("thermostat", ["langevin", "csvr", "nose-hoover"])
def test_kinetic_energy_has_the_canonical_distribution(thermostat):
    """2K/kT is chi-square with 3N-3 degrees of freedom: mean 9 and variance 18 for four atoms."""
    options = {"thermostat": thermostat, "thermostat_time": 30.0, "temperature": 400, "replicas": 48}
    log = md(copper(1), MORSE, **options, steps=3000, every=3000, log_every=20, dtype="float64").log
    x = 2 * log["kinetic"][50:] / (BOLTZMANN * 400)
    assert_mean(x, 9)
    assert_mean((x - 9) ** 2, 18)
    assert_mean(log["temperature"][50:], 400)


def test_ideal_gas_at_constant_pressure():
    """Eight atoms with their centre of mass fixed: p(V) ~ V^7 exp(-PV/kT), mean 8 kT/P, variance 8 (kT/P)^2."""
    kT = BOLTZMANN * 300
    atoms = Atoms("He8", positions=np.random.default_rng(0).uniform(0, 6, (8, 3)), cell=np.eye(3) * 6, pbc=True)
    pressure = 8 * kT / 216.0
    baths = {"pressure": pressure, "pressure_time": 150.0, "bulk_modulus": pressure, "thermostat_time": 30.0}
    options = {"ensemble": "npt", "cell": "isotropic", "timestep": 2.0, "replicas": 48, "dtype": "float64", "skin": 3.0}
    log = md(atoms, potential(Free(cutoff=0.2)), **baths, **options, steps=3000, every=3000, log_every=20).log
    x = log["volume"][25:] * pressure / kT
    assert_mean(x, 8)
    assert_mean((x - 8) ** 2, 8)
    assert_mean(2 * log["kinetic"][25:] / kT, 21)


def test_one_atom_in_a_cell_has_the_exact_volume_distribution():
    """p(V) ~ exp(-(E(V) + PV)/kT) by quadrature: what the barostat alone must sample."""
    atoms, temperature, pressure = bulk("Cu", a=3.7), 600.0, 2 * GPA
    model = potential(Morse(cutoff=4.5))
    scaled, coarse = atoms.copy(), []
    stretch = np.linspace(0.7, 1.3, 61)  # beyond which nothing is left of the distribution
    for factor in stretch:
        scaled.set_cell(atoms.cell * factor, True)
        coarse.append(float(predict(model, from_ase(scaled, model.cutoff)).energy[0]))
    volumes = np.linspace(0.7, 1.3, 2001) ** 3 * atoms.get_volume()
    enthalpies = CubicSpline(stretch**3 * atoms.get_volume(), coarse)(volumes) + pressure * volumes
    weights = np.exp(-(enthalpies - enthalpies.min()) / (BOLTZMANN * temperature))
    weights *= np.gradient(volumes)
    weights /= weights.sum()
    assert max(weights[0], weights[-1]) < 1e-8
    mean = (weights * volumes).sum()
    spread = (weights * (volumes - mean) ** 2).sum()
    options = {"ensemble": "npt", "cell": "isotropic", "temperature": temperature, "pressure": pressure}
    baths = {"bulk_modulus": 40 * GPA, "pressure_time": 100.0, "replicas": 32, "dtype": "float64", "skin": 1.0}
    log = md(atoms, model, **options, **baths, steps=4000, every=4000, log_every=10).log
    assert_mean(log["volume"][50:], mean)
    assert_mean((log["volume"][50:] - mean) ** 2, spread)


CRYSTAL = {"temperature": 300.0, "replicas": 32, "timestep": 3.0, "thermostat_time": 60.0, "dtype": "float64"}
CRYSTAL |= {"steps": 2000, "every": 2000, "log_every": 10}
PRESSURE = 3 * GPA


def crystal(volume: float) -> Atoms:
    atoms = copper(1, rattle=0)
    atoms.set_cell(np.eye(3) * np.cbrt(volume), True)
    return atoms


@pytest.mark.parametrize("cell", ["anisotropic", "free"])
def test_virial_theorem_of_the_cell(cell):
    """<(P_int - P) V> = -kT for every kind of cell, by partial integration of the distribution."""
    log = md(crystal(48.0), MORSE, ensemble="npt", cell=cell, pressure=PRESSURE, pressure_time=300.0, **CRYSTAL).log
    kT = BOLTZMANN * 300
    means = ((log["pressure"] - PRESSURE) * log["volume"])[50:].mean(axis=0)
    error = means.std(ddof=1) / np.sqrt(len(means))
    assert abs(means.mean() + kT) < 5 * error
    assert error < 0.5 * GPA * log["volume"].mean()
    assert_mean(2 * log["kinetic"][50:] / kT, 9)


def test_mean_volume_agrees_with_the_equation_of_state():
    """Pressures measured at fixed volumes around the mean NPT volume return the pressure asked for.

    p(V) ~ exp(-(A(V) + PV)/kT) has its mean where the pressure p = -dA/dV is P + kT p'' / (2 p') to second order.
    """
    npt = md(crystal(48.0), MORSE, ensemble="npt", cell="isotropic", pressure=PRESSURE, pressure_time=300.0, **CRYSTAL)
    volumes = npt.log["volume"][50:].mean(axis=0)
    volume, error = volumes.mean(), volumes.std(ddof=1) / np.sqrt(len(volumes))
    scan = []
    for v in volume * np.array([0.96, 1.0, 1.04]):
        measured = md(crystal(v), MORSE, ensemble="nvt", **CRYSTAL).log["pressure"][50:].mean(axis=0)
        scan.append((v, measured.mean(), measured.std(ddof=1) / np.sqrt(len(measured))))
    v, p, dp = np.array(scan).T
    slope = np.polyfit(v, p, 1)[0]
    expected = PRESSURE + BOLTZMANN * 300 * np.polyfit(v, p, 2)[0] / slope
    tolerance = 5 * np.hypot(dp[1], slope * error)
    assert abs(p[1] - expected) < tolerance
    assert tolerance < -0.01 * slope * volume  # one per cent of the bulk modulus
