"""Neighbour list with a skin: built on the host, valid on the device until atoms or cell have moved too far.

Before each evaluation the device takes the edges within the cutoff out of it (:func:`trim`): the potential costs a
hundred times more per edge than the choice, so a wide skin costs nearly nothing. The list is a function of the
reference positions and cell alone, which the restart file keeps: a resumed run evaluates the very same edges in the
same order.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from m3pot.graph import Graph, edge_vectors, real_edges
from m3pot.neighbors import neighbor_list

_FIRST_CAPACITY = 128
_STEP = 1.06  # of the ladder of capacities: padding costs 3 % on average
GROWTH = 1.15  # of a capacity that was too small: what has grown once grows on, and each time compiles anew
_TOLERANCE = 1 + 1e-5  # of the cutoff, above the rounding of float32


class EdgeList(NamedTuple):
    """Directed edges of r replicas of n atoms as one graph of r n + 1 atoms; the last atom is padding."""

    receivers: Int[Array, " e"]
    senders: Int[Array, " e"]
    shifts: Int[Array, "e 3"]
    positions: Float[Array, "r n 3"]  # A, where the list was built
    cell: Float[Array, "r 3 3"]  # A


def capacity_for(count: int, spare: float = 1.02) -> int:
    """Smallest rung of a fine geometric ladder that holds ``spare`` times ``count`` edges."""
    need = max(spare * count, _FIRST_CAPACITY)
    rung = math.ceil(math.log(need / _FIRST_CAPACITY) / math.log(_STEP) - 1e-9)
    return 64 * math.ceil(_FIRST_CAPACITY * _STEP**rung / 64)


def build(
    positions: Float[np.ndarray, "r n 3"],
    cell: Float[np.ndarray, "r 3 3"],
    pbc: Bool[np.ndarray, "3"],
    radius: float,
    capacity: int = 0,
) -> EdgeList:
    """All edges up to ``radius`` A (cutoff plus skin), padded to ``capacity`` or to more if needed (numpy)."""
    replicas, n = positions.shape[:2]
    lists = [neighbor_list(x, h, pbc, radius) for x, h in zip(positions, cell, strict=True)]
    count = sum(len(receivers) for receivers, _, _ in lists)
    if not capacity:
        capacity = capacity_for(count)
    elif count > capacity:
        capacity = capacity_for(count, GROWTH)
    receivers = np.full(capacity, replicas * n, np.int32)
    senders = np.full(capacity, replicas * n, np.int32)
    shifts = np.zeros((capacity, 3), np.int32)
    first = 0
    for k, (i, j, s) in enumerate(lists):
        part = slice(first, first + len(i))
        receivers[part], senders[part], shifts[part] = i + k * n, j + k * n, s
        first += len(i)
    return EdgeList(receivers, senders, shifts, positions, cell)


def join(
    species: Int[Array, " n"], positions: Float[Array, "r n 3"], cell: Float[Array, "r 3 3"], edges: EdgeList
) -> Graph:
    """The graph that the potential sees: replicas one after the other, then the padding atom and structure."""
    replicas, n = positions.shape[:2]
    return Graph(
        species=jnp.concatenate([jnp.tile(species, replicas), jnp.zeros(1, species.dtype)]),
        positions=jnp.concatenate([positions.reshape(-1, 3), jnp.zeros((1, 3), positions.dtype)]),
        cell=jnp.concatenate([cell, jnp.zeros((1, 3, 3), cell.dtype)]),
        owner=jnp.asarray(np.append(np.repeat(np.arange(replicas), n), replicas).astype(np.int32)),
        receivers=edges.receivers,
        senders=edges.senders,
        shifts=edges.shifts,
    )


def trim(graph: Graph, cutoff: float, capacity: int) -> tuple[Graph, Int[Array, ""]]:
    """The same graph with the edges within ``cutoff`` A alone, and their number; those beyond ``capacity`` are lost."""
    vectors = edge_vectors(graph)
    near = real_edges(graph) & (jnp.sum(vectors * vectors, axis=-1) <= (cutoff * _TOLERANCE) ** 2)
    place = jnp.cumsum(near) - 1
    chosen = jnp.full(capacity, len(near)).at[jnp.where(near, place, capacity)].set(jnp.arange(len(near)), mode="drop")
    padding = graph.species.shape[0] - 1
    pick = lambda x, fill: jnp.take(x, chosen, axis=0, mode="fill", fill_value=fill)  # noqa: E731
    trimmed = graph._replace(
        receivers=pick(graph.receivers, padding), senders=pick(graph.senders, padding), shifts=pick(graph.shifts, 0)
    )
    return trimmed, place[-1] + 1


def stale(
    positions: Float[Array, "n 3"],
    cell: Float[Array, "3 3"],
    reference_positions: Float[Array, "n 3"],
    reference_cell: Float[Array, "3 3"],
    cutoff: float,
    skin: float,
    flexible: bool,
) -> Bool[Array, ""]:
    """True if an edge shorter than ``cutoff`` may be missing.

    With the deformation A = h_ref^-1 h and displacements u = x - x_ref A, up to a common translation, an edge of length
    r was at most |A^-1| (r + 2 max|u|) long in the reference.
    """
    stretch = 1.0
    if flexible:
        a = _inverse(reference_cell) @ cell
        reference_positions = reference_positions @ a
        stretch = 1 + jnp.sqrt(jnp.sum((_inverse(a) - jnp.eye(3, dtype=a.dtype)) ** 2))
    moved = positions - reference_positions
    moved = moved - jnp.mean(moved, axis=0)
    farthest = jnp.sqrt(jnp.max(jnp.sum(moved**2, axis=-1)))
    return stretch * (cutoff + 2 * farthest) > cutoff + skin


def _inverse(a: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    """By cofactors: LAPACK for one 3x3 matrix would cost a GPU more than the forces."""
    cofactors = jnp.stack([jnp.cross(a[1], a[2]), jnp.cross(a[2], a[0]), jnp.cross(a[0], a[1])])
    return cofactors.T / jnp.sum(a[0] * cofactors[0])
