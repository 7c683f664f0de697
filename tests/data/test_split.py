import dataclasses

import numpy as np
import pytest

from m3pot.data.frames import concatenate, make
from m3pot.data.readers import read
from m3pot.data.split import formulas, matches, parents, reduced_formula, split


def crystals(count, frames_each, seed=0, group=False):
    """Frames of random binary crystals, several of each, in random order of atoms."""
    rng = np.random.default_rng(seed)
    parts = []
    for k in range(count):
        pair = rng.choice(np.arange(3, 80), 2, replace=False)
        counts = rng.integers(1, 4, 2)
        for _ in range(frames_each):
            numbers = rng.permutation(np.repeat(pair, counts * rng.integers(1, 3)))
            cell = np.eye(3)[None] * (20 * len(numbers)) ** (1 / 3)
            name = [f"crystal {k}"] if group else None
            parts.append(make([len(numbers)], numbers, np.zeros((len(numbers), 3)), cell, group=name))
    return concatenate(parts)


def test_formulas():
    assert reduced_formula(np.array([8, 26, 8, 26, 8])) == "Fe2O3"
    assert reduced_formula(np.array([29] * 4)) == "Cu"
    assert reduced_formula(np.array([8, 3, 8, 3, 27, 27, 8, 8])) == "CoLiO2"
    frames = crystals(5, 3)
    assert formulas(frames).tolist() == [reduced_formula(frames[k].numbers) for k in range(15)]


@pytest.mark.parametrize("by", ["parent", "formula"])
@pytest.mark.parametrize("group", [True, False])
def test_no_parent_is_in_two_parts(by, group):
    frames = crystals(300, 4, group=group)
    parts = split(frames, {"train": 0.8, "valid": 0.15, "test": 0.05}, by=by)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(frames)))
    names = parents(frames, by)
    sets = [set(names[indices]) for indices in parts.values()]
    assert sum(map(len, sets)) == len(set.union(*sets)) == len(set(names))
    for share, indices in zip((0.8, 0.15, 0.05), parts.values(), strict=True):
        assert len(indices) / len(frames) == pytest.approx(share, abs=0.06)
        assert (np.diff(indices) > 0).all()
    if by == "formula" and group:
        same_formula = dataclasses.replace(frames, group=np.array([f"polymorph {k}" for k in range(len(frames))]))
        again = split(same_formula, {"train": 0.8, "valid": 0.15, "test": 0.05}, by=by)
        assert [i.tolist() for i in again.values()] == [i.tolist() for i in parts.values()]


def test_more_data_move_no_parent():
    first, more = crystals(60, 3, seed=1), crystals(60, 3, seed=2)
    both = concatenate([more, first])
    shares = {"train": 0.7, "valid": 0.3}
    before = set(split(first, shares)["valid"] + len(more))
    after = set(split(both, shares)["valid"])
    assert before == {k for k in after if k >= len(more)}
    assert set(split(both, shares, seed=1)["valid"]) != after


def test_small_sets_have_no_empty_part():
    frames = crystals(3, 5)
    parts = split(frames, {"train": 0.98, "valid": 0.01, "test": 0.01})
    assert all(len(indices) >= 5 for indices in parts.values())
    with pytest.raises(ValueError, match=r"2 parent crystal\(s\), too few for 3 parts"):
        split(crystals(2, 9), {"train": 0.8, "valid": 0.1, "test": 0.1})
    with pytest.raises(ValueError, match="add up to 1"):
        split(frames, {"train": 0.8, "valid": 0.1})
    with pytest.raises(ValueError, match="parent or formula"):
        split(frames, {"train": 0.5, "valid": 0.5}, by="frame")


def test_structures_of_a_test_set_are_found():
    frames = crystals(20, 1)
    near = dataclasses.replace(frames, cell=frames.cell * 1.005)
    far = dataclasses.replace(frames, cell=frames.cell * 1.01)
    assert matches(near, frames[:7]).tolist() == [True] * 7 + [False] * 13
    assert not matches(far, frames[:7]).any()
    doubled = make(
        [2 * frames.n_atoms[0]],
        np.tile(frames[0].numbers, 2),
        np.zeros((2 * frames.n_atoms[0], 3)),
        frames.cell[:1] * 2 ** (1 / 3),
    )
    assert matches(doubled, frames[:1]).all()


def test_a_large_set_without_parents(shared_data):
    labels = read(shared_data("labels/nequix_oam_1_perturbed.npz"))
    parts = split(labels, {"train": 0.97, "valid": 0.03})
    assert len(parts["valid"]) / len(labels) == pytest.approx(0.03, abs=0.01)
