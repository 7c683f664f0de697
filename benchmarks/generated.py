"""Random symmetric crystals, as a random structure search makes them: far from equilibrium, any element, 2-24 atoms."""

import functools

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.geometry import get_distances
from ase.spacegroup import Spacegroup

ELEMENTS = [z for z in range(1, 95) if z not in (2, 10, 18, 36, 54, 84, 85, 86, 87, 88)]


def random_crystal(rng: np.random.Generator, least: int = 2, most: int = 24) -> Atoms:
    """One crystal: space group, one to four elements and sites at random; a site may lie on symmetry elements.

    The cell has 0.8 to 1.6 times the volume of close contact, and no two atoms come closer than 0.55 of the sum of
    their covalent radii.
    """
    while True:
        group = _space_group(int(rng.integers(1, 231)))
        elements = rng.choice(ELEMENTS, size=rng.integers(1, 5), replace=False)
        sites, numbers = [], []
        for z in elements:
            for _ in range(rng.integers(1, 3)):
                orbit = _orbit(group, rng)
                sites.append(orbit)
                numbers += [int(z)] * len(orbit)
        if not least <= len(numbers) <= most:
            continue
        volume = rng.uniform(0.8, 1.6) * sum(6.0 * max(covalent_radii[z], 0.9) ** 3 for z in numbers)
        cell = _lattice(group.no, rng)
        cell *= (volume / np.linalg.det(cell)) ** (1 / 3)
        atoms = Atoms(numbers, scaled_positions=np.concatenate(sites), cell=cell, pbc=True)
        if _closest(atoms) > 0.55:
            return atoms


_space_group = functools.cache(Spacegroup)  # each is read from a long text file


def _orbit(group: Spacegroup, rng: np.random.Generator) -> np.ndarray:
    """All images of a random point, which is first moved onto the fixed points of up to three random operations."""
    point = rng.uniform(size=3)
    operations = group.get_symop()
    for _ in range(rng.integers(0, 4)):
        rotation, translation = operations[rng.integers(len(operations))]
        images = [point]
        for _ in range(5):
            image = rotation @ images[-1] + translation
            image -= np.rint(image - point)
            if np.abs(image - point).max() < 1e-9:
                break
            images.append(image)
        point = np.mean(images, axis=0)
    images = np.array([rotation @ point + translation for rotation, translation in operations]) % 1.0
    gaps = images[:, None] - images
    same = np.abs(gaps - np.rint(gaps)).max(axis=2) < 1e-4
    return images[~np.tril(same, -1).any(axis=1)]


def _lattice(number: int, rng: np.random.Generator) -> np.ndarray:
    """Cell vectors of the crystal system of a space group."""
    from ase.geometry import cellpar_to_cell

    a, b, c = np.exp(rng.uniform(-0.35, 0.35, 3))
    alpha, beta, gamma = rng.uniform(65, 115, 3)
    if number <= 2:
        return cellpar_to_cell([a, b, c, alpha, beta, gamma])
    if number <= 15:
        return cellpar_to_cell([a, b, c, 90, beta, 90])
    if number <= 74:
        return np.diag([a, b, c])
    if number <= 142:
        return np.diag([a, a, c])
    if number <= 194:
        return cellpar_to_cell([a, a, c, 90, 90, 120])
    return np.diag([a, a, a])


def _closest(atoms: Atoms) -> float:
    """Smallest distance in units of the sum of covalent radii, images included."""
    repeated = atoms.repeat((2, 2, 2))
    _, distances = get_distances(atoms.positions, repeated.positions, cell=repeated.cell, pbc=True)
    np.fill_diagonal(distances, np.inf)  # the first cell is the atoms themselves
    radii = covalent_radii
    return float((distances / (radii[atoms.numbers][:, None] + radii[repeated.numbers][None])).min())


def random_crystals(count: int, seed: int = 0) -> list[Atoms]:
    """``count`` crystals, the same for the same seed."""
    return [random_crystal(rng) for rng in np.random.default_rng(seed).spawn(count)]
