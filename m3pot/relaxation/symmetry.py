"""Space groups that a relaxation must keep: operations of the starting structure by spglib."""

import warnings
from typing import NamedTuple

import numpy as np
from ase import Atoms

from m3pot.relaxation.screening import Refused

OPERATIONS = 192  # of the largest space groups in their conventional cells


class Operations(NamedTuple):
    """x -> x @ rotation + translation carries atom i onto a lattice image of atom images[g, i]."""

    rotations: np.ndarray  # (g, 3, 3) Cartesian, row vectors
    images: np.ndarray  # (g, n)
    positions: np.ndarray  # (n, 3) A, made exactly symmetric


def find_operations(atoms: Atoms, symprec: float) -> Operations:
    """Space group operations of a crystal with three periodic directions, and its positions freed of their noise.

    ``symprec`` in A. The identity alone for a molecule or slab. Raises Refused if spglib cannot tell, or if the
    cell repeats a smaller one so often that there are more operations than 192.
    """
    import spglib

    if not atoms.pbc.all():
        return Operations(np.eye(3)[None], np.arange(len(atoms), dtype=np.int32)[None], atoms.positions)
    cell = atoms.cell.array
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # spglib 2 announces its future way of failing
            data = spglib.get_symmetry((cell, atoms.get_scaled_positions(), atoms.numbers), symprec=symprec)
    except spglib.SpglibError:
        data = None
    if data is None:
        raise Refused("failed", f"spglib finds no space group at symprec {symprec} A; relax without fix_symmetry.")
    rotations, translations = data["rotations"], data["translations"]
    if len(rotations) > OPERATIONS:
        raise Refused("failed", f"{len(rotations)} symmetry operations, at most {OPERATIONS}; use the primitive cell.")
    scaled = atoms.positions @ np.linalg.inv(cell)
    images, mean = [], np.zeros_like(scaled)
    for rotation, translation in zip(rotations, translations, strict=True):
        carried = scaled @ rotation.T + translation
        gap = carried[:, None] - scaled[None]
        lattice = np.rint(gap)
        distance = np.linalg.norm((gap - lattice) @ cell, axis=2)
        distance[atoms.numbers[:, None] != atoms.numbers[None]] = np.inf
        image = distance.argmin(axis=1)
        images.append(image)
        rows = np.arange(len(atoms))
        mean[image] += carried - lattice[rows, image]
    cartesian = np.array([np.linalg.inv(cell) @ rotation.T @ cell for rotation in rotations])
    return Operations(cartesian, np.array(images, np.int32), mean / len(rotations) @ cell)
