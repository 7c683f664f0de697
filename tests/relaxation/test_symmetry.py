"""Relaxation that keeps the space group."""

import warnings

import numpy as np
import spglib
from ase import Atoms
from ase.spacegroup import crystal

from m3pot.relaxation import relax
from m3pot.relaxation.symmetry import find_operations
from tests.relaxation.helpers import morse

LIMITS = dict(fmax=1e-3, smax=1e-5, dtype="float64", max_edges=1024)


def rutile():
    return crystal("CuO", [(0, 0, 0), (0.32, 0.32, 0)], spacegroup=136, cellpar=[4.4, 4.4, 3.1, 90, 90, 90])


def group(atoms, symprec=1e-5):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        data = spglib.get_symmetry_dataset((atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), symprec)
    return data.number


def test_operations_carry_the_crystal_onto_itself():
    atoms = rutile()
    atoms.rotate(33, (1, 2, 3), rotate_cell=True)
    noisy = atoms.copy()
    noisy.rattle(0.003, seed=1)
    operations = find_operations(noisy, 0.05)
    assert len(operations.rotations) == 16
    turned = np.einsum("gab,gcb->gac", operations.rotations, operations.rotations)
    np.testing.assert_allclose(turned, np.broadcast_to(np.eye(3), turned.shape), atol=1e-6)
    noisy.positions = operations.positions
    assert group(noisy) == 136
    assert np.abs(operations.positions - atoms.positions).max() < 0.01


def test_the_space_group_survives():
    atoms = rutile()
    (kept,) = relax(atoms, morse(), fix_symmetry=True, **LIMITS)
    assert kept.converged
    assert abs(kept.volume_change) > 1e-3
    assert kept.displacement > 1e-3
    assert group(kept.atoms) == 136


def test_what_symmetry_allows_ends_at_the_same_energy():
    """Started without noise nothing breaks the symmetry, so the free relaxation is the reference."""
    free, kept = (relax(rutile(), morse(), fix_symmetry=fix, **LIMITS)[0] for fix in (False, True))
    assert abs(free.energy - kept.energy) < 1e-4


def test_a_molecule_beside_a_crystal_still_relaxes():
    """The symmetry of a molecule is not kept, but asking for it must not freeze the atoms."""
    molecule = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.9]])
    alone, _ = relax([molecule, rutile()], morse(), fix_symmetry=True, **LIMITS)
    (free,) = relax(molecule, morse(), **LIMITS)
    assert alone.converged
    assert alone.steps > 0
    assert abs(alone.energy - free.energy) < 1e-6
