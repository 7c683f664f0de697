"""Real harmonics against scipy, and the addition theorem that replaces triplets."""

import jax
import numpy as np
import pytest
from scipy.special import eval_legendre, sph_harm_y

from m3pot.execution import numerics
from m3pot.math import spherical

ORDERS = 7  # l <= 6


def unit_vectors(count, dtype="float64"):
    vectors = np.random.default_rng(3).normal(size=(count, 3))
    vectors = np.vstack([vectors / np.linalg.norm(vectors, axis=1)[:, None], np.eye(3), -np.eye(3)])
    return vectors.astype(dtype)


def harmonics(unit, orders=ORDERS):
    with numerics(str(unit.dtype)):
        return np.asarray(jax.jit(spherical.harmonics, static_argnums=1)(unit, orders))


def real_from_complex(unit):
    """Y_l0, sqrt2 (-1)^m Re Y_lm and sqrt2 (-1)^m Im Y_l|m| of scipy, which has the Condon-Shortley sign."""
    theta, phi = np.arccos(unit[:, 2]), np.arctan2(unit[:, 1], unit[:, 0])
    columns = []
    for l in range(ORDERS):
        for m in range(-l, l + 1):
            y = sph_harm_y(l, abs(m), theta, phi)
            sign = np.sqrt(2) * (-1) ** m
            columns.append(y.real if m == 0 else sign * (y.real if m > 0 else y.imag))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 3e-6), ("float64", 1e-13)])
def test_equal_scipy(dtype, tolerance):
    unit = unit_vectors(50, dtype)
    values = harmonics(unit)
    assert values.dtype == dtype
    np.testing.assert_allclose(values, real_from_complex(unit.astype(float)), rtol=0, atol=tolerance)


def test_addition_theorem():
    unit = unit_vectors(30)
    values, cosine = harmonics(unit), unit @ unit.T
    for l in range(ORDERS):
        columns = values[:, spherical.order_of_column(ORDERS) == l]
        assert columns.shape[1] == 2 * l + 1
        expected = (2 * l + 1) / (4 * np.pi) * eval_legendre(l, cosine)
        np.testing.assert_allclose(columns @ columns.T, expected, rtol=0, atol=1e-13)


def test_columns_do_not_depend_on_the_highest_order():
    unit = unit_vectors(5)
    np.testing.assert_allclose(harmonics(unit, 3), harmonics(unit)[:, :9], rtol=0, atol=1e-15)


def test_derivatives_are_finite_at_the_poles():
    """Polynomials have no pole: the slope there is the limit of slopes nearby."""
    with numerics("float64"):
        slope = jax.jit(jax.vmap(jax.jacfwd(lambda u: spherical.harmonics(u, 4))))(
            np.array([[0, 0, 1.0], [1e-7, 0, 1], [0, 0, -1], [0, -1e-7, -1]])
        )
    np.testing.assert_allclose(slope[0], slope[1], atol=1e-5)
    np.testing.assert_allclose(slope[2], slope[3], atol=1e-5)
    assert np.abs(slope).max() > 1
