"""A structure without labels, and what sampling asks about one: similar elements, the closest pair of atoms."""

import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from ase.data import covalent_radii

from m3pot.neighbors import neighbor_list

if TYPE_CHECKING:
    from ase import Atoms

ELEMENTS = np.array([*range(1, 84), *range(89, 95)])  # H to Bi and Ac to Pu: what universal potentials are trained on
NOBLE = (2, 10, 18, 36, 54)
TRANSITION_METALS = (tuple(range(22, 31)), tuple(range(40, 49)), tuple(range(72, 81)))  # rows, without group 3
_LANTHANIDES = tuple(range(57, 72))
_ACTINIDES = tuple(range(89, 95))
_SIMILAR = (  # neighbours within a column or a row of the periodic table that replace each other in crystals
    *((1, 3, 11), (3, 11, 19, 37, 55), (4, 12, 30), (12, 20, 38, 56)),
    *((*_LANTHANIDES, 21, 39), (*_ACTINIDES, 58, 60, 72)),
    *((22, 40, 72), (23, 41, 73), (24, 42, 74), (25, 43, 75, 26), (26, 44, 76, 27), (27, 45, 77, 28), (28, 46, 78)),
    *((29, 47, 79), (30, 48, 80), (5, 13, 31, 49, 81), (6, 14, 32, 50, 82), (7, 15, 33, 51, 83), (8, 16, 34, 52)),
    *((9, 17, 35, 53), NOBLE, *TRANSITION_METALS),
)


class Crystal(NamedTuple):
    """Atoms in a cell; every function of sampling returns a new one."""

    numbers: np.ndarray  # (n,) int, atomic numbers
    positions: np.ndarray  # (n, 3) A
    cell: np.ndarray  # (3, 3) rows are lattice vectors, A
    pbc: tuple[bool, bool, bool] = (True, True, True)


class Rejected(ValueError):
    """A draw that gave no usable structure; the message is a short reason that can be counted."""


def similar(number: int) -> list[int]:
    """Atomic numbers of the elements that commonly take the place of this one, ascending."""
    return sorted({other for family in _SIMILAR if number in family for other in family} - {number})


def is_binary_oxide(numbers: np.ndarray) -> bool:
    """Oxygen with one other element: the compounds of the ACWF benchmark."""
    return 8 in numbers and len(np.unique(numbers)) == 2


def is_cubic(crystal: Crystal) -> bool:
    """Whether the space group, as spglib finds it to within 0.05 A, is one of 195 to 230."""
    import spglib

    fractions = np.linalg.solve(crystal.cell.T, crystal.positions.T).T
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # spglib 2 announces its future way of failing
        data = spglib.get_symmetry_dataset((crystal.cell, fractions, crystal.numbers), symprec=0.05)
    return data is not None and data.number >= 195


def closest(crystal: Crystal) -> float:
    """Smallest distance over the sum of covalent radii, of pairs up to 3.4 A (2.6 A if all atoms are lighter than K).

    Infinite if there is no such pair.
    """
    reach = 2.6 if crystal.numbers.max() < 19 else 3.4
    i, j, shifts = neighbor_list(crystal.positions, crystal.cell, crystal.pbc, reach)
    vectors = crystal.positions[j] + shifts @ crystal.cell - crystal.positions[i]
    radii = covalent_radii[crystal.numbers]
    return float((np.linalg.norm(vectors, axis=1) / (radii[i] + radii[j])).min(initial=np.inf))


def from_atoms(atoms: "Atoms") -> Crystal:
    """The bare structure of ASE Atoms."""
    periodic = tuple(map(bool, atoms.pbc))
    return Crystal(atoms.numbers.astype(int), atoms.positions.copy(), atoms.cell.array.copy(), periodic)


def to_atoms(crystal: Crystal) -> "Atoms":
    """As ASE Atoms."""
    from ase import Atoms

    return Atoms(crystal.numbers, crystal.positions, cell=crystal.cell, pbc=crystal.pbc)
