"""Molecules and molecular ions in crystals: salts and hydrates, which hold the stiffest bonds of real materials."""

import functools

import numpy as np
from ase.data import covalent_radii
from scipy.spatial.transform import Rotation

from m3pot.data.crystal import Crystal, Rejected
from m3pot.neighbors import neighbor_list

_HALOGENS = (9, 17, 35, 53)
# Ion -> elements whose site it takes, bond length in A to each ligand (experimental means, rounded), shape.
_IONS = {
    "NH4": ((11, 19, 37, 47, 55, 81), 1.03, "tetrahedron"),
    "OH": (_HALOGENS, 0.97, "line"),
    "CN": (_HALOGENS[1:], 1.16, "line"),
    "NO3": (_HALOGENS[1:], 1.25, "triangle"),
    "ClO4": (_HALOGENS[2:], 1.44, "tetrahedron"),
    "BF4": (_HALOGENS[2:], 1.40, "tetrahedron"),
    "BH4": (_HALOGENS[1:], 1.22, "tetrahedron"),
    "CO3": ((16, 34, 52), 1.29, "triangle"),
    "SO4": ((34, 52), 1.48, "tetrahedron"),
    "PO4": ((15, 33, 51), 1.54, "tetrahedron"),
    "BO3": ((7, 15, 33), 1.38, "triangle"),
}
_SYMBOLS = {"H": 1, "B": 5, "C": 6, "N": 7, "O": 8, "F": 9, "P": 15, "S": 16, "Cl": 17}
_CENTRES = {"OH": "O", "CN": "C", "ClO4": "Cl"}  # of the others the first letter
_MOLECULES = ("H2O", "H2O", "H2O", "NH3", "CO2", "CH4", "CH3OH", "HCN", "N2H4", "HCOOH", "H2CO", "SO2", "HF", "H2O2")
_SHAPES = {
    "line": np.array([[0.0, 0.0, 1.0]]),
    "triangle": np.array([[1.0, 0, 0], [-0.5, np.sqrt(0.75), 0], [-0.5, -np.sqrt(0.75), 0]]),
    "tetrahedron": np.array([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3),
}
_CONTACT = 0.85  # smallest distance to other atoms, as part of the sum of covalent radii plus 0.5 A
_TRIES = 12


def exchangeable(numbers: np.ndarray) -> list[tuple[str, int]]:
    """Ions that fit, each with the atomic number whose sites it takes."""
    present = np.unique(numbers)
    return [(ion, z) for ion, (sites, _, _) in _IONS.items() for z in sites if z in present]


def exchange(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """Put a molecular ion on every site of one element of like charge, turned at random, and widen the cell to fit.

    Raises Rejected if no element of the crystal has such an ion, or if the ions find no room.
    """
    choices = exchangeable(crystal.numbers)
    if not choices:
        raise Rejected("no site for an ion")
    ion, old = choices[rng.integers(len(choices))]
    numbers, offsets = _ion(ion)
    where = np.flatnonzero(crystal.numbers == old)
    rest = np.flatnonzero(crystal.numbers != old)
    sites = crystal.positions[where]
    scaled = sites @ np.linalg.inv(crystal.cell)
    return _fill(crystal, rest, scaled, [(numbers, offsets)] * len(where), rng)


def insert(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """Put one to four molecules of one kind into the widest holes, turned at random, and widen the cell to fit.

    Raises Rejected if they find no room.
    """
    from ase.build import molecule

    made = molecule(str(rng.choice(_MOLECULES)))
    offsets = made.positions - made.positions.mean(axis=0)
    count = int(rng.integers(1, 5))
    scaled = np.empty((0, 3))
    for _ in range(count):
        trial = rng.random((64, 3))
        occupied = np.concatenate([crystal.positions @ np.linalg.inv(crystal.cell), scaled])
        away = trial[:, None] - occupied
        away -= np.round(away)  # nearest in scaled coordinates: a rough measure is enough to choose a hole
        room = np.linalg.norm(away @ crystal.cell, axis=-1).min(axis=1)
        scaled = np.concatenate([scaled, trial[[room.argmax()]]])
    return _fill(crystal, np.arange(len(crystal.numbers)), scaled, [(made.numbers, offsets)] * count, rng)


@functools.cache
def _ion(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers and positions about the central atom, in A."""
    _, length, shape = _IONS[name]
    directions = _SHAPES[shape]
    centre = _CENTRES.get(name, name[0])
    ligand = name.removeprefix(centre).rstrip("0123456789")
    numbers = np.array([_SYMBOLS[centre], *[_SYMBOLS[ligand]] * len(directions)])
    return numbers, np.concatenate([np.zeros((1, 3)), directions * length])


def _fill(crystal: Crystal, keep: np.ndarray, scaled: np.ndarray, groups: list, rng: np.random.Generator) -> Crystal:
    """The atoms ``keep`` and a rigid group at every scaled position, in a cell that grows until nothing touches."""
    if not all(crystal.pbc):
        raise Rejected("not periodic in three directions")
    fixed = crystal.positions[keep] @ np.linalg.inv(crystal.cell)
    label = np.concatenate([np.arange(len(keep)), *(np.full(len(g[0]), len(keep) + k) for k, g in enumerate(groups))])
    numbers = np.concatenate([crystal.numbers[keep], *(g[0] for g in groups)]).astype(int)
    for attempt in range(_TRIES):
        cell = crystal.cell * (1 + 0.03 * attempt)
        turned = [Rotation.random(random_state=rng).apply(g[1]) for g in groups]
        positions = np.concatenate([fixed @ cell, *(s @ cell + t for s, t in zip(scaled, turned, strict=True))])
        if _apart(numbers, positions, cell, label):
            return Crystal(numbers, positions, cell, crystal.pbc)
    raise Rejected("no room")


def _apart(numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, label: np.ndarray) -> bool:
    """Whether atoms of different groups keep their distance; a group may not touch its own images either."""
    i, j, shifts = neighbor_list(positions, cell, (True, True, True), 3.4)
    vectors = positions[j] + shifts @ cell - positions[i]
    other = (label[i] != label[j]) | shifts.any(axis=1)
    # what was there before may be as dense as it was
    new = (np.bincount(label)[label[i]] > 1) | (np.bincount(label)[label[j]] > 1)
    limit = np.minimum(_CONTACT * (covalent_radii[numbers[i]] + covalent_radii[numbers[j]] + 0.5), 3.3)
    return not (other & new & (np.linalg.norm(vectors, axis=1) < limit)).any()
