"""Molecules and molecular ions: salts, hydrates and molecular crystals, which hold the stiffest bonds of materials."""

import functools
import itertools
import re

import numpy as np
from ase.data import atomic_numbers, covalent_radii
from scipy.spatial.transform import Rotation

from m3pot.data.crystal import TRANSITION_METALS, Crystal, Rejected
from m3pot.neighbors import neighbor_list

_SITES = {  # charge -> elements whose sites an ion of that charge takes
    1: (3, 11, 19, 37, 47, 55, 81),
    -1: (9, 17, 35, 53),
    -2: (16, 34, 52),
    -3: (7, 15, 33, 51),
    -4: (14, 32, 50),
}
_SHAPES = {
    "line": np.array([[0.0, 0.0, 1.0]]),
    "bent": np.array([[0.8, 0.6, 0], [-0.8, 0.6, 0]]),
    "triangle": np.array([[1.0, 0, 0], [-0.5, np.sqrt(0.75), 0], [-0.5, -np.sqrt(0.75), 0]]),
    "pyramid": np.array([[0.94, 0, -0.34], [-0.47, 0.81, -0.34], [-0.47, -0.81, -0.34]]),
    "tetrahedron": np.array([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3),
    "octahedron": np.concatenate([np.eye(3), -np.eye(3)]),
}
# Shape -> charge -> centre, ligand and their distance in A (experimental means, rounded).
_STARS = {
    "line": {-1: "OH 0.97, CN 1.16", -2: "NH 1.03, OO 1.49, SS 2.10, SeSe 2.40, CC 1.24", -3: "PP 2.20"},
    "bent": {-1: "NH2 1.02, NO2 1.25"},
    "triangle": {-1: "NO3 1.25", -2: "CO3 1.29", -3: "BO3 1.38"},
    "pyramid": {
        1: "OH3 0.99",
        -1: "ClO3 1.49, BrO3 1.66, IO3 1.81",
        -2: "SO3 1.52, SeO3 1.70, TeO3 1.87",
        -3: "AsO3 1.78, AsS3 2.25, SbS3 2.45",
    },
    "tetrahedron": {
        1: "NH4 1.03, PH4 1.42",
        -1: "ClO4 1.44, IO4 1.80, MnO4 1.64, ReO4 1.74, BF4 1.40, BH4 1.22, AlH4 1.62, AlCl4 2.14",
        -2: "SO4 1.48, SeO4 1.66, CrO4 1.67, MoO4 1.78, WO4 1.79, BeF4 1.55, ZnCl4 2.27",
        -3: "PO4 1.54, AsO4 1.70, VO4 1.73, PS4 2.05, PSe4 2.20, SbS4 2.34",
        -4: "SiO4 1.64, GeO4 1.76, GeS4 2.22, SnS4 2.40",
    },
    "octahedron": {
        -1: "PF6 1.60, AsF6 1.72, SbF6 1.88, NbF6 1.88",
        -2: "SiF6 1.69, TiF6 1.86, PtCl6 2.33",
    },
}
_RODS = {  # charge -> atoms on a line, the first at the origin, and their places in A
    -1: {"NNN": (0, 1.18, -1.18), "CSN": (0, 1.66, -1.17), "CON": (0, 1.23, -1.19)},
    -2: {"CNN": (0, 1.23, -1.23)},
}
_BRIDGED = {"P": 1.54, "Si": 1.63, "S": 1.50, "Cr": 1.67}  # two tetrahedra of oxygen that share a corner, charge -2
_MOLECULES = ("H2O", "H2O", "H2O", "NH3", "CO2", "CH4", "CH3OH", "HCN", "N2H4", "HCOOH", "H2CO", "SO2", "HF", "H2O2")
_CONTACT = 0.85  # smallest distance to other atoms, as part of the sum of covalent radii plus 0.5 A
_TRIES = 12

Group = tuple[np.ndarray, np.ndarray]  # atomic numbers and positions in A of a rigid molecule


@functools.cache
def ions() -> dict[str, tuple[int, Group]]:
    """Molecular ions by name: charge, and the group with its central atom at the origin."""
    found: dict[str, tuple[int, Group]] = {}
    for shape, by_charge in _STARS.items():
        for charge, entries in by_charge.items():
            for entry in entries.split(", "):
                name, length = entry.split()
                centre, ligand = re.findall(r"[A-Z][a-z]?", name)
                arms = _SHAPES[shape] * float(length)
                found[name] = charge, _group([centre, *[ligand] * len(arms)], np.vstack([np.zeros(3), arms]))
    for charge, rods in _RODS.items():
        for name, places in rods.items():
            found[name] = charge, _group(list(name), np.outer(places, [0.0, 0.0, 1.0]))
    tetrahedron = _SHAPES["tetrahedron"]
    for centre, length in _BRIDGED.items():
        half = (tetrahedron - tetrahedron[0]) * length  # about the shared corner
        corners = np.concatenate([half[1:], -half[1:]])
        sites = np.concatenate([np.zeros((1, 3)), np.array([-1.0, 1.0])[:, None] * tetrahedron[0] * length, corners])
        found[f"{centre}2O7"] = -2, _group(["O", centre, centre, *"OOOOOO"], sites)
    return found


def _group(symbols: list[str], positions: np.ndarray) -> Group:
    return np.array([atomic_numbers[symbol] for symbol in symbols]), positions


def exchangeable(numbers: np.ndarray) -> list[tuple[str, int]]:
    """Ions that fit, each with the atomic number whose sites it takes."""
    present = np.unique(numbers)
    return [(ion, z) for ion, (charge, _) in ions().items() for z in _SITES[charge] if z in present]


def exchange(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """Put a molecular ion on every site of one element of like charge, turned at random, and widen the cell to fit.

    Raises Rejected if no element of the crystal has such an ion, or if the ions find no room.
    """
    choices = exchangeable(crystal.numbers)
    if not choices:
        raise Rejected("no site for an ion")
    ion, old = choices[rng.integers(len(choices))]
    where = np.flatnonzero(crystal.numbers == old)
    rest = np.flatnonzero(crystal.numbers != old)
    scaled = crystal.positions[where] @ np.linalg.inv(crystal.cell)
    return _fill(crystal, rest, scaled, [ions()[ion][1]] * len(where), rng)


def insert(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """Put one to four molecules of one kind into the widest holes, turned at random, and widen the cell to fit.

    Raises Rejected if they find no room.
    """
    groups = [_molecule(str(rng.choice(_MOLECULES)))] * int(rng.integers(1, 5))
    scaled = crystal.positions @ np.linalg.inv(crystal.cell)
    holes = _holes(crystal.cell, scaled, len(groups), rng)
    return _fill(crystal, np.arange(len(crystal.numbers)), holes, groups, rng)


def _z(symbols: str) -> tuple[int, ...]:
    return tuple(atomic_numbers[symbol] for symbol in symbols.split())


_FAMILIES = tuple(map(_z, ("H Li F Cl Br I", "C Si Ge Sn", "N P As Sb", "O S Se Te")))  # that replace each other
_METALS = tuple(itertools.chain(*TRANSITION_METALS))
_CENTRES = (*_z("B C N Al Si P S Cl Ge As Se Br Sn Sb Te I"), *_METALS)
_LIGANDS = ("O",) * 6 + ("S", "S", "Se", "F", "F", "F", "Cl", "Cl", "Cl", "Br", "Br", "I", "H", "H", "H", "N")
_LIGANDS += ("C O", "C O", "C N", "C N", "O H", "O H")  # the first atom binds
_RINGS = tuple(map(_z, ("S", "Se", "Te", "C", "S N", "S Se", "P S", "P N", "B N", "C S", "As S", "B O", "Si O")))
_CATIONS = (*_z("Li Na K Rb Cs Be Mg Ca Sr Ba Al Ga In Tl Sn Pb Bi Y U"), *_METALS, *range(57, 72))
_ANIONS = _z("O F S Cl Se Br I")


def pack(rng: np.random.Generator, max_atoms: int = 64) -> Crystal:
    """A molecular crystal: molecules, complexes, rings and ions, often with cations, as close as they may come.

    One or two kinds of groups, each one to eight times, at random places and angles in a random cell of at most
    ``max_atoms``. Far from equilibrium: relax before use. Raises Rejected if they find no room.
    """
    copies = int(rng.choice([1, 2, 2, 2, 4]))
    groups: list[Group] = []
    for _ in range(int(rng.integers(1, 3))):
        make = (_complex, _relative, _ring, _any_ion)[rng.choice(4, p=(0.42, 0.36, 0.1, 0.12))]
        groups += [make(rng)] * (copies * int(rng.integers(1, 3)))
    if rng.random() < 0.35:
        groups += [_molecule(str(rng.choice(["H2O", "H2O", "H2O", "NH3", "CH3OH"])))] * copies
    for share, elements in ((0.7, _CATIONS), (0.25, _ANIONS)):
        if rng.random() < share:
            atom = np.array([int(rng.choice(elements))]), np.zeros((1, 3))
            groups += [atom] * (copies * int(rng.integers(1, 3)))
    numbers = np.concatenate([group[0] for group in groups])
    if not 4 <= len(numbers) <= max_atoms:
        raise Rejected("too few or too many atoms")
    radii = covalent_radii[numbers] + 0.75  # A, between bonded and van der Waals radii
    volume = np.where(numbers == 1, 4.5, 0.5 * 4 / 3 * np.pi * radii**3).sum() * rng.uniform(0.75, 1.05)
    for looser in (1.0, 1.4, 1.8, 2.2):
        cell = np.diag(rng.uniform(0.8, 1.3, 3)) + 0.2 * rng.uniform(-1, 1, (3, 3))
        cell *= (volume * looser / np.linalg.det(cell)) ** (1 / 3)
        empty = Crystal(numbers[:0], np.zeros((0, 3)), cell)
        places = rng.random((1, 3))
        places = np.concatenate([places, _holes(cell, places, len(groups) - 1, rng)])
        try:
            return _fill(empty, np.arange(0), places, groups, rng)
        except Rejected:
            continue
    raise Rejected("no room")


def _complex(rng: np.random.Generator) -> Group:
    """A centre with two to six ligands at the sum of the covalent radii, of one kind or with a last one of another."""
    centre = int(rng.choice(_CENTRES))
    shape = _SHAPES[str(rng.choice([name for name in _SHAPES if name != "line"]))]
    ligand, last = rng.choice(_LIGANDS, 2)
    numbers, positions = [centre], [np.zeros(3)]
    for k, direction in enumerate(shape):
        inner, *outer = str(last if k + 1 == len(shape) and rng.random() < 0.15 else ligand).split()
        z = atomic_numbers[inner]
        bond = (covalent_radii[centre] + covalent_radii[z]) * (0.9 if z in (7, 8) else 1.0)
        numbers.append(z)
        positions.append(direction * bond)
        for symbol in outer:
            step = 1.15 * direction  # carbonyl and cyanide are straight
            if symbol == "H":  # hydroxide is bent
                side = np.cross(direction, rng.normal(size=3))
                step = 0.49 * direction + 0.85 * side / np.linalg.norm(side)
            numbers.append(atomic_numbers[symbol])
            positions.append(positions[-1] + step)
    return np.array(numbers), np.array(positions)


def _relative(rng: np.random.Generator) -> Group:
    """A molecule of the G2 set, a quarter of its elements exchanged for relatives."""
    from ase.collections import g2

    names = [name for name in g2.names if 2 <= len(g2[name]) <= 12]
    numbers, positions = _molecule(str(rng.choice(names)))
    changed = numbers.copy()
    for z in np.unique(numbers).tolist():
        family = [other for family in _FAMILIES if z in family for other in family if other != z]
        if family and rng.random() < 0.25:
            changed = np.where(numbers == z, int(rng.choice(family)), changed)
    return changed, positions * (covalent_radii[changed].sum() / covalent_radii[numbers].sum())


def _ring(rng: np.random.Generator) -> Group:
    """A puckered ring of four to eight atoms of one or two main group elements, as S8, S4N4 or B3N3."""
    count, kinds = int(rng.integers(4, 9)), _RINGS[rng.integers(len(_RINGS))]
    numbers = np.resize(kinds, count)
    bond = 2 * covalent_radii[numbers].mean()
    angles = 2 * np.pi * np.arange(count) / count
    radius = 0.97 * bond / 2 / np.sin(np.pi / count)
    height = 0.17 * bond * (-1.0) ** np.arange(count)
    return numbers, np.stack([radius * np.cos(angles), radius * np.sin(angles), height], axis=1)


def _any_ion(rng: np.random.Generator) -> Group:
    return ions()[str(rng.choice(list(ions())))][1]


def _molecule(name: str) -> Group:
    from ase.build import molecule

    made = molecule(name)
    return made.numbers, made.positions - made.positions.mean(axis=0)


def _holes(cell: np.ndarray, occupied: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Scaled positions of ``count`` holes between the occupied ones and each other, each the widest of 64 trials."""
    places = occupied
    for _ in range(count):
        trial = rng.random((64, 3))
        away = trial[:, None] - places
        away -= np.round(away)  # nearest in scaled coordinates: a rough measure is enough to choose a hole
        room = np.linalg.norm(away @ cell, axis=-1).min(axis=1)
        places = np.concatenate([places, trial[[room.argmax()]]])
    return places[len(occupied) :]


def _fill(
    crystal: Crystal, keep: np.ndarray, scaled: np.ndarray, groups: list[Group], rng: np.random.Generator
) -> Crystal:
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
