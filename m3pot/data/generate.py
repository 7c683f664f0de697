"""Structures from nothing but a numpy Generator: prototypes, dimers, dense atoms, random symmetric crystals.

Lengths in A. The order of the draws is part of the recipe of the shipped models: keep it.
"""

import numpy as np
from ase.build import bulk
from ase.data import covalent_radii, reference_states

from m3pot.data.crystal import ELEMENTS, NOBLE, Crystal, Rejected, closest

LATTICES = ("fcc", "bcc", "hcp", "diamond", "sc")
BOX = 15.0  # A, edge of the cubic cell around a dimer


def element(number: int, lattice: str, rng: np.random.Generator) -> Crystal:
    """An element in one of LATTICES, at 0.7 to 1.5 of the volume that its own structure or its radius suggests."""
    volume = _elemental_volume(number)
    if lattice == "diamond":
        volume *= 1.0 if number in (6, 14, 32, 50) else 1.45
    elif number in (6, 14, 32):
        volume *= 0.75
    if lattice == "sc":
        volume *= 1.15
    volume *= rng.uniform(0.7, 1.5)
    if lattice == "hcp":
        ratio = rng.uniform(1.5, 1.75)
        atoms = bulk("X", "hcp", a=(2 * volume / (0.8660254 * ratio)) ** (1 / 3), covera=ratio)
    else:
        per_cube = {"fcc": 4, "bcc": 2, "diamond": 8, "sc": 1}[lattice]
        atoms = bulk("X", lattice, a=(per_cube * volume) ** (1 / 3))
    return Crystal(np.full(len(atoms), number), atoms.positions, atoms.cell.array)


def _elemental_volume(number: int) -> float:
    """A^3 per atom, of the reference state in ASE if it is one of LATTICES, else of touching spheres."""
    state = reference_states[number] or {}
    a = state.get("a") or 0.0
    volumes = {
        "fcc": a**3 / 4,
        "bcc": a**3 / 2,
        "diamond": a**3 / 8,
        "sc": a**3,
        "hcp": a**3 * state.get("c/a", 1.633) * 0.8660254 / 2,
    }
    return volumes.get(state.get("symmetry"), 0.0) or float((2 * covalent_radii[number]) ** 3 / np.sqrt(2))


def binary(rng: np.random.Generator) -> Crystal:
    """Two elements, no oxygen, as rock salt, caesium chloride or zinc blende at 0.75 to 1.4 of the volume by radii."""
    elements = ELEMENTS[ELEMENTS != 8]
    weights = np.where(np.isin(elements, NOBLE), 0.2, 1.0)
    pair = rng.choice(elements, 2, replace=False, p=weights / weights.sum())
    prototype = str(rng.choice(["rocksalt", "cesiumchloride", "zincblende"]))
    stretch = {"rocksalt": 1.06, "cesiumchloride": 1.09, "zincblende": 1.0}[prototype]
    bond = covalent_radii[pair].sum() * stretch * rng.uniform(0.75, 1.4) ** (1 / 3)
    edge = {"rocksalt": 2, "cesiumchloride": 2 / np.sqrt(3), "zincblende": 4 / np.sqrt(3)}[prototype] * bond
    atoms = bulk("NaCl", prototype, a=edge)
    return Crystal(pair, atoms.positions, atoms.cell.array)


def dimer(first: int, second: int, rng: np.random.Generator) -> Crystal:
    """Two atoms at 0.6 to 2.5 of the sum of covalent radii, in a random direction, in a periodic cube of 15 A."""
    distance = (covalent_radii[first] + covalent_radii[second]) * rng.uniform(0.6, 2.5)
    direction = rng.normal(size=3)
    positions = np.full((2, 3), 5.0)
    positions[1] += direction * (distance / np.linalg.norm(direction))
    return Crystal(np.array([first, second]), positions, np.eye(3) * BOX)


def dense(rng: np.random.Generator) -> Crystal:
    """3 to 10 atoms of up to 4 elements at random in a random cell, at 0.7 to 3 times the volume of their cubes.

    No two are closer than a bound of 0.62 to 0.9 of the covalent radii. Oxygen with one other element becomes
    sulfur. Raises Rejected if the atoms do not fit.
    """
    count = int(rng.integers(3, 11))
    kinds = int(rng.integers(1, min(count, 4) + 1))
    numbers = rng.choice(rng.choice(ELEMENTS[~np.isin(ELEMENTS, NOBLE)], kinds, replace=False), count)
    if 8 in numbers and len(np.unique(numbers)) == 2:
        numbers[numbers == 8] = 16
    volume = ((2 * covalent_radii[numbers]) ** 3).sum() * rng.uniform(0.7, 3.0)
    cell = np.eye(3) + 0.25 * rng.uniform(-1, 1, (3, 3))
    cell *= (volume / np.linalg.det(cell)) ** (1 / 3)
    bound = rng.uniform(0.62, 0.9)
    crystal = Crystal(numbers[:0], np.zeros((0, 3)), cell)
    for k in range(count):
        for _ in range(60):
            trial = crystal._replace(
                numbers=numbers[: k + 1], positions=np.vstack([crystal.positions, rng.random(3) @ cell])
            )
            if closest(trial) > bound:
                crystal = trial
                break
        else:
            raise Rejected("packing")
    return crystal


def symmetric(rng: np.random.Generator, max_atoms: int = 20) -> Crystal:
    """A random crystal with symmetry: space group, cell and orbits at random, no atoms closer than 0.7 of the radii.

    2 to 4 elements, 1 or 2 orbits each; coordinates of an orbit are free, equal or simple fractions, so that special
    positions occur. In the spirit of Pickard and Needs, J. Phys.: Condens. Matter 23, 053201 (2011).
    Raises Rejected if 20 space groups with 10 cells each give nothing.
    """
    from ase.spacegroup import Spacegroup

    elements = rng.choice(ELEMENTS[~np.isin(ELEMENTS, NOBLE)], int(rng.integers(2, 5)), replace=False)
    species = np.repeat(elements, rng.integers(1, 3, len(elements)))
    for _ in range(20):
        group = Spacegroup(int(rng.integers(2, 231)))
        rotations, translations = group.get_op()
        for _ in range(10):
            orbits = _orbits(rotations, translations, len(species), max_atoms, rng)
            numbers = np.repeat(species[: len(orbits)], [len(orbit) for orbit in orbits])
            if len(orbits) < len(species):
                continue
            volume = ((2 * covalent_radii[numbers]) ** 3).sum() * rng.uniform(0.8, 1.8)
            cell = _lattice(group.no, rng)
            cell *= (volume / np.linalg.det(cell)) ** (1 / 3)
            crystal = Crystal(numbers, np.concatenate(orbits) @ cell, cell)
            if closest(crystal) > 0.7:
                return crystal
    raise Rejected("packing")


def _orbits(
    rotations: np.ndarray, translations: np.ndarray, count: int, max_atoms: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Fractional coordinates of up to ``count`` sets of equivalent sites with ``max_atoms`` sites together."""
    orbits: list[np.ndarray] = []
    room = max_atoms
    for _ in range(8 * count):
        images = (rotations @ _coordinates(rng) + translations) % 1
        _, first = np.unique(np.round(images, 4) % 1, axis=0, return_index=True)
        if len(first) <= room - (count - len(orbits) - 1):
            orbits.append(images[np.sort(first)])
            room -= len(first)
        if len(orbits) == count:
            break
    return orbits


def _coordinates(rng: np.random.Generator) -> np.ndarray:
    """Fractional coordinates of a site that is often special."""
    free = rng.random(3)
    simple = rng.choice([0, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4], 3)
    site = np.where(rng.random(3) < 0.7, simple, free)
    return np.full(3, site[0]) if rng.random() < 0.2 else site


def _lattice(group: int, rng: np.random.Generator) -> np.ndarray:
    """Cell of unit scale with the metric that the space group needs (standard settings, hexagonal axes)."""
    a, b, c = rng.uniform(0.7, 1.4, 3)
    if group >= 195:
        return np.eye(3) * a
    if group >= 143:
        return np.array([[a, 0, 0], [-a / 2, a * np.sqrt(0.75), 0], [0, 0, c]])
    cell = np.diag([a, a if group >= 75 else b, c])
    if group < 16:
        cell[2, 0] = 0.4 * rng.uniform(-1, 1)  # monoclinic with unique axis b
    if group < 3:
        cell[1, 0], cell[2, 1] = 0.4 * rng.uniform(-1, 1, 2)
    return cell
