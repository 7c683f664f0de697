"""The one container that travels from files to models: a padded, disconnected, directed graph of crystals.

Index conventions: i = receiver = centre, j = sender = neighbour, r_ij = x_j + shift.cell - x_i.
Host functions (``batch``, ``sizes_for``) take and return numpy arrays; ``edge_vectors`` runs anywhere.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from m3pot.math.segment import segment_sum


class Graph(NamedTuple):
    """b structures, n atoms, e directed edges. A batched graph ends with one padding structure."""

    species: Int[Array, " n"]  # atomic number; 0 marks padding
    positions: Float[Array, "n 3"]  # A
    cell: Float[Array, "b 3 3"]  # rows are lattice vectors, A; zeros without a cell
    owner: Int[Array, " n"]  # structure of each atom, ascending
    receivers: Int[Array, " e"]  # centre i, ascending
    senders: Int[Array, " e"]  # neighbour j
    shifts: Int[Array, "e 3"]  # lattice translation of j


class Properties(NamedTuple):
    """Labels and predictions alike; NaN where there is none."""

    energy: Float[Array, " b"]  # eV
    forces: Float[Array, "n 3"]  # eV/A
    stress: Float[Array, "b 3 3"]  # eV/A^3, tensile positive; NaN where the cell has no volume
    energies: Float[Array, " n"]  # eV, share of each atom


class Sizes(NamedTuple):
    """Static shape of a batched graph, padding included."""

    structures: int
    atoms: int
    edges: int


def sizes(graph: Graph) -> Sizes:
    """Shape of a graph as it stands."""
    return Sizes(graph.cell.shape[0], graph.species.shape[0], graph.receivers.shape[0])


def real_edges(graph: Graph) -> Bool[Array, " e"]:
    """True for edges between atoms, False for padding."""
    return jnp.asarray(graph.species)[graph.receivers] > 0


def edge_vectors(graph: Graph) -> Float[Array, "e 3"]:
    """r_ij in A, differentiable in positions and cell; padding edges get the constant vector (1, 1, 1)."""
    positions, cell = jnp.asarray(graph.positions), jnp.asarray(graph.cell)
    translations = jnp.asarray(graph.shifts).astype(positions.dtype)
    edge_cell = cell[jnp.asarray(graph.owner)[graph.receivers]]
    vectors = positions[graph.senders] - positions[graph.receivers]
    vectors = vectors + jnp.einsum("ea,eab->eb", translations, edge_cell)
    return jnp.where(real_edges(graph)[:, None], vectors, 1)


def sum_structures(values: Float[Array, "n *rest"], graph: Graph) -> Float[Array, "b *rest"]:
    """Sum of an atomic quantity over each structure."""
    return segment_sum(values, graph.owner, graph.cell.shape[0], ordered=True)


def sum_receivers(values: Float[Array, "e *rest"], graph: Graph) -> Float[Array, "n *rest"]:
    """Sum of an edge quantity over the edges that leave each centre."""
    return segment_sum(values, graph.receivers, graph.species.shape[0], ordered=True)


def sum_senders(values: Float[Array, "e *rest"], graph: Graph) -> Float[Array, "n *rest"]:
    """Sum of an edge quantity over the edges that arrive at each neighbour."""
    return segment_sum(values, graph.senders, graph.species.shape[0])


# Sizes of the padding ladder. One ladder for atoms and edges together: two independent ones would
# multiply the number of compiled shapes. Twelve atoms per 128 edges is thin enough for molecules and
# slabs, and atoms cost little beside edges.
_FIRST_EDGES = 256
_STEP = 1.6
_EDGES_PER_ATOM = 16


def sizes_for(structures: int, atoms: int, edges: int) -> Sizes:
    """Smallest rung of the geometric ladder that holds the given numbers and one padding atom.

    Rung k has 256 * 1.6^k edges and a sixteenth as many atoms, so crystals of 1 to 200 atoms need 11 rungs.
    """
    need = max(edges, _EDGES_PER_ATOM * (atoms + 1), _FIRST_EDGES)
    rung = math.floor(math.log(need / _FIRST_EDGES) / math.log(_STEP))
    while (capacity := _multiple_of_16(_FIRST_EDGES * _STEP**rung)) < need:
        rung += 1
    return Sizes(structures + 1, capacity // _EDGES_PER_ATOM, capacity)


def _multiple_of_16(x: float) -> int:
    return 16 * math.ceil(x / 16 - 1e-9)


def batch(graphs: Sequence[Graph], capacity: Sizes | None = None) -> Graph:
    """Join graphs and pad them to ``capacity`` (default: the rung of :func:`sizes_for` that fits).

    The last structure is padding, so is at least the last atom; padding edges are self-loops of that atom.
    Returns numpy arrays. Raises ValueError if there is no graph or the graphs do not fit.
    """
    if not graphs:
        raise ValueError("Expected at least one graph to batch, got none; pass a structure.")
    total = Sizes(*(sum(column) for column in zip(*map(sizes, graphs), strict=True)))
    capacity = capacity or sizes_for(*total)
    room = Sizes(capacity.structures - total.structures, capacity.atoms - total.atoms, capacity.edges - total.edges)
    if room.structures < 1 or room.atoms < 1 or room.edges < 0:
        raise ValueError(f"{total} and one padding atom do not fit into {capacity}; ask for a larger capacity.")
    first_atom = np.cumsum([0] + [g.species.shape[0] for g in graphs[:-1]])
    first_structure = np.cumsum([0] + [g.cell.shape[0] for g in graphs[:-1]])

    def join(field: str, offsets: Sequence[int] | None, missing: int, fill: int) -> np.ndarray:
        parts = [np.asarray(getattr(g, field)) for g in graphs]
        if offsets is not None:
            parts = [part + offset for part, offset in zip(parts, offsets, strict=True)]
        parts.append(np.full((missing, *parts[0].shape[1:]), fill, parts[0].dtype))
        return np.concatenate(parts)

    return Graph(
        species=join("species", None, room.atoms, 0).astype(np.int32),
        positions=join("positions", None, room.atoms, 0),
        cell=join("cell", None, room.structures, 0),
        owner=join("owner", first_structure, room.atoms, capacity.structures - 1).astype(np.int32),
        receivers=join("receivers", first_atom, room.edges, capacity.atoms - 1).astype(np.int32),
        senders=join("senders", first_atom, room.edges, capacity.atoms - 1).astype(np.int32),
        shifts=join("shifts", None, room.edges, 0).astype(np.int32),
    )


def as_dtype(graph: Graph, dtype: Any) -> Graph:
    """The same graph (numpy) with floating fields in ``dtype``."""
    return graph._replace(positions=np.asarray(graph.positions, dtype), cell=np.asarray(graph.cell, dtype))
