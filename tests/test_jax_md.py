"""The adapter in jax-md's own functions against the calculator and against our integrator."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import m3pot.jax_md
from m3pot.calculator import M3PotCalculator
from m3pot.execution import numerics
from m3pot.simulate import md
from m3pot.units import BOLTZMANN, FEMTOSECOND
from tests.helpers import random_potential, structures
from tests.simulate.helpers import MORSE, copper


@pytest.fixture(scope="module")
def jax_md():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import jax_md
    return jax_md


@pytest.fixture(autouse=True)
def double():
    with numerics("float64"):
        yield


def pieces(atoms, potential=MORSE, **options):
    neighbor_fn, energy_fn = m3pot.jax_md.neighbor_energy(potential, atoms, **options)
    box = jnp.asarray(atoms.cell.array.T)
    position = jnp.asarray(np.linalg.solve(atoms.cell.array.T, atoms.positions.T).T)
    return neighbor_fn, energy_fn, position, box


TABLE = [("dense metal", MORSE), ("one atom", MORSE), ("tiny skewed", MORSE), ("unwrapped", MORSE)]
TABLE += [("skewed", random_potential("tensorflow", "float64", blocks=1))]


@pytest.mark.parametrize(("name", "potential"), TABLE)
def test_equals_the_calculator(name, potential, jax_md):
    atoms = structures()[name]
    neighbor_fn, energy_fn, position, box = pieces(atoms, potential)
    neighbors = neighbor_fn.allocate(position)
    energy, slope = jax.value_and_grad(energy_fn)(position, neighbors)
    stress = jax_md.quantity.stress(energy_fn, position, box, neighbor=neighbors)
    atoms.calc = M3PotCalculator(potential, dtype="float64")
    np.testing.assert_allclose(energy, atoms.get_potential_energy(), rtol=1e-9)
    np.testing.assert_allclose(-slope, atoms.get_forces(), atol=1e-8)
    np.testing.assert_allclose(-stress, atoms.get_stress(voigt=False), atol=1e-9)


def test_box_and_perturbation_deform_the_crystal():
    atoms = copper(1, skewed=True)
    neighbor_fn, energy_fn, position, box = pieces(atoms)
    deform = np.eye(3) + 0.02 * np.random.default_rng(0).normal(size=(3, 3))
    atoms.calc = M3PotCalculator(MORSE, dtype="float64")
    atoms.set_cell(atoms.cell.array @ deform.T, scale_atoms=True)
    expected = atoms.get_potential_energy()
    neighbors = neighbor_fn.allocate(position)
    assert energy_fn(position, neighbors, perturbation=deform) == pytest.approx(expected, rel=1e-10)
    neighbors = neighbors.update(position, box=deform @ box)
    assert energy_fn(position, neighbors, box=deform @ box, kT=1.0) == pytest.approx(expected, rel=1e-10)
    twice = energy_fn(position, neighbor_fn.allocate(position, box=1.1 * box), box=1.1 * box)
    assert energy_fn(position, neighbors, perturbation=1.1) == pytest.approx(float(twice), rel=1e-10)


def test_cartesian_coordinates_give_the_same():
    atoms = copper(1, skewed=True)
    neighbor_fn, energy_fn, position, _ = pieces(atoms)
    fractional = jax.value_and_grad(energy_fn)(position, neighbor_fn.allocate(position))
    neighbor_fn, energy_fn = m3pot.jax_md.neighbor_energy(MORSE, atoms, fractional_coordinates=False)
    position = jnp.asarray(atoms.positions)
    cartesian = jax.value_and_grad(energy_fn)(position, neighbor_fn.allocate(position))
    for a, b in zip(fractional, cartesian, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)


def test_list_renews_itself_under_jit_and_tells_when_it_is_full():
    atoms = copper(1)
    neighbor_fn, energy_fn, position, box = pieces(atoms, skin=0.2)
    neighbors = neighbor_fn.allocate(position)
    update = jax.jit(lambda r, n: n.update(r))
    assert np.array_equal(update(position + 1e-4, neighbors).reference_position, neighbors.reference_position)
    moved = position.at[0].add(0.05)
    renewed = update(moved, neighbors)
    assert np.array_equal(renewed.reference_position, moved)
    assert energy_fn(moved, renewed) == pytest.approx(float(energy_fn(moved, neighbor_fn.allocate(moved))), rel=1e-12)
    assert not renewed.did_buffer_overflow
    assert neighbors.update(position, box=0.7 * box).did_buffer_overflow
    roomy = neighbor_fn.allocate(position, extra_capacity=1000)
    assert not roomy.update(position, box=0.7 * box).did_buffer_overflow


def test_nve_of_jax_md_is_ours(jax_md):
    atoms = copper(1, skewed=True)
    rng = np.random.default_rng(0)
    atoms.set_momenta(rng.normal(size=(4, 3)))
    ours = md(atoms, MORSE, ensemble="nve", fix_com=False, steps=40, dtype="float64").atoms[0]
    neighbor_fn, energy_fn, position, box = pieces(atoms, skin=0.3)
    _, shift = jax_md.space.periodic_general(box, fractional_coordinates=True, wrapped=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        init, apply = jax_md.simulate.nve(energy_fn, shift, FEMTOSECOND)
        neighbors = neighbor_fn.allocate(position)
        mass = jnp.asarray(atoms.get_masses())
        state = init(jax.random.key(0), position, kT=BOLTZMANN, mass=mass, neighbor=neighbors)
        state = state.set(momentum=jnp.asarray(atoms.get_momenta()))

        @jax.jit
        def run(state, neighbors):
            def step(_, carry):
                state = apply(carry[0], neighbor=carry[1])
                return state, carry[1].update(state.position)

            return jax.lax.fori_loop(0, 40, step, (state, neighbors))

        state, neighbors = run(state, neighbors)
    assert not neighbors.did_buffer_overflow
    np.testing.assert_allclose(state.position @ np.asarray(box).T, ours.positions, atol=1e-9)


@pytest.mark.parametrize("name", ["nvt_nose_hoover", "nvt_langevin", "npt_nose_hoover"])
def test_ensembles_of_jax_md_run(name, jax_md):
    atoms = copper(1)
    neighbor_fn, energy_fn, position, box = pieces(atoms)
    _, shift = jax_md.space.periodic_general(box, fractional_coordinates=True, wrapped=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kT, npt = 300 * BOLTZMANN, name.startswith("npt")
        arguments = (FEMTOSECOND, 0.0, kT) if npt else (FEMTOSECOND, kT)
        init, apply = getattr(jax_md.simulate, name)(energy_fn, shift, *arguments)
        options = {"box": box} if npt else {}
        neighbors = neighbor_fn.allocate(position)
        state = init(jax.random.key(0), position, neighbor=neighbors, mass=63.546, **options)
        step = jax.jit(apply)
        for _ in range(5):
            state = step(state, neighbor=neighbors)
            neighbors = neighbors.update(state.position, **({"box": jax_md.simulate.npt_box(state)} if npt else {}))
    assert np.isfinite(state.position).all()
    assert np.abs(state.position - position).max() > 1e-4


def test_minimize_of_jax_md(jax_md):
    atoms = copper(1, rattle=0.1)
    neighbor_fn, energy_fn, position, box = pieces(atoms)
    _, shift = jax_md.space.periodic_general(box, fractional_coordinates=True, wrapped=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        init, apply = jax_md.minimize.fire_descent(energy_fn, shift)
        neighbors = neighbor_fn.allocate(position)
        state, step = init(position, neighbor=neighbors), jax.jit(apply)
        for _ in range(60):
            state = step(state, neighbor=neighbors)
            neighbors = neighbors.update(state.position)
    assert np.abs(state.force).max() < 0.05


def test_why_the_barostat_is_our_own(jax_md):
    """An ideal gas at rest under pressure: if its centre stays, jax-md is corrected, and the docstrings must say so."""
    position = 0.5 + 0.1 * jax.random.normal(jax.random.key(1), (4, 3))
    box = 4.0 * jnp.eye(3)
    _, shift = jax_md.space.periodic_general(box, fractional_coordinates=True, wrapped=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        init, apply = jax_md.simulate.npt_nose_hoover(
            lambda r, box, **unused: 0.0 * jnp.sum(r) * box[0, 0], shift, FEMTOSECOND, 0.1, 300 * BOLTZMANN
        )
        state = init(jax.random.key(0), position, box=box, mass=63.546)
        state = jax.jit(lambda s: jax.lax.fori_loop(0, 50, lambda _, s: apply(s), s))(state)
    assert np.abs(state.momentum.sum(axis=0)).max() < 1e-12
    assert np.abs(state.position.mean(axis=0) - position.mean(axis=0)).min() > 1e-3
