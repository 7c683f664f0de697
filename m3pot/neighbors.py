"""Neighbour lists on the host: any cell, any mixture of periodic directions, all images within the cutoff."""

import numpy as np

try:
    import vesin
except ImportError:  # no wheel for this platform
    vesin = None


def neighbor_list(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All directed edges with 0 < r <= cutoff, images of the centre itself included, sorted by centre.

    Args:
        positions: (n, 3) A, wrapped or not.
        cell: (3, 3) rows are lattice vectors, A; rows of non-periodic directions are ignored.
        pbc: (3,) bool, periodic directions; they must be linearly independent.
        cutoff: A.

    Returns:
        receivers (e,), senders (e,) and shifts (e, 3), int32, with r_ij = x_j + shift @ cell - x_i.
    """
    positions = np.ascontiguousarray(positions, np.float64)
    pbc = np.asarray(pbc, bool)
    cell = _complete(positions, np.asarray(cell, np.float64), pbc, cutoff)
    if len(positions) == 0:
        return np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros((0, 3), np.int32)
    find = _pymatgen if vesin is None else _vesin
    receivers, senders, shifts = find(positions, cell, pbc, cutoff)
    return receivers.astype(np.int32), senders.astype(np.int32), shifts.astype(np.int32)


def _complete(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> np.ndarray:
    """Replace non-periodic rows by orthogonal vectors longer than the structure: no code sees a singular cell."""
    if pbc.all():
        return cell
    cell = np.where(pbc[:, None], cell, 0.0)
    extent = np.ptp(positions, axis=0).max(initial=0.0) + 2 * cutoff + 1
    _, values, basis = np.linalg.svd(cell)
    free = iter(basis[np.sum(values > 1e-12) :])
    for k in np.flatnonzero(~pbc):
        cell[k] = next(free) * extent
    return cell


def _vesin(positions, cell, pbc, cutoff):
    finder = vesin.NeighborList(cutoff=cutoff, full_list=True, sorted=True)  # ty: ignore[missing-union-attribute]
    return finder.compute(points=positions, box=cell, periodic=pbc, quantities="ijS")


def _pymatgen(positions, cell, pbc, cutoff):
    from pymatgen.optimization.neighbors import find_points_in_spheres

    i, j, shifts, distances = find_points_in_spheres(
        positions, positions, r=cutoff, pbc=pbc.astype(np.int64), lattice=np.ascontiguousarray(cell), tol=1e-8
    )
    keep = ~((i == j) & (shifts == 0).all(axis=1)) & (distances <= cutoff)
    i, j, shifts = i[keep], j[keep], shifts[keep]
    order = np.argsort(i, kind="stable")
    return i[order], j[order], shifts[order]
