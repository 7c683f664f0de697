import dataclasses

import numpy as np
import pytest

from m3pot.data.frames import concatenate, make, write_npz
from m3pot.data.graphs import EdgeCache
from m3pot.data.guard import LabelError
from m3pot.io.checkpoint import save_potential
from m3pot.models.zbl import ADDED, LEARNED
from m3pot.train.checkpoints import TrainingError
from m3pot.train.config import ConfigError, make_config
from m3pot.train.predictions import predict_frames
from m3pot.train.prepare import prepare, random_potential
from m3pot.train.references import composition
from m3pot.train.replay import join, labelled_by, mixing, moved
from tests.train.toy import edges, morse, pair


@pytest.fixture
def files(tmp_path):
    write_npz(morse(36), tmp_path / "data.npz")
    save_potential(tmp_path / "pair.safetensors", pair())
    return tmp_path


def configured(folder, *overrides, **sections):
    tree = {
        "output": str(folder / "run"),
        "model": {"start": str(folder / "pair.safetensors")},
        "data": {"train": [str(folder / "data.npz")], "valid_fraction": 0.2, "unit_guard": False},
        **sections,
    }
    return make_config(tree, overrides)


def test_split_by_parent_and_references(files):
    said = []
    prepared = prepare(configured(files), say=said.append)
    train, valid = prepared.train.frames, prepared.valid.frames
    assert len(train) + len(valid) == 36
    assert not set(train.group) & set(valid.group)
    assert prepared.probe is None
    (source,) = prepared.sources
    assert (source.name, source.used_for, source.frames, source.kept) == ("data.npz", "train", 36, 36)
    assert len(source.sha256["data.npz"]) == 64
    assert any("frames to train on" in text for text in said)
    left = train.energy - predict_frames(prepared.potential, prepared.train).energy
    assert abs(np.mean(left / train.n_atoms)) < 0.02
    assert (prepared.potential.shift != prepared.source.shift).sum() == 2


def test_a_resumed_run_starts_from_the_same_potential(files):
    config = configured(files)
    first = prepare(config)
    stored = dataclasses.replace(first.potential, shift=first.potential.shift + 1)
    save_potential(files / "run" / "start.safetensors", stored)
    again = prepare(config, resume=True)
    assert np.array_equal(again.potential.shift, stored.shift)
    save_potential(files / "run" / "start.safetensors", pair(units=4))
    with pytest.raises(TrainingError, match="another architecture"):
        prepare(config, resume=True)


def test_repulsion_is_added_short_of_what_a_start_has_learned(files):
    save_potential(files / "pair.safetensors", dataclasses.replace(pair(), zbl=None))
    assert prepare(configured(files)).potential.zbl is None
    assert prepare(configured(files, "model.zbl=true")).potential.zbl == ADDED
    save_potential(files / "pair.safetensors", dataclasses.replace(pair(), zbl=LEARNED))
    assert prepare(configured(files, "model.zbl=true")).potential.zbl == LEARNED
    assert prepare(configured(files, "model.zbl=false")).potential.zbl is None
    random = prepare(configured(files, model={"name": "Pair", "fields": {"units": 4}}))
    assert random.potential.zbl == LEARNED


def test_a_random_start_has_the_elements_and_the_scale_of_the_data(files):
    config = configured(files, model={"name": "Pair", "fields": {"units": 4}})
    prepared = prepare(config)
    assert prepared.source is None
    assert prepared.potential.elements == {29, 47}
    left = prepared.train.frames.energy - predict_frames(prepared.potential, prepared.train).energy
    assert np.abs(left / 4).mean() < 1
    same = random_potential(config.model, prepared.train.frames, config.seed)
    assert np.array_equal(same.params["hidden"]["kernel"], prepared.potential.params["hidden"]["kernel"])


@pytest.mark.parametrize(
    ("overrides", "error", "sentence"),
    [
        (["model={name = 'Nothing'}"], ConfigError, r"model\.name: expected one of M3GNet.*'Nothing'"),
        (["model={name = 'Pair', fields = {atoms = 3}}"], ConfigError, r"model\.fields do not describe a Pair"),
        (["model={name = 'Pair'}", "replay.data=['x']"], ConfigError, r"replay needs model\.start"),
        (["model={name = 'Pair'}", "optim.blend=0.5"], ConfigError, r"optim\.blend needs model\.start"),
        (["data.max_force=1e-9"], ConfigError, r"data\.train: no frame is left"),
        (["data.train=['nowhere.extxyz']"], OSError, r"nowhere\.extxyz"),
        (["data.energy_key='total'"], ValueError, "total"),
    ],
)
def test_errors_name_what_is_wrong(files, overrides, error, sentence):
    with pytest.raises(error, match=sentence) as caught:
        prepare(configured(files, *overrides))
    assert "\n" not in str(caught.value)


def test_elements_that_the_model_does_not_know(files):
    potential = pair()
    potential.card["elements"] = [47]
    save_potential(files / "pair.safetensors", potential)
    with pytest.raises(LabelError, match=r"does not know \(Cu\)"):
        prepare(configured(files))


def test_blind_structures_are_dropped(files):
    write_npz(morse(36)[:3], files / "test.npz")
    with_all, without = configured(files), configured(files, f"data.blind=['{files / 'test.npz'}']")
    (everything,), (some,) = (prepare(config).sources for config in (with_all, without))
    assert some.kept <= everything.kept - 3


def test_mixing_meets_the_fraction_and_leaves_out_nothing():
    for new, old, fraction in [(10, 1000, 0.5), (1000, 10, 0.5), (50, 50, 0.2), (3, 7, 0.9), (200, 5000, 0.3)]:
        indices = mixing(new, old, fraction)
        assert set(indices) == set(range(new + old))
        share = (indices >= new).mean()
        assert share == pytest.approx(fraction, rel=0.35)


def test_caches_are_joined():
    a, b = morse(8), morse(8, seed=1)
    joined, direct = join(edges(a), edges(b)), edges(concatenate([a, b]))
    for field in ("edge_ptr", "degrees", "senders", "shifts"):
        np.testing.assert_array_equal(getattr(joined, field), getattr(direct, field))
    with pytest.raises(ValueError, match="one cutoff"):
        join(edges(a), EdgeCache.build(b, 3.0))


def test_replayed_frames_are_labelled_by_the_start_and_moved(files):
    frames = morse(12, seed=2)
    bare = make(frames.n_atoms, frames.numbers, frames.positions, frames.cell, group=frames.group)
    write_npz(bare, files / "old.npz")
    config = configured(files, replay={"data": [str(files / "old.npz")], "fraction": 0.5, "probe": 0.3})
    prepared = prepare(config)
    assert prepared.probe is not None
    correction = np.asarray(prepared.potential.shift, float) - np.asarray(prepared.source.shift, float)
    expected = predict_frames(prepared.source, prepared.probe)
    np.testing.assert_allclose(
        prepared.probe.frames.energy, expected.energy + composition(expected) @ correction, atol=1e-4
    )
    np.testing.assert_allclose(prepared.probe.frames.forces, expected.forces, atol=1e-5)
    replayed = np.char.startswith(prepared.train.frames.group, "parent 2")
    assert replayed.mean() == pytest.approx(0.5, abs=0.1)
    assert not set(prepared.train.frames.group) & set(prepared.probe.frames.group)
    assert len(prepared.frames) + len(prepared.valid) + len(prepared.probe) == 48


def test_labels_that_are_there_are_kept():
    cache = edges(morse(8))
    energy = cache.frames.energy.copy()
    energy[2] = np.nan  # its forces are there
    half = dataclasses.replace(cache, frames=dataclasses.replace(cache.frames, energy=energy))
    assert labelled_by(pair(), half) is half
    assert np.array_equal(moved(cache, np.zeros(95)).frames.energy, cache.frames.energy)
