"""Ensembles against exact statistics, within five standard errors taken from independent replicas.

Each comparison states how small the error must be, so that it tells theory from the mistakes that are likely.
"""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from m3pot.simulate import md
from m3pot.units import BOLTZMANN, GPA
from tests.simulate.helpers import MORSE, Free, Morse, copper, potential

pytestmark = pytest.mark.physics


def mean_and_error(samples: np.ndarray) -> tuple[float, float]:
    """Of ``samples`` (rows, replicas), the error being that over replicas."""
    means = samples.mean(axis=0)
    return means.mean(), means.std(ddof=1) / np.sqrt(len(means))


def assert_mean(samples: np.ndarray, expected: float, resolution: float) -> None:
    """The mean agrees with theory within five standard errors, and one is below ``resolution``."""
    mean, error = mean_and_error(samples)
    assert abs(mean - expected) < 5 * error, f"{mean} +- {error}, expected {expected}"
    assert error < resolution, f"an error of {error} is too large to tell"


@pytest.mark.parametrize("thermostat", ["langevin", "csvr", "nose-hoover"])
def test_kinetic_energy_has_the_canonical_distribution(thermostat):
    """2K/kT is chi-square with 3N-3 degrees of freedom: mean 9 and variance 18 for four atoms."""
    options = {"thermostat": thermostat, "thermostat_time": 30.0, "temperature": 400, "replicas": 48}
    log = md(copper(1), MORSE, **options, steps=3000, every=3000, log_every=20, dtype="float64").log
    x = 2 * log["kinetic"][50:] / (BOLTZMANN * 400)
    assert_mean(x, 9, 0.2)  # 3N degrees of freedom: 12
    assert_mean((x - 9) ** 2, 18, 1.0)
    assert_mean(log["temperature"][50:], 400, 8)


def test_ideal_gas_at_constant_pressure():
    """Eight atoms with their centre of mass fixed: p(V) ~ V^7 exp(-PV/kT), mean 8 kT/P, variance 8 (kT/P)^2."""
    kT = BOLTZMANN * 300
    atoms = Atoms("He8", positions=np.random.default_rng(0).uniform(0, 6, (8, 3)), cell=np.eye(3) * 6, pbc=True)
    pressure = 8 * kT / 216.0
    baths = {"pressure": pressure, "pressure_time": 150.0, "bulk_modulus": pressure, "thermostat_time": 30.0}
    options = {"ensemble": "npt", "cell": "isotropic", "timestep": 2.0, "replicas": 48, "dtype": "float64", "skin": 3.0}
    log = md(atoms, potential(Free(cutoff=0.2)), **baths, **options, steps=3000, every=3000, log_every=20).log
    x = log["volume"][25:] * pressure / kT
    assert_mean(x, 8, 0.15)  # dV / V or V dV: 7 or 9
    assert_mean((x - 8) ** 2, 8, 0.8)
    assert_mean(2 * log["kinetic"][25:] / kT, 21, 0.2)


def morse_energies(cells: np.ndarray, model: Morse) -> np.ndarray:
    """Energy (eV) of one atom in each cell (k, 3, 3), by the formula."""
    images = np.stack(np.meshgrid(*3 * [np.arange(-4, 5)], indexing="ij"), -1).reshape(-1, 3)
    images = images[images.any(axis=1)]
    energies = []
    for part in np.array_split(cells, -(-len(cells) // 1000)):
        r = np.sqrt(((images @ part) ** 2).sum(-1))
        x, s = np.exp(-model.alpha * (r - model.distance)), np.clip((r / model.cutoff - 0.7) / 0.3, 0, 1)
        energies.append((model.depth * (x * x - 2 * x) * (1 - s**3 * (10 - 15 * s + 6 * s**2))).sum(-1) / 2)
    return np.concatenate(energies)


@pytest.mark.parametrize("cell", ["isotropic", "anisotropic"])
def test_one_atom_in_a_cell_has_the_exact_volume_distribution(cell):
    """exp(-(E + PV)/kT) dV, or da db dc for three lengths, by quadrature: what the barostat alone must sample."""
    atoms, temperature, pressure, model = bulk("Cu", a=3.25), 600.0, 2 * GPA, Morse(cutoff=4.5)
    if cell == "isotropic":
        stretch = np.linspace(0.75, 1.5, 2001)[:, None] * np.ones(3)
        weights = stretch[:, 0] ** 2
    else:
        stretch = np.stack(np.meshgrid(*3 * [np.linspace(0.68, 1.6, 37)], indexing="ij"), -1).reshape(-1, 3)
        weights = np.ones(len(stretch))
    volumes = stretch.prod(axis=1) * atoms.get_volume()
    enthalpies = morse_energies(stretch[:, :, None] * atoms.cell.array, model) + pressure * volumes
    weights = weights * np.exp(-(enthalpies - enthalpies.min()) / (BOLTZMANN * temperature))
    weights /= weights.sum()
    edge = (stretch == stretch.min()).any(axis=1) | (stretch == stretch.max()).any(axis=1)
    assert weights[edge].sum() < 1e-5
    mean = (weights * volumes).sum()
    spread = (weights * (volumes - mean) ** 2).sum()
    options = {"ensemble": "npt", "cell": cell, "temperature": temperature, "pressure": pressure}
    baths = {"bulk_modulus": 40 * GPA, "pressure_time": 100.0, "replicas": 64, "dtype": "float64", "skin": 1.0}
    log = md(atoms, potential(model), **options, **baths, steps=4000, every=4000, log_every=10).log
    assert_mean(log["volume"][50:], mean, spread / mean / 6)  # another power of V: spread / mean
    assert_mean((log["volume"][50:] - mean) ** 2, spread, 0.03 * spread)


CRYSTAL = {"temperature": 300.0, "replicas": 64, "timestep": 3.0, "thermostat_time": 60.0, "dtype": "float64"}
CRYSTAL |= {"steps": 2000, "every": 2000, "log_every": 10}
PRESSURE = 3 * GPA


def crystal(volume: float) -> Atoms:
    atoms = copper(1, rattle=0)
    atoms.set_cell(np.eye(3) * np.cbrt(volume), True)
    return atoms


@pytest.mark.parametrize("cell", ["anisotropic", "free"])
def test_virial_theorem_of_the_cell(cell):
    """<(P_int - P) V> = -kT for every kind of cell, by partial integration of the distribution.

    The average of the barostat's drive has an error that falls with the inertia of the cell: it is made light.
    """
    light = {"bulk_modulus": 3 * GPA, "pressure_time": 100.0, "timestep": 1.0, "temperature": 600.0, "steps": 3000}
    log = md(crystal(48.0), MORSE, ensemble="npt", cell=cell, pressure=PRESSURE, skin=1.2, **CRYSTAL | light).log
    kT = BOLTZMANN * 600
    assert_mean(((log["pressure"] - PRESSURE) * log["volume"])[50:], -kT, kT / 6)
    assert_mean(2 * log["kinetic"][50:] / kT, 9, 0.2)


def test_mean_volume_agrees_with_the_equation_of_state():
    """Pressures measured at fixed volumes around the mean NPT volume return the pressure asked for.

    p(V) ~ exp(-(A(V) + PV)/kT) has its mean where the pressure p = -dA/dV is P + kT p'' / (2 p') to second order.
    """
    npt = md(crystal(48.0), MORSE, ensemble="npt", cell="isotropic", pressure=PRESSURE, pressure_time=300.0, **CRYSTAL)
    volume, error = mean_and_error(npt.log["volume"][50:])
    scan = []
    for v in volume * np.array([0.96, 1.0, 1.04]):
        scan.append((v, *mean_and_error(md(crystal(v), MORSE, ensemble="nvt", **CRYSTAL).log["pressure"][50:])))
    v, p, dp = np.array(scan).T
    slope = np.polyfit(v, p, 1)[0]
    expected = PRESSURE + BOLTZMANN * 300 * np.polyfit(v, p, 2)[0] / slope
    tolerance = 5 * np.hypot(dp[1], slope * error)
    assert abs(p[1] - expected) < tolerance
    assert tolerance < -0.003 * slope * volume  # 0.3 % of the volume
