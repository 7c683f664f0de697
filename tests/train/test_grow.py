import dataclasses

import jax
import numpy as np
import pytest

from m3pot.data.batching import assemble, capacity_for
from m3pot.data.graphs import EdgeCache
from m3pot.io.registry import load
from m3pot.potential import predict
from m3pot.train.config import ConfigError, ModelSection
from m3pot.train.grow import grow
from m3pot.train.predictions import predict_frames
from m3pot.train.prepare import random_potential
from tests.train.toy import morse

FIELDS = {"units": 96, "max_l": 4, "max_n": 4}


def large(frames, **fields):
    return random_potential(ModelSection(fields={**FIELDS, **fields}), frames, seed=0)


def at_5_angstrom(count):
    return EdgeCache.build(morse(count), 5.0)


def test_a_grown_model_predicts_what_the_small_one_does():
    small, cache = load("m3pot-s"), at_5_angstrom(6)
    grown = grow(small, large(cache.frames))
    before, after = predict_frames(small, cache), predict_frames(grown, cache)
    assert grown.model.units == 96
    np.testing.assert_allclose(after.energy, before.energy, rtol=1e-6)
    np.testing.assert_allclose(after.forces, before.forces, atol=2e-5)
    np.testing.assert_allclose(after.stress, before.stress, atol=2e-6)


def test_the_new_features_are_ready_to_learn():
    """They differ from each other, and the weights of zero by which the old ones read them have a gradient."""
    cache = at_5_angstrom(2)
    grown = grow(load("m3pot-s"), large(cache.frames))
    graph, _ = assemble(cache, np.arange(2), capacity_for(cache, 4096))
    energy = lambda params: predict(dataclasses.replace(grown, params=params), graph).energy.sum()  # noqa: E731
    slopes = jax.jit(jax.grad(energy))(grown.params)
    unread, slope = grown.params["energy"]["value_0_kernel"][64:, :64], slopes["energy"]["value_0_kernel"][64:, :64]
    assert not unread.any()
    assert (np.abs(slope).max(axis=1) > 0).all()
    assert np.linalg.matrix_rank(slope) > 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"units": 32}, "may be larger"), ({"blocks": 4}, "can be changed"), ({"smooth_pairs": False}, "can be changed")],
)
def test_what_cannot_grow(fields, message):
    with pytest.raises(ConfigError, match=message):
        grow(load("m3pot-s"), large(morse(2), **fields))
