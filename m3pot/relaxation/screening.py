"""Checks of structures before they enter a batch, and the repair of atoms that are too close."""

from typing import Any

import numpy as np
from ase import Atoms

from m3pot.neighbors import neighbor_list
from m3pot.relaxation.springs import covalent_radii
from m3pot.structure import CLASH_DISTANCE, StructureError, check

CLASHING = 0.5  # distance / sum of covalent radii below which atoms are pushed apart
PARTED = 0.7  # where the push leaves them
SMALLEST_VOLUME = 0.5  # A^3 per atom: less is no matter
_PUSHES = 300


class Refused(ValueError):
    """A structure that is not relaxed; ``status`` says of which kind."""

    def __init__(self, status: str, reason: str):
        super().__init__(reason)
        self.status = status


def screen(atoms: Atoms, elements: frozenset[int], max_atoms: int) -> None:
    """Raise Refused for what the potential cannot evaluate."""
    if len(atoms) > max_atoms:
        raise Refused("too_large", f"{len(atoms)} atoms, more than the limit of {max_atoms}; raise max_atoms.")
    try:
        check(atoms, elements)
    except StructureError as error:
        raise Refused(_kind(atoms, elements), str(error)) from error
    if atoms.pbc.all() and atoms.cell.volume < SMALLEST_VOLUME * len(atoms):
        volume = atoms.cell.volume / len(atoms)
        raise Refused(
            "failed", f"{atoms.get_chemical_formula()} has only {volume:.2g} A^3 per atom; set its cell right."
        )


def _kind(atoms: Atoms, elements: frozenset[int]) -> str:
    if not np.isfinite(atoms.positions).all() or not np.isfinite(atoms.cell.array).all():
        return "nan"
    if len(atoms) and not set(atoms.numbers.tolist()) <= elements:
        return "unsupported_element"
    return "failed"


def part(atoms: Atoms, movable: np.ndarray) -> tuple[Atoms, str]:
    """The structure with clashing atoms pushed apart by soft spheres, and a note of what was done ("" if nothing).

    Each step moves the atoms of an overlapping pair half of the overlap along their bond; the cell stays. ``movable``
    (n, 3) is 0 for fixed coordinates. Raises Refused for atoms closer than 0.1 A, which are duplicates rather than
    neighbours, and where pushing does not help, as in a cell that is too small for its atoms.
    """
    radii = covalent_radii()[atoms.numbers]
    closest, pair = _closest(atoms.positions, atoms, radii)
    if closest > CLASHING:
        return atoms, ""
    distance = closest * (radii[pair[0]] + radii[pair[1]])
    names = f"{atoms.get_chemical_formula()}: atoms {pair[0]} and {pair[1]} are only {distance:.3f} A apart"
    if distance < CLASH_DISTANCE:
        raise Refused("clash", f"{names}; remove duplicate or overlapping atoms.")
    positions = atoms.positions.copy()
    for _ in range(_PUSHES):
        shift, overlap = _push(positions, atoms, radii)
        if overlap < 0.01:
            break
        positions += shift * movable
    closest, _ = _closest(positions, atoms, radii)
    if closest < CLASHING:
        raise Refused("clash", f"{names} and cannot be pushed apart in this cell; give a larger cell.")
    repaired = atoms.copy()
    repaired.positions = positions
    moved = np.linalg.norm(positions - atoms.positions, axis=1).max()
    return repaired, f"atoms {pair[0]} and {pair[1]} were {distance:.2f} A apart: pushed apart by up to {moved:.2f} A"


def _pairs(positions: np.ndarray, atoms: Atoms, reach: float) -> tuple[Any, Any, np.ndarray]:
    i, j, shifts = neighbor_list(positions, atoms.cell.array, atoms.pbc, reach)
    return i, j, positions[j] - positions[i] + shifts @ atoms.cell.array


def _closest(positions: np.ndarray, atoms: Atoms, radii: np.ndarray) -> tuple[float, tuple[int, int]]:
    """Smallest distance in units of the sum of radii, and the pair."""
    i, j, vectors = _pairs(positions, atoms, 2 * PARTED * radii.max())
    if len(i) == 0:
        return np.inf, (0, 0)
    ratio = np.linalg.norm(vectors, axis=1) / (radii[i] + radii[j])
    k = int(ratio.argmin())
    return float(ratio[k]), (int(i[k]), int(j[k]))


def _push(positions: np.ndarray, atoms: Atoms, radii: np.ndarray) -> tuple[np.ndarray, float]:
    """Move of each atom that parts the overlapping pairs, and the largest overlap relative to the distance aimed at."""
    i, j, vectors = _pairs(positions, atoms, 2 * PARTED * radii.max() + 0.1)
    length = np.maximum(np.linalg.norm(vectors, axis=1), 1e-6)
    goal = PARTED * (radii[i] + radii[j])
    overlap = np.maximum(goal - length, 0)
    shift = np.zeros_like(positions)
    np.add.at(shift, i, -vectors * (0.5 * overlap / length)[:, None])
    return shift, float((overlap / goal).max(initial=0))
