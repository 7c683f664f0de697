"""Laws of the integrators: order of convergence, reversibility, invariants, degrees of freedom."""

import jax
import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms
from ase.md.verlet import VelocityVerlet
from ase.units import fs

from m3pot.calculator import M3PotCalculator
from m3pot.execution import compile_count, numerics
from m3pot.simulate import md, thermostats
from m3pot.units import BOLTZMANN, FEMTOSECOND, GPA
from tests.simulate.helpers import MORSE, copper

METHODS = {
    "nve": {"ensemble": "nve"},
    "langevin": {"ensemble": "nvt"},
    "nose-hoover": {"ensemble": "nvt", "thermostat": "nose-hoover"},
    "isotropic": {"ensemble": "npt", "cell": "isotropic", "thermostat": "nose-hoover"},
    "anisotropic": {"ensemble": "npt", "cell": "anisotropic", "thermostat": "csvr", "pressure": 2 * GPA},
    "free": {"ensemble": "npt", "pressure": 1 * GPA},
}
QUICK = {"steps": 40, "dtype": "float64", "every": 1000, "log_every": 1000, "pressure_time": 300.0}


def fluctuation(method: str, timestep: float) -> float:
    """Spread of the conserved quantity in meV/atom over 200 fs, mean of 16 replicas."""
    atoms, steps = copper(1, skewed=True), round(200 / timestep)
    options = {
        **METHODS[method],
        "timestep": timestep,
        "steps": steps,
        "every": steps,
        "log_every": round(8 / timestep),
    }
    run = md(atoms, MORSE, **options, replicas=16, dtype="float64", pressure_time=300.0)
    for one in run.atoms:
        np.testing.assert_allclose(one.get_center_of_mass(), atoms.get_center_of_mass(), atol=1e-10)
    assert run.status == "done"
    return 1e3 * run.log["conserved"].std(axis=0).mean() / 4


@pytest.mark.parametrize("method", METHODS)
def test_conserved_quantity_is_second_order_and_the_centre_of_mass_rests(method):
    coarse, fine = fluctuation(method, 4.0), fluctuation(method, 2.0)
    assert 3.3 < coarse / fine < 5
    assert fine < 0.1


def test_nve_is_velocity_verlet_of_ase():
    atoms = copper(1)
    atoms.set_momenta(np.random.default_rng(0).normal(size=(4, 3)))
    run = md(atoms, MORSE, ensemble="nve", fix_com=False, **QUICK)
    atoms.calc = M3PotCalculator(MORSE, dtype="float64")
    VelocityVerlet(atoms, 1.0 * fs).run(QUICK["steps"])
    np.testing.assert_allclose(run.atoms[0].positions, atoms.positions, atol=1e-10)
    np.testing.assert_allclose(run.atoms[0].get_momenta(), atoms.get_momenta(), atol=1e-10)
    np.testing.assert_allclose(run.atoms[0].get_stress(), atoms.get_stress(), atol=1e-10)


def test_nve_runs_backwards():
    atoms = copper(1)
    there = md(atoms, MORSE, ensemble="nve", seed=1, **QUICK)
    turned = there.atoms[0].copy()
    turned.set_momenta(-turned.get_momenta())
    back = md(turned, MORSE, ensemble="nve", **QUICK).atoms[0]
    np.testing.assert_allclose(back.positions, atoms.positions, atol=1e-10)


def test_nose_hoover_chain_keeps_its_energy():
    rng = np.random.default_rng(0)
    with numerics("float64"):
        masses, kT, tau = np.full((5, 1), 30.0), np.float64(0.03), np.float64(3.0)
        momenta, chain = rng.normal(size=(5, 3)), rng.normal(0, 0.1, size=(2, 3))
        freedom = np.float64(12.0)

        def total(momenta, chain):
            return (momenta**2 / masses).sum() / 2 + thermostats.chain_energy(chain, freedom, kT, tau)

        before, errors = total(momenta, chain), []
        for time in (0.4, 0.2):
            p, c = jax.jit(thermostats.nose_hoover)(momenta, chain, masses, freedom, kT, np.float64(time), tau)
            errors.append(abs(float(total(p, c) - before)))
    assert errors[0] < 1e-4
    assert errors[0] / errors[1] > 20  # locally of fifth order


def test_fixed_atoms_stay_and_the_others_have_3n_degrees_of_freedom():
    atoms = copper(1)
    atoms.set_constraint(FixAtoms([0, 2]))
    run = md(atoms, MORSE, seed=3, **{**QUICK, "log_every": 1})
    np.testing.assert_array_equal(run.atoms[0].get_momenta()[[0, 2]], 0)
    np.testing.assert_allclose(run.atoms[0].positions[[0, 2]], atoms.positions[[0, 2]], atol=1e-12)
    assert np.abs(run.atoms[0].positions[1] - atoms.positions[1]).max() > 1e-3
    kinetic, temperature = run.log["kinetic"][-1, 0], run.log["temperature"][-1, 0]
    assert 2 * kinetic / (BOLTZMANN * temperature) == pytest.approx(6)
    with pytest.raises(ValueError, match="fix_com"):
        md(atoms, MORSE, fix_com=True)


def test_degrees_of_freedom_are_3n_minus_3_and_nve_starts_at_the_temperature():
    run = md(copper(1), MORSE, ensemble="nve", temperature=450, steps=0, dtype="float64")
    assert run.log["temperature"][0, 0] == pytest.approx(450)
    assert run.log["kinetic"][0, 0] == pytest.approx(9 * BOLTZMANN * 450 / 2)


def test_one_atom_flies_freely_through_its_images():
    atoms = Atoms("Cu", cell=[[2.4, 0, 0], [1.3, 2.2, 0], [0.2, -1.1, 2.5]], pbc=True)
    run = md(atoms, MORSE, ensemble="nve", temperature=900, **QUICK)
    speed = run.atoms[0].get_velocities()
    np.testing.assert_allclose(run.atoms[0].positions, speed * 40 * FEMTOSECOND, atol=1e-9)
    assert run.log["conserved"].std() < 1e-9
    with pytest.raises(ValueError, match="Nothing can move"):
        md(atoms, MORSE, fix_com=True)


def test_temperature_and_pressure_follow_ramps():
    ramps = {"temperature": (100.0, 900.0), "pressure": (0.0, 20 * GPA), "thermostat_time": 20.0, "pressure_time": 50.0}
    options = {"replicas": 16, "dtype": "float64", "steps": 300, "every": 300, "log_every": 300}
    before = compile_count("advance")
    log = md(copper(1, skewed=True), MORSE, **{**METHODS["isotropic"], **ramps, **options}).log
    assert compile_count("advance") - before <= 5  # while the crystal loses an eighth of its volume
    np.testing.assert_allclose(log["temperature"].mean(axis=1), [100, 900], rtol=0.3)
    np.testing.assert_allclose(log["pressure"][-1].mean() / GPA, 20, atol=3)
    assert np.ptp(log["conserved"].mean(axis=1)) < 4e-3


def test_second_call_does_not_compile():
    md(copper(1), MORSE, seed=0, **QUICK)
    before = compile_count()
    md(copper(1, seed=5), MORSE, temperature=500, timestep=0.5, seed=1, **{**QUICK, "steps": 57, "every": 13})
    assert compile_count() == before
