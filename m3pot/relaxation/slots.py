"""The state of a relaxation in the making: one structure (numpy), or many joined and padded to a fixed shape."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from m3pot.graph import Sizes
from m3pot.relaxation.coordinates import Vector

EMPTY, RUNNING, CONVERGED, MAX_STEPS, NAN, CLASH, EXPLODED = range(7)  # status codes on the device


class AtomSlots(NamedTuple):
    """One row for each atom."""

    species: Int[Array, " n"]  # 0 marks padding
    movable: Float[Array, "n 3"]  # 0 for fixed coordinates
    images: Int[Array, "n g"]  # see coordinates.Symmetry
    forces: Float[Array, "n 3"]  # eV/A, of the last evaluation
    energies: Float[Array, " n"]  # eV


class Slots(NamedTuple):
    """Leaves under a field ``atoms`` have one row for each atom, all others one for each structure."""

    atoms: AtomSlots
    start: Float[Array, "b 3 3"]  # cell at the start, A
    projector: Float[Array, "b 9 9"]  # onto the allowed strains
    rotations: Float[Array, "b g 3 3"]
    weights: Float[Array, "b g"]
    x: Vector
    state: Any  # of the minimiser
    reference: Vector  # point for which the edges were made
    status: Int[Array, " b"]
    stale: Bool[Array, " b"]  # the edges must be made anew
    steps: Int[Array, " b"]  # moves made
    stress: Float[Array, "b 3 3"]  # eV/A^3, of the last evaluation
    fmax: Float[Array, " b"]  # eV/A, largest force on an atom that may move
    smax: Float[Array, " b"]  # eV/A^3, largest component of stress + pressure that may relax


class Edges(NamedTuple):
    """What belongs to one seating: which atom belongs to whom, and who sees whom."""

    owner: Int[Array, " n"]
    first: Int[Array, " n"]  # first atom of the same structure
    receivers: Int[Array, " e"]
    senders: Int[Array, " e"]
    shifts: Int[Array, "e 3"]


def _is_atomic(path: Sequence[Any]) -> bool:
    return any(getattr(key, "name", None) == "atoms" for key in path)


def join(parts: Sequence[Slots], capacity: Sizes) -> Slots:
    """Many single structures in one shape; padding is zero, which is the status EMPTY."""

    def column(path, *leaves):
        total = capacity.atoms if _is_atomic(path) else capacity.structures
        out = np.zeros((total, *leaves[0].shape[1:]), leaves[0].dtype)
        np.concatenate(leaves, out=out[: sum(map(len, leaves))])
        return out

    return jax.tree_util.tree_map_with_path(column, *parts)


def split(slots: Slots, counts: Sequence[int]) -> list[Slots]:
    """The single structures of :func:`join`; ``counts`` are their numbers of atoms."""
    ends = np.cumsum(counts)
    paths, tree = jax.tree_util.tree_flatten_with_path(jax.device_get(slots))
    leaves = [(leaf, _is_atomic(path)) for path, leaf in paths]

    def part(k):
        atoms, alone = slice(ends[k] - counts[k], ends[k]), slice(k, k + 1)
        return tree.unflatten([leaf[atoms if atomic else alone] for leaf, atomic in leaves])

    return [part(k) for k in range(len(counts))]


def join_edges(parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], counts: Sequence[int], capacity: Sizes):
    """Edges (receivers, senders, shifts) of each structure in one padded shape, as :func:`m3pot.graph.batch` pads."""
    offsets = np.cumsum([0, *counts])
    total = offsets[-1]
    owner = np.full(capacity.atoms, capacity.structures - 1, np.int32)
    first = np.full(capacity.atoms, total, np.int32)
    owner[:total] = np.repeat(np.arange(len(counts)), counts)
    first[:total] = np.repeat(offsets[:-1], counts)
    receivers = np.full(capacity.edges, capacity.atoms - 1, np.int32)
    senders = receivers.copy()
    shifts = np.zeros((capacity.edges, 3), np.int32)
    begin = 0
    for (i, j, s), offset in zip(parts, offsets, strict=False):
        end = begin + len(i)
        receivers[begin:end], senders[begin:end], shifts[begin:end] = i + offset, j + offset, s
        begin = end
    return Edges(owner, first, receivers, senders, shifts)
