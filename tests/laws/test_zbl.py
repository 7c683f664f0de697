"""The repulsion at short range: formula, sign, smooth end."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms, units
from ase.data import atomic_numbers, covalent_radii

from m3pot.execution import numerics
from m3pot.graph import Graph, as_dtype, edge_vectors
from m3pot.models.zbl import ADDED, COULOMB, LEARNED, widened, zbl_energies
from m3pot.potential import atomic_energies
from tests.helpers import QUICK, graph_of, random_potential, structures
from tests.laws import oracle

PAIRS = [("H", "H"), ("Li", "O"), ("Fe", "Fe"), ("Cs", "F"), ("U", "Pu")]


def dimer(species, r):
    """Graph and edge vectors of a dimer of this length."""
    ends = np.array([0, 1])
    graph = Graph(species, np.zeros((2, 3)), np.zeros((1, 3, 3)), np.zeros(2, int), ends, ends[::-1], np.zeros((2, 3)))
    return graph, r * jnp.array([[0.6, 0, 0.8], [-0.6, 0, -0.8]])


def dimer_energy(species, r, short):
    """Energy of a dimer as a function of its length."""
    return zbl_energies(*dimer(species, r), short).sum()


def derivatives(species, r, short):
    """Value, slope and curvature at many lengths."""
    first = jax.grad(dimer_energy, argnums=1)
    second = jax.grad(first, argnums=1)
    return [jax.vmap(f, (None, 0, None))(species, r, short) for f in (dimer_energy, first, second)]


jit_derivatives = jax.jit(derivatives)


def curve(first, second, t, short=LEARNED):
    """Value, slope and curvature at the lengths ``t`` times the sum of covalent radii."""
    t = np.resize(t, 400)  # one shape, one compilation
    species = np.array([atomic_numbers[first], atomic_numbers[second]])
    return [np.asarray(x) for x in jit_derivatives(species, t * reach(first, second), short)]


def reach(first, second):
    return covalent_radii[atomic_numbers[first]] + covalent_radii[atomic_numbers[second]]


@pytest.fixture(autouse=True)
def double():
    with numerics("float64"):
        yield


shorts = pytest.mark.parametrize("short", [LEARNED, ADDED])


@shorts
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_repulsive_up_to_the_end(first, second, short):
    energies, slopes, _ = curve(first, second, np.linspace(1e-3, short.last, 400, endpoint=False), short)
    assert (energies > 0).all()
    assert (slopes < 0).all()
    assert (np.diff(energies) < 0).all()


@shorts
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_value_slope_and_curvature_vanish_at_the_end(first, second, short):
    t = short.first + (short.last - short.first) * np.array([1 - 1e-3, 1 - 1e-4, 1 + 1e-12, 1.2])
    for order, values in enumerate(curve(first, second, t, short)):
        assert values[0] / values[1] == pytest.approx(10.0 ** (3 - order), rel=0.05)
        assert values[2] == values[3] == 0


@shorts
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_textbook_formula(first, second, short):
    t = np.linspace(0.01, 0.99 * short.last, 400)
    screened = oracle.screened_coulomb(atomic_numbers[first], atomic_numbers[second], t * reach(first, second))
    found, (_, _, t0, t1) = curve(first, second, t, short)[0], short
    np.testing.assert_allclose(found[t < t0], screened[t < t0], rtol=1e-6)
    t = np.maximum((t - t0) / (t1 - t0), 0)
    np.testing.assert_allclose(found, screened * (1 - 10 * t**3 + 15 * t**4 - 6 * t**5), rtol=1e-6)


def test_coulomb_constant():
    assert pytest.approx(units.Hartree * units.Bohr, rel=1e-7) == COULOMB


@shorts
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_slope_is_the_finite_difference(first, second, short):
    t, h = np.linspace(0.05, 0.95 * short.last, 100), 1e-5
    plus, minus = (curve(first, second, t + step, short)[0][:100] for step in (h, -h))
    slope = curve(first, second, t, short)[1][:100]
    np.testing.assert_allclose(slope, (plus - minus) / (2 * h * reach(first, second)), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_coincident_atoms_and_padding_stay_finite(dtype):
    graph = graph_of(structures()["molecule"])
    vectors = np.zeros((len(graph.receivers), 3), dtype)
    energies, slope = jax.jit(jax.value_and_grad(lambda x: zbl_energies(graph, x, LEARNED).sum()))(vectors)
    assert energies.dtype == dtype
    assert energies == 0
    assert not slope.any()


def hydrogen(*positions: float) -> Graph:
    return as_dtype(graph_of(Atoms(f"H{len(positions)}", [[0, 0, z] for z in positions])), "float64")


def test_potential_adds_it():
    """With the switch on, close atoms repel each other; beyond the covalent radii nothing changes."""
    off = random_potential("tensorflow", units=2, blocks=1)
    on = dataclasses.replace(off, zbl=LEARNED)
    graph = hydrogen(0, 0.45, 2)
    energies = jax.jit(atomic_energies, compiler_options=QUICK)
    change = energies(on, graph, edge_vectors(graph)) - energies(off, graph, edge_vectors(graph))
    half = curve("H", "H", 0.45 / reach("H", "H"))[0][0] / 2
    assert half > 0.1
    np.testing.assert_allclose(change, [half, half, 0], rtol=0, atol=1e-10)


def test_the_network_sees_no_shorter_distance_than_it_was_trained_on():
    """Closer atoms are to it as far apart as 0.60 of the covalent radii, in the same direction."""
    off = random_potential("tensorflow", units=2, blocks=1)
    on = dataclasses.replace(off, zbl=LEARNED)
    energies = jax.jit(atomic_energies, compiler_options=QUICK)
    frozen = hydrogen(0, 0.60 * reach("H", "H"), 2)
    for t in (0.2, 0.4, 0.57):
        graph = hydrogen(0, t * reach("H", "H"), 2)
        vectors = edge_vectors(graph)
        short = np.linalg.norm(vectors, axis=1) < 0.57 * reach("H", "H") + 1e-9
        assert short.sum() == 2
        far_as_frozen = jnp.where(short[:, None], edge_vectors(frozen), vectors)
        half = curve("H", "H", t)[0][0] / 2
        expected = energies(off, graph, far_as_frozen) + half * np.array([1, 1, 0])
        np.testing.assert_allclose(energies(on, graph, vectors), expected, rtol=1e-10)


@shorts
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_seen_lengths_are_smooth(first, second, short):
    species = np.array([atomic_numbers[first], atomic_numbers[second]])
    blind, sight, end = short.blind, short.sight, (short.blind + short.sight) / 2

    def seen(t):
        graph, vectors = dimer(species, t * reach(first, second))
        new = widened(graph, vectors, short)
        return jnp.vdot(new[0], vectors[0]) / (t * reach(first, second) ** 2)  # negative if it had turned around

    first_, second_, third_ = jax.grad(seen), jax.grad(jax.grad(seen)), jax.grad(jax.grad(jax.grad(seen)))
    jets = jax.jit(jax.vmap(lambda t: (seen(t), first_(t), second_(t), third_(t))))
    edge, grid, lengths = 1e-6, np.linspace(0.02, 1.0, 99), [0.05, 0.3, blind, sight, 0.9]
    points = [*lengths, blind - edge, blind + edge, sight - edge, sight + edge, end - 0.012, *grid]
    value, slope, curvature, third = (np.asarray(x) for x in jets(jnp.asarray(points)))  # one compilation
    np.testing.assert_allclose(value[:5], [end, end, end, sight, 0.9], rtol=1e-12)
    assert (slope > -1e-12).all()
    assert (slope < 1 + 1e-12).all()
    np.testing.assert_allclose(slope[5:9], [0, 0, 1, 1], atol=1e-9)
    np.testing.assert_allclose(curvature[5:9], 0, atol=1e-4)
    np.testing.assert_allclose(third[5:9], 0, atol=30)  # slope 10^7 of it; middle: 10^3
    assert abs(third[9]) > 100
