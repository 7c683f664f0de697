"""Sums over atoms and edges that belong together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3pot.math.segment import segment_sum


@pytest.mark.parametrize("ordered", [False, True])
def test_sums_by_segment(ordered):
    segments = np.array([0, 0, 2, 3, 3, 3]) if ordered else np.array([3, 0, 2, 3, 0, 3])
    values = np.arange(12.0).reshape(6, 2)
    expected = np.zeros((5, 2))
    np.add.at(expected, segments, values)
    result = segment_sum(jnp.asarray(values), segments, 5, ordered=ordered)
    np.testing.assert_array_equal(result, expected)


def test_nothing_to_sum():
    result = segment_sum(jnp.zeros((0, 3)), np.zeros(0, int), 2)
    np.testing.assert_array_equal(result, np.zeros((2, 3)))


def test_nan_stays_in_its_segment():
    values = jnp.array([1.0, np.nan, 2.0])
    result = segment_sum(values, np.array([0, 1, 0]), 2)
    assert result[0] == 3
    assert np.isnan(result[1])
    np.testing.assert_array_equal(jax.grad(lambda v: segment_sum(v, np.array([0, 1, 0]), 2)[0])(values), [1, 0, 1])
