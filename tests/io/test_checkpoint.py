import json
import os

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from m3pot.io.checkpoint import (
    CheckpointError,
    load_potential,
    load_property_model,
    read_header,
    save_potential,
    save_property_model,
    write_atomically,
)
from tests.golden import model_of
from tests.helpers import POTENTIALS, random_potential

PROPERTY = "matgl_property_weighted_state_embed"


def same(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and jax.tree.all(
        jax.tree.map(lambda x, y: np.asarray(x).dtype == np.asarray(y).dtype and np.array_equal(x, y), a, b)
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", POTENTIALS)
def test_round_trip_bit_by_bit(name, dtype, tmp_path):
    potential = random_potential(name, dtype)
    potential.card.update(elements=[1, 8], about="a test")
    save_potential(tmp_path / "x.safetensors", potential)
    found = load_potential(tmp_path / "x.safetensors")
    assert same(found, potential)
    assert found.model == potential.model
    assert found.card == potential.card
    assert found.zbl == potential.zbl
    assert np.shape(found.offset) == ()
    save_potential(tmp_path / "y.safetensors", found)
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "y.safetensors").read_bytes()


def test_round_trip_of_a_property_model(tmp_path):
    model = model_of(PROPERTY)
    save_property_model(tmp_path / "x.safetensors", model)
    found = load_property_model(tmp_path / "x.safetensors")
    assert same(found, model)
    assert found.model == model.model
    assert found.card == model.card
    assert read_header(tmp_path / "x.safetensors")["model"]["M3GNetProperty"]["state"] == "label"


def test_the_two_kinds_are_not_confused(tmp_path):
    save_property_model(tmp_path / "property.safetensors", model_of(PROPERTY))
    save_potential(tmp_path / "potential.safetensors", random_potential("matgl"))
    with pytest.raises(CheckpointError, match="M3GNetProperty"):
        load_potential(tmp_path / "property.safetensors")
    with pytest.raises(CheckpointError, match="M3GNet, not"):
        load_property_model(tmp_path / "potential.safetensors")


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "x.safetensors"
    save_potential(path, random_potential("tensorflow"))
    return path


def tamper(path, *, arrays=lambda a: a, header=lambda h: h, key="m3pot"):
    content, top = load_file(path), read_header(path)
    save_file(arrays(content), path, {key: json.dumps(header(top))})


KEY = "params/block_0_edge_radial/kernel"
DAMAGE = {
    "missing array": (dict(arrays=lambda a: {k: v for k, v in a.items() if k != KEY}), KEY),
    "other shape": (dict(arrays=lambda a: {**a, KEY: np.zeros((2, 2))}), KEY),
    "left over": (dict(arrays=lambda a: {**a, "params/extra": np.zeros(2)}), "params/extra"),
    "no scale": (dict(arrays=lambda a: {k: v for k, v in a.items() if k != "scale"}), "scale"),
    "short shift": (dict(arrays=lambda a: {**a, "shift": np.zeros(7)}), "shift"),
    "newer model": (dict(header=lambda h: {**h, "model": {"Newer": {}}}), "unknown to this version"),
    "newer field": (dict(header=lambda h: {**h, "model": {"M3GNet": {"newer": 1}}}), "newer"),
    "two models": (dict(header=lambda h: {**h, "model": {"M3GNet": {}, "B": {}}}), "not a readable"),
    "no model": (dict(header=lambda h: {"format": "m3pot-1", "card": {}}), "not a readable"),
    "no card": (dict(header=lambda h: {**h, "card": None}), "not a readable"),
    "a list": (dict(header=lambda h: [1]), "not a model of this version"),
    "newer format": (dict(header=lambda h: {**h, "format": "m3pot-9"}), "not a model of this version"),
    "foreign": (dict(key="other"), "not a model of this version"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files(damage, stored):
    changes, reason = DAMAGE[damage]
    tamper(stored, **changes)
    with pytest.raises(CheckpointError, match=reason) as caught:
        load_potential(stored)
    assert str(stored) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"data_NaCl\n", b"PK\x03\x04" + bytes(99)])
def test_files_of_another_kind(content, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="convert"):
        load_potential(tmp_path / "x.safetensors")


def test_truncated_and_absent_files(stored, tmp_path):
    content = stored.read_bytes()
    for end in (4, 100, len(content) // 2, len(content) - 1):
        stored.write_bytes(content[:end])
        with pytest.raises(CheckpointError):
            load_potential(stored)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_potential(tmp_path / "nowhere.safetensors")
    with pytest.raises(CheckpointError):
        load_potential(tmp_path)


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "x.bin"
    write_atomically(path, b"old")

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == ["x.bin"]
