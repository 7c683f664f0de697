"""Forces, stress and Hessian are the derivatives of the energy."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms

from m3pot.execution import numerics
from m3pot.graph import Properties, Sizes, as_dtype, batch, sum_receivers
from m3pot.math import safe
from m3pot.potential import Potential, energy, hessian, jit_hessian, jit_predict
from tests.helpers import (
    CAPACITY,
    QUICK,
    deviation,
    graph_of,
    random_potential,
    reference,
    split,
    structures,
)

STEP = 1e-5  # A, or strain


class Differences(NamedTuple):
    """Central differences of a batch of all structures, float64."""

    forces: np.ndarray  # (n, 3) -dE/dx
    stress: np.ndarray  # (b, 3, 3) dE/de / V
    hessian: np.ndarray  # (atoms, 3, n, 3): -dF/dx, the first index counts within each structure


@functools.cache
def whole_table(capacity=CAPACITY):
    """All structures with a skin, so that the edge list holds for small displacements."""
    return as_dtype(batch([graph_of(atoms, skin=0.2) for atoms in structures().values()], capacity), "float64")


def number_within_structure():
    counts = [len(atoms) for atoms in structures().values()]
    rank = np.full(CAPACITY.atoms, -1)
    rank[: sum(counts)] = np.concatenate([np.arange(k) for k in counts])
    return rank


@functools.cache
def differences(name):
    """Structures do not see each other: displace atom k of every one of them at once."""
    graph, potential, rank = whole_table(), random_potential(name), number_within_structure()

    def moved(direction, sign):
        return predict(graph._replace(positions=graph.positions + sign * STEP * direction))

    def predict(displaced):
        with numerics("float64"):
            return jax.tree.map(np.asarray, jit_predict(potential, displaced))

    forces, second = np.zeros((CAPACITY.atoms, 3)), np.zeros((rank.max() + 1, 3, CAPACITY.atoms, 3))
    for k in range(rank.max() + 1):
        for axis in range(3):
            direction = np.outer(rank == k, np.eye(3)[axis])
            plus, minus = moved(direction, 1), moved(direction, -1)
            forces[rank == k, axis] = -((plus.energy - minus.energy) / (2 * STEP))[graph.owner[rank == k]]
            second[k, axis] = -(plus.forces - minus.forces) / (2 * STEP)
    stress = np.zeros((CAPACITY.structures, 3, 3))
    volume = np.abs(np.linalg.det(graph.cell))
    for a in range(3):
        for b in range(3):
            strain = np.outer(np.eye(3)[a], np.eye(3)[b]) * STEP
            plus, minus = (
                predict(graph._replace(positions=graph.positions @ f, cell=graph.cell @ f))
                for f in (np.eye(3) + strain, np.eye(3) - strain)
            )
            with np.errstate(invalid="ignore", divide="ignore"):
                stress[:, a, b] = (plus.energy - minus.energy) / (2 * STEP) / volume
    stress[volume == 0] = np.nan
    return Differences(forces, stress, second)


def relative_error(value, exact, negligible):
    """Largest error against the largest value of one structure; symmetric zeros are measured against ``negligible``."""
    return np.abs(value - exact).max() / max(np.abs(exact).max(), negligible)


def test_forces_and_stress_are_finite_differences(name, record_property):
    measured, errors, graph = differences(name), {"forces": {}, "stress": {}}, whole_table()
    for k, (key, exact) in enumerate(zip(structures(), reference(name, "float64"), strict=True)):
        errors["forces"][key] = relative_error(measured.forces[graph.owner == k], exact.forces, 1e-2)
        if np.isfinite(exact.stress).all():
            errors["stress"][key] = relative_error(measured.stress[k], exact.stress, 1e-4)
    assert len(errors["stress"]) == 8
    for quantity, of in errors.items():
        worst = max(of, key=of.get)
        record_property(quantity, f"{of[worst]:.1e} ({worst})")
        assert of[worst] < 1e-6, (quantity, worst)


def through_positions_and_strain(potential, graph):
    """Energy, dE/dx and dE/de through the differentiable geometry, as MD with a varying cell takes them."""

    def strained(positions, strain):
        f = jnp.eye(3, dtype=positions.dtype) + strain
        moved = jnp.einsum("na,nab->nb", positions, f[graph.owner])
        energies = energy(potential, graph._replace(positions=moved, cell=graph.cell @ f))
        return energies.sum(), energies

    return jax.grad(strained, argnums=(0, 1), has_aux=True)(graph.positions, jnp.zeros_like(graph.cell))


def test_gradient_of_energy_equals_predict_at_any_padding(name):
    """Two routes to forces and stress, and two sizes of the padding."""
    larger = Sizes(CAPACITY.structures + 5, CAPACITY.atoms + 33, CAPACITY.edges + 500)
    table = structures()
    with numerics("float64"):
        graph = jax.tree.map(jnp.asarray, whole_table(larger))
        route = jax.jit(through_positions_and_strain, compiler_options=QUICK)
        (slope, virial), energies = jax.tree.map(np.asarray, route(random_potential(name), graph))
    counts = [len(atoms) for atoms in table.values()]
    assert not slope[sum(counts) :].any()
    assert not virial[len(counts) :].any()
    results = split(Properties(energies, -slope, virial, np.zeros(len(slope))), counts)
    for (key, atoms), result, expected in zip(table.items(), results, reference(name, "float64"), strict=True):
        volume = abs(np.linalg.det(atoms.cell.array))
        stress = result.stress / volume if volume else result.stress * np.nan
        assert deviation(result._replace(stress=stress, energies=expected.energies), expected) < 1e-12, key


def test_sum_of_forces_is_zero(name, dtype):
    tolerance = {"float32": 1e-5, "float64": 1e-13}[dtype]
    for key, result in zip(structures(), reference(name, dtype), strict=True):
        assert np.abs(result.forces.sum(axis=0)).max() < tolerance * max(1, np.abs(result.forces).max()), key


def test_stress_is_symmetric(name, dtype):
    for result in reference(name, dtype):
        np.testing.assert_array_equal(result.stress, result.stress.T)


def test_symmetric_crystals_have_no_forces(name):
    table = [*structures()]
    for key in ("one atom", "tiny skewed", "isolated atom", "no edges"):
        assert np.abs(reference(name, "float64")[table.index(key)].forces).max() < 1e-12, key


def test_hessian(name, record_property):
    keys, table = ("dense metal", "slab", "molecule"), structures()
    first = dict(zip(table, np.cumsum([0, *map(len, table.values())]), strict=False))
    graph = as_dtype(batch([graph_of(table[key], skin=0.2) for key in keys], Sizes(4, 14, 384)), "float64")
    in_one_block = jax.jit(functools.partial(hessian, block=64), compiler_options=QUICK)
    with numerics("float64"):
        matrix = np.asarray(in_one_block(random_potential(name), graph))
    finite, start, worst = differences(name).hessian, 0, 0.0
    for key in keys:
        count = len(table[key])
        mine = slice(start, start + count)
        block = matrix[mine, :, mine]
        rest = np.delete(matrix[mine], np.arange(start, start + count), axis=2)
        assert not rest.any(), "structures see each other"
        expected = finite[:count, :, first[key] : first[key] + count]
        size = np.abs(block).max()
        worst = max(worst, np.abs(block - expected).max() / size)
        np.testing.assert_allclose(block, block.transpose(2, 3, 0, 1), rtol=0, atol=1e-12 * size)
        np.testing.assert_allclose(block.sum(axis=2), 0, rtol=0, atol=1e-12 * size)
        start += count
    assert not matrix[start:].any()
    record_property("hessian", f"{worst:.1e}")
    assert worst < 1e-5


@dataclasses.dataclass(frozen=True)
class Springs:
    """A model with a Hessian known on paper: half of (r - 1)^2 / 2 for each edge."""

    cutoff: float = 5.0

    def apply(self, variables, graph, vectors):
        return sum_receivers((safe.norm(vectors) - 1) ** 2 / 4, graph)


@pytest.mark.parametrize("block", [1, 5, 6, 32])
def test_hessian_in_blocks(block):
    """Three atoms on a line, springs of length 2 and 3 beside one of length 5: stiffness 1 along, 1 - 1/r across."""
    graph = graph_of(Atoms("H3", [[0, 0, 0], [0, 0, 2], [0, 0, 5]]), skin=1e-6)
    potential = Potential(Springs(), {}, np.ones(95), np.zeros(95), np.zeros(()))
    with numerics("float64"):
        matrix = np.asarray(jit_hessian(potential, as_dtype(graph, "float64"), block=block))
    expected = np.zeros((3, 3, 3, 3))
    for i, j, r in ((0, 1, 2), (1, 2, 3), (0, 2, 5)):
        stiffness = np.diag([1 - 1 / r, 1 - 1 / r, 1])
        for a, b, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
            expected[a, :, b] += sign * stiffness
    np.testing.assert_allclose(matrix, expected, atol=1e-13)
