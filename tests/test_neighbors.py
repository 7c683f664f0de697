"""Neighbour lists against brute force, for any cell and any mixture of periodic directions."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from m3pot import neighbors
from m3pot.neighbors import neighbor_list
from tests.helpers import structures

PBC = [*itertools.product((False, True), repeat=3)]
FINDERS = ["vesin", "pymatgen"]


@pytest.fixture(params=FINDERS)
def finder(request, monkeypatch):
    """The same function with vesin, and without."""
    if request.param == "pymatgen":
        monkeypatch.setattr(neighbors, "vesin", None)
    elif neighbors.vesin is None:
        pytest.skip("vesin has no wheel for this platform")
    return request.param


def brute_force(positions, cell, pbc, cutoff):
    """Set of (i, j, s1, s2, s3), and the distance to the cutoff of the pair that is nearest to it."""
    periodic = np.flatnonzero(pbc)
    reach = np.zeros(3, int)
    if len(periodic):
        fractional = positions @ np.linalg.pinv(cell[periodic])
        heights = 1 / np.linalg.norm(np.linalg.pinv(cell[periodic]), axis=0)
        reach[periodic] = np.ceil(np.ptp(fractional, axis=0) + cutoff / heights)
    shifts = np.array([*itertools.product(*(range(-k, k + 1) for k in reach))])
    vectors = positions[None, :, None] - positions[:, None, None] + shifts @ np.where(np.array(pbc)[:, None], cell, 0)
    r = np.linalg.norm(vectors, axis=-1)
    found = {(i, j, *shifts[s]) for i, j, s in np.argwhere(r <= cutoff) if i != j or shifts[s].any()}
    return found, np.abs(r - cutoff).min()


def as_set(edges):
    receivers, senders, shifts = edges
    rows = [*zip(receivers.tolist(), senders.tolist(), *shifts.T.tolist(), strict=True)]
    assert len(set(rows)) == len(rows), "an edge comes twice"
    return set(rows)


@st.composite
def problems(draw):
    """Cells down to 1.5 A thin, skewed by up to two lattice vectors, in any orientation and of either handedness."""

    def number(low, high):
        return draw(st.floats(low, high, allow_nan=False, width=32))

    a, b, c = (number(1.5, 7) for _ in range(3))
    cell = np.array([[a, 0, 0], [number(-2, 2) * a, b, 0], [number(-2, 2) * a, number(-2, 2) * b, c]])
    turn, _ = np.linalg.qr(np.random.default_rng(draw(st.integers(0, 99))).normal(size=(3, 3)))
    cell = draw(st.permutations([*(cell @ turn)]))
    count = draw(st.integers(1, 5))
    positions = [[number(-9, 9) for _ in range(3)] for _ in range(count)]
    return np.array(positions), np.array(cell), draw(st.sampled_from(PBC)), number(0.5, 6)


@settings(max_examples=120, deadline=None, derandomize=True, database=None)
@example((np.zeros((1, 3)), np.eye(3) * 1.5, (True, True, True), 5.1))
@example((np.array([[40.0, -30, 7], [41, -30, 7]]), np.diag([3.0, 4, -5]), (True, False, True), 4.9))
@given(problems())
def test_equals_brute_force(problem):
    """Both finders against explicit loops over images."""
    positions, cell, pbc, cutoff = problem
    expected, tie = brute_force(positions, cell, pbc, cutoff)
    assume(tie > 1e-6)
    assert as_set(neighbor_list(positions, cell, pbc, cutoff)) == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbors, "vesin", None)
        assert as_set(neighbor_list(positions, cell, pbc, cutoff)) == expected


@pytest.mark.parametrize("cutoff", [4.83, 6.01])
def test_awkward_structures(finder, cutoff):
    for key, atoms in structures().items():
        expected, _ = brute_force(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
        assert as_set(neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)) == expected, key


@pytest.mark.parametrize("pbc", PBC, ids=str)
def test_every_mixture_of_periodic_directions(finder, pbc):
    cell = np.array([[2.0, 0.3, 0], [-0.4, 2.5, 0.6], [0.5, 0, 3.1]])
    positions = np.array([[0.1, 0, 0.2], [1.0, 4.3, 1.1], [-3.0, 0.2, 0.4]])
    expected, _ = brute_force(positions, cell, pbc, 4.41)
    assert as_set(neighbor_list(positions, cell, pbc, 4.41)) == expected
    other = np.where(np.array(pbc)[:, None], cell, [7.7, 0.1, 0])  # rows of free directions must not matter
    assert as_set(neighbor_list(positions, other, pbc, 4.41)) == expected


def test_sorted_by_centre_and_typed(finder):
    atoms = structures()["dense metal"]
    receivers, senders, shifts = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, 5.0)
    assert (np.diff(receivers) >= 0).all()
    assert receivers.dtype == senders.dtype == shifts.dtype == np.int32
    assert shifts.shape == (len(receivers), 3)


def test_every_edge_has_its_reverse(finder):
    atoms = structures()["skewed"]
    edges = as_set(neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, 5.0))
    assert edges == {(j, i, -a, -b, -c) for i, j, a, b, c in edges}


def test_lattice_smaller_than_the_cutoff(finder):
    """One atom in a cube of 1 A sees all its images: 514 lattice points lie within 5 of the origin."""
    receivers, senders, shifts = neighbor_list(np.zeros((1, 3)), np.eye(3), np.ones(3, bool), 5.0001)
    assert len(receivers) == 514
    assert not receivers.any()
    assert not senders.any()
    assert np.linalg.norm(shifts, axis=1).max() == 5


def test_no_atoms_and_lone_atoms(finder):
    none = neighbor_list(np.zeros((0, 3)), np.eye(3), np.ones(3, bool), 5.0)
    lone = neighbor_list(np.ones((1, 3)), np.zeros((3, 3)), np.zeros(3, bool), 5.0)
    for receivers, senders, shifts in (none, lone):
        assert receivers.shape == senders.shape == (0,)
        assert shifts.shape == (0, 3)


def test_coincident_atoms_are_an_edge(finder):
    """So that a clash can be seen."""
    edges = as_set(neighbor_list(np.ones((2, 3)), np.zeros((3, 3)), np.zeros(3, bool), 5.0))
    assert edges == {(0, 1, 0, 0, 0), (1, 0, 0, 0, 0)}
