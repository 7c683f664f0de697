"""Values and derivatives where the textbook formulas have none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3pot.execution import numerics
from m3pot.math import safe


def derivatives(function, order):
    """function and its derivatives up to ``order``, for many arguments at once (one compilation)."""
    chain = [function]
    for _ in range(order):
        chain.append(jax.grad(chain[-1]))
    return jax.jit(lambda x: [jax.vmap(f)(x) for f in chain])


def sinc_series(x, order):
    """The derivative of sin(x)/x from its power series, |x| <= 1.5."""
    total = np.zeros_like(x)
    for k in range(20):
        power = 2 * k - order
        if power >= 0:
            factor = (-1.0) ** k / np.prod(np.arange(1.0, 2 * k + 2)) * np.prod(np.arange(power + 1.0, 2 * k + 1))
            total = total + factor * x**power
    return total


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("float64", 1e-14)])
def test_sinc_is_smooth_through_zero(dtype, tolerance):
    """Both branches, their joint at 0.3, and zero itself, to the third derivative."""
    x = np.array([0, 1e-30, 1e-8, 1e-3, 0.1, 0.2999999, 0.3, 0.3000001, 0.31, 1.5, -0.2, -0.7]).astype(dtype)
    with numerics(dtype):
        values = derivatives(safe.sinc, 3)(x)
    for order, value in enumerate(values):
        assert value.dtype == dtype
        digits_lost = 10 ** max(order - 1, 0)  # in sin(x)/x at 0.3
        np.testing.assert_allclose(value, sinc_series(x.astype(float), order), rtol=0, atol=tolerance * digits_lost)


def test_sinc_derivatives_at_zero():
    with numerics("float64"):
        values = [float(v[0]) for v in derivatives(safe.sinc, 3)(np.zeros(1))]
    assert values == pytest.approx([1, 0, -1 / 3, 0], abs=1e-15)


def test_sinc_far_out():
    x = np.linspace(0.3, 60, 1000)
    with numerics("float64"):
        np.testing.assert_allclose(safe.sinc(jnp.asarray(x)), np.sin(x) / x, rtol=0, atol=1e-15)


@jax.jit
def norm_and_derivatives(x):
    """Value, slope, curvature and third derivative."""
    curvature = jax.jacfwd(jax.jacrev(safe.norm))
    return safe.norm(x), jax.jacrev(safe.norm)(x), curvature(x), jax.jacfwd(curvature)(x)


def test_norm_derivatives_at_zero_vanish():
    """Value 0 and all derivatives 0 at the zero vector, in any direction, and none is NaN."""
    with numerics("float64"):
        assert not any(np.any(derivative) for derivative in norm_and_derivatives(np.zeros(3)))


def test_norm_derivatives_elsewhere():
    """d|x| = u, d2|x| = (1 - uu)/|x|, and the third derivative along a tangent and twice across is -1/r^2."""
    with numerics("float64"):
        value, slope, curvature, third = norm_and_derivatives(np.array([0.3, -1.2, 0.4]))
    r, u = 1.3, np.array([0.3, -1.2, 0.4]) / 1.3
    np.testing.assert_allclose(value, r, rtol=1e-15)
    np.testing.assert_allclose(slope, u, rtol=1e-14)
    np.testing.assert_allclose(curvature, (np.eye(3) - np.outer(u, u)) / r, atol=1e-14)
    across = np.cross(u, [1, 0, 0])
    across /= np.linalg.norm(across)
    np.testing.assert_allclose(np.einsum("abc,a,b,c", third, across, across, u), -1 / r**2, rtol=1e-13)


def test_norm_of_a_batch_with_zeros():
    vectors = jnp.array([[3.0, 4, 0], [0, 0, 0], [0, 0, 2]])
    np.testing.assert_allclose(safe.norm(vectors), [5, 0, 2], rtol=1e-7)
    slope = jax.grad(lambda v: safe.norm(v).sum())(vectors)
    np.testing.assert_allclose(slope, [[0.6, 0.8, 0], [0, 0, 0], [0, 0, 1]], rtol=1e-6)
