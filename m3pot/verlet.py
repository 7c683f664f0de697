"""Verlet skin on the host: one neighbour list, longer than the cutoff, serves many small moves of atoms and cell."""

from typing import NamedTuple

import numpy as np

from m3pot.graph import Graph


class VerletList(NamedTuple):
    """A neighbour list with the geometry for which it was made."""

    reference: Graph  # one structure (numpy, float64) with edges up to cutoff + skin, near the origin
    pbc: np.ndarray  # (3,) bool
    home: np.ndarray  # (n, 3) lattice translations of the atoms, taken off
    origin: np.ndarray  # (3,) A, taken off
    translations: np.ndarray  # (t, 3) the different shifts of the edges
    images: np.ndarray  # (e,) row of the sender in the table of all translated atoms


def near_origin(graph: Graph, pbc: np.ndarray) -> tuple[Graph, np.ndarray, np.ndarray]:
    """One structure (numpy, float64) with its atoms brought into one cell around the origin, and what was taken off.

    Lattice translations (n, 3) and a common origin (3,): positions - translations @ cell - origin. Edge vectors stay
    the same, and coordinates stay small, so that float32 loses no digits on atoms far away.
    """
    cell, home = graph.cell[0], np.zeros((len(graph.species), 3), np.int32)
    if np.any(pbc):
        home[:, pbc] = np.floor(graph.positions @ np.linalg.pinv(cell[pbc]) + 1e-9)
    positions = graph.positions - home @ cell
    origin = positions.mean(axis=0)
    shifts = graph.shifts + home[graph.senders] - home[graph.receivers]
    return graph._replace(positions=positions - origin, shifts=shifts), home, origin


def make(graph: Graph, pbc: np.ndarray) -> VerletList:
    """Prepare a graph of one structure (:func:`m3pot.structure.from_ase`), with edges up to cutoff + skin."""
    pbc = np.array(pbc, bool)
    reference, home, origin = near_origin(graph, pbc)
    translations, which = np.unique(reference.shifts, axis=0, return_inverse=True)
    images = which.reshape(-1) * len(reference.species) + reference.senders
    return VerletList(reference, pbc, home, origin, translations, images)


def place(verlet: VerletList, positions: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """New positions of the same atoms as the list counts them, near the origin; A."""
    return positions - verlet.home @ cell - verlet.origin


def holds(verlet: VerletList, positions: np.ndarray, cell: np.ndarray, cutoff: float, skin: float) -> bool:
    """True if the list still has every edge within ``cutoff`` A: then no pair from outside can have come so near.

    Atoms and lattice move together by the deformation F = H0^-1 H, and each atom by u_i on top of it, so
    |r| >= s_min(F) |r0| - 2 max|u| with s_min the smallest singular value. Positions must not be wrapped in between:
    a wrapped atom counts as moved, which costs a new list but no error. NaN gives False. ``positions`` come from
    :func:`place`.
    """
    reference = verlet.reference
    moved, shrink = reference.positions, 1.0
    if not np.array_equal(cell, reference.cell[0]):
        old, new = reference.cell[0][verlet.pbc], cell[verlet.pbc]
        deformation = np.eye(3) + np.linalg.pinv(old) @ (new - old)  # leaves directions without period alone
        if not np.isfinite(deformation).all():
            return False
        moved = moved @ deformation
        shrink = np.linalg.svd(deformation, compute_uv=False).min()
    u = positions - moved
    u = u - u.mean(axis=0)  # a common translation changes no distance
    return bool(shrink * (cutoff + skin) - 2 * np.sqrt(np.einsum("na,na->n", u, u).max()) >= cutoff)


def trim(verlet: VerletList, positions: np.ndarray, cell: np.ndarray, cutoff: float) -> Graph:
    """The graph at new positions (of :func:`place`) and cell, with the edges within ``cutoff`` A alone.

    A table of all translated atoms makes this several times cheaper than a new neighbour list.
    """
    reference = verlet.reference
    table = (positions[None] + (verlet.translations @ cell)[:, None]).reshape(-1, 3)
    vectors = np.take(table, verlet.images, axis=0)
    vectors -= np.take(positions, reference.receivers, axis=0)
    keep = np.flatnonzero(np.einsum("ea,ea->e", vectors, vectors) <= (cutoff + 1e-6) ** 2)
    return reference._replace(
        positions=positions,
        cell=cell[None],
        receivers=np.take(reference.receivers, keep),
        senders=np.take(reference.senders, keep),
        shifts=np.take(reference.shifts, keep, axis=0),
    )
