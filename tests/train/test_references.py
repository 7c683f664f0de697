import dataclasses

import numpy as np
import pytest

from m3pot.data.frames import make
from m3pot.train.prepare import refit
from m3pot.train.references import (
    choose_ridge,
    composition,
    element_references,
    force_rms,
    with_references,
)
from tests.train.toy import edges, morse, pair


def test_composition_counts_atoms():
    frames = morse(36)
    counts = composition(frames)
    assert counts.shape == (36, 95)
    assert (counts.sum(axis=1) == 4).all()
    assert set(np.flatnonzero(counts.sum(axis=0))) == {29, 47}


def test_planted_references_are_recovered():
    frames = morse(36)
    planted = np.zeros(95)
    planted[[29, 47]] = -3.7, 1.3
    noise = np.random.default_rng(0).normal(0, 1e-3, len(frames))
    residual = composition(frames) @ planted + noise
    residual[3] = np.nan
    found = element_references(frames, residual, ridge=1e-4)
    np.testing.assert_allclose(found, planted, atol=2e-3)
    assert (found[[1, 8, 94]] == 0).all()


def test_a_strong_ridge_keeps_references():
    frames = morse(8)
    assert np.abs(element_references(frames, np.ones(8), ridge=1e6)).max() < 1e-4


def test_the_ridge_suits_the_energies():
    """Errors that have nothing to do with the elements leave references alone; a foreign energy scale does not."""
    rng = np.random.default_rng(0)
    numbers = np.array([rng.choice(range(1, 41), 4) for _ in range(60)])
    frames = make([4] * 60, numbers.ravel(), np.zeros((240, 3)), np.tile(9 * np.eye(3), (60, 1, 1)))
    counts, noise = composition(frames), rng.normal(size=60)
    assert choose_ridge(frames, noise) >= 1
    assert choose_ridge(frames, noise + counts @ rng.normal(scale=500, size=95)) == 0.01
    assert choose_ridge(frames[[0]], noise[:1]) == 0.01


def test_force_scale():
    frames = morse(8)
    assert force_rms(frames) == pytest.approx(np.sqrt((frames.forces**2).mean()))
    assert force_rms(dataclasses.replace(frames, forces=np.full_like(frames.forces, np.nan))) == 1.0


def test_refit_meets_any_energy_scale_in_spite_of_the_ridge():
    """Also that of an all-electron code; and a wrong energy does not spoil it."""
    potential, cache = pair(), edges(morse(36))
    moved = np.zeros(95)
    moved[[29, 47]] = -12_000, -13_100
    energy = cache.frames.energy + composition(cache.frames) @ moved
    energy[5] += 400
    other = dataclasses.replace(cache, frames=dataclasses.replace(cache.frames, energy=energy))
    difference = refit(potential, other, ridge=1e-2).shift - refit(potential, cache, ridge=1e-2).shift
    np.testing.assert_allclose(difference, moved, atol=0.02)


def test_refit_of_a_large_set_looks_at_some_frames_and_at_all_with_rare_elements(monkeypatch):
    """A frame with the only silicon counts, however few frames are drawn."""
    frames = morse(36)
    numbers, energy = frames.numbers.copy(), frames.energy.copy()
    numbers[frames.ptr[17]] = 14
    energy[17] += 30
    cache = edges(dataclasses.replace(frames, numbers=numbers, energy=energy))
    monkeypatch.setattr("m3pot.train.prepare._ENOUGH", 6)
    monkeypatch.setattr("m3pot.train.prepare._RARE", 1)
    seen = []
    monkeypatch.setattr(
        "m3pot.train.prepare.composition", lambda frames: seen.append(len(frames)) or composition(frames)
    )
    moved = refit(pair(), cache, ridge=1e-4).shift - pair().shift
    assert moved[14] > 10
    assert seen[-1] in (6, 7)


def test_references_move_without_a_trace_in_the_given_potential():
    potential = pair()
    correction = np.zeros(95)
    correction[29] = 0.5
    moved = with_references(potential, correction)
    assert moved.shift[29] == potential.shift[29] + 0.5
    assert moved.shift.dtype == np.float32
    assert moved.card == potential.card
