"""Which strains a relaxation may use: modes, masks and periodic directions as one projector per structure (host)."""

from collections.abc import Sequence

import numpy as np

MODES = ("free", "fixed", "isotropic", "shape", "volume")


def strain_projector(
    mode: str,
    cell: np.ndarray,
    pbc: np.ndarray,
    mask: Sequence[bool] | None = None,
    rotations: np.ndarray | None = None,
    *,
    turning: bool = False,
) -> np.ndarray:
    """Orthogonal projector (9, 9) onto the allowed strains, rows of 3x3 matrices joined.

    Args:
        mode: "free"; "fixed" no strain; "isotropic" all lengths by one factor; "shape" at constant volume;
            "volume" as isotropic, for relaxations in which atoms keep their fractional coordinates.
        cell: (3, 3) A. Only directions spanned by periodic lattice vectors may be strained.
        pbc: (3,) bool.
        mask: xx, yy, zz, yz, xz, xy of the strain that may change (ASE's order and meaning).
        rotations: (g, 3, 3) point group of the crystal that the strain must keep, row vectors.
        turning: allow asymmetric matrices as well; a uniform strain is symmetric in any case.
    """
    if mode not in MODES:
        raise ValueError(f"Expected cell to be one of {', '.join(MODES)}, got {mode!r}; choose one of them.")
    if mode == "fixed" or not np.any(pbc):
        return np.zeros((9, 9))
    vectors = cell[np.asarray(pbc, bool)]
    plane = np.linalg.pinv(vectors) @ vectors
    allowed = np.ones((3, 3), bool)
    if mask is not None:
        if len(mask) != 6:
            raise ValueError(f"Expected a mask of 6 strains (xx yy zz yz xz xy), got {len(mask)} values.")
        xx, yy, zz, yz, xz, xy = (bool(value) for value in mask)
        allowed = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    if mode in ("isotropic", "volume"):
        uniform = (plane * allowed).reshape(9)
        return np.outer(uniform, uniform) / max(uniform @ uniform, 1e-300)
    swap = np.arange(9).reshape(3, 3).T.reshape(9)
    projectors = [np.kron(plane, plane), np.diag(allowed.reshape(9).astype(float))]
    if not turning:
        projectors.append((np.eye(9) + np.eye(9)[swap]) / 2)
    if mode == "shape":
        trace = np.eye(3).reshape(9)
        projectors.append(np.eye(9) - np.outer(trace, trace) / 3)
    if rotations is not None:
        projectors.append(np.mean([np.kron(r, r) for r in rotations], axis=0))
    return _intersection(projectors)


def _intersection(projectors: Sequence[np.ndarray]) -> np.ndarray:
    """Projector onto the vectors that every projector leaves as they are."""
    values, basis = np.linalg.eigh(sum(np.eye(9) - (p + p.T) / 2 for p in projectors))
    common = basis[:, values < 1e-6]
    return common @ common.T
