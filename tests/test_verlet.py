import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from m3pot import verlet
from m3pot.neighbors import neighbor_list
from m3pot.structure import from_ase
from tests.helpers import structures

CUTOFF, SKIN = 4.0, 0.6


def edges(receivers, senders, shifts) -> set[tuple]:
    return {(i, j, *s) for i, j, s in zip(receivers.tolist(), senders.tolist(), shifts.tolist(), strict=True)}


def moved(atoms: Atoms, rng: np.random.Generator, shake: float, strain: float, lattice: bool) -> Atoms:
    """Strained, shaken, translated as a whole, and perhaps with every atom in another cell."""
    new = atoms.copy()
    new.set_cell(new.cell.array @ (np.eye(3) + strain * rng.normal(size=(3, 3))), scale_atoms=True)
    new.positions += rng.normal(size=3) * 5 + shake * rng.normal(size=new.positions.shape)
    if lattice:
        new.positions += (rng.integers(-3, 4, new.positions.shape) * new.pbc) @ new.cell.array
    return new


@pytest.mark.parametrize("name", structures())
@settings(max_examples=25, deadline=None, database=None, derandomize=True)
@given(seed=st.integers(0, 10**6), shake=st.floats(0, 0.4), strain=st.floats(0, 0.15), lattice=st.booleans())
def test_a_list_that_holds_has_every_edge(name, seed, shake, strain, lattice):
    atoms = structures()[name]
    rng = np.random.default_rng(seed)
    known = verlet.make(from_ase(atoms, CUTOFF + SKIN), atoms.pbc)
    new = moved(atoms, rng, shake, strain, lattice)
    cell = new.cell.array
    positions = verlet.place(known, new.positions, cell)
    if not verlet.holds(known, positions, cell, CUTOFF, SKIN):
        return
    trimmed = verlet.trim(known, positions, cell, CUTOFF)
    expected = neighbor_list(positions, cell, new.pbc, CUTOFF)
    assert edges(trimmed.receivers, trimmed.senders, trimmed.shifts) == edges(*expected)


def test_small_moves_and_strains_keep_the_list():
    atoms = bulk("Cu", cubic=True)
    known = verlet.make(from_ase(atoms, CUTOFF + SKIN), atoms.pbc)
    cell = atoms.cell.array * 1.02
    positions = verlet.place(known, atoms.get_scaled_positions() @ cell + 0.1, cell)
    positions[0] += 0.1
    assert verlet.holds(known, positions, cell, CUTOFF, SKIN)


@pytest.mark.parametrize("move", ["atom", "cell", "nan", "wrapped"])
def test_large_moves_need_a_new_list(move):
    atoms = bulk("Cu", cubic=True)
    known = verlet.make(from_ase(atoms, CUTOFF + SKIN), atoms.pbc)
    if move == "atom":
        atoms.positions[0, 0] += 0.5
    elif move == "cell":
        atoms.set_cell(atoms.cell * 0.8, scale_atoms=True)
    elif move == "nan":
        atoms.positions[1, 2] = np.nan
    else:
        atoms.positions[1] += atoms.cell[0]
    cell = atoms.cell.array
    assert not verlet.holds(known, verlet.place(known, atoms.positions, cell), cell, CUTOFF, SKIN)


@pytest.mark.parametrize("name", structures())
def test_near_origin_keeps_the_edge_vectors(name):
    atoms = structures()[name]
    far = atoms.copy()
    far.positions += 1000 + (np.arange(3 * len(far)).reshape(-1, 3) * far.pbc) @ far.cell.array
    graph = from_ase(far, CUTOFF)
    near, home, origin = verlet.near_origin(graph, far.pbc)

    def vectors(g):
        return g.positions[g.senders] - g.positions[g.receivers] + g.shifts @ g.cell[0]

    np.testing.assert_allclose(vectors(near), vectors(graph), atol=1e-9)
    np.testing.assert_allclose(near.positions, far.positions - home @ graph.cell[0] - origin, atol=1e-9)
    assert np.abs(near.positions).max() < 20
