"""Radial bases against scipy, their derivatives, orthonormality and smooth ends."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import spherical_jn

from m3pot.execution import numerics
from m3pot.math import radial

CUTOFF = 5.0


def with_derivatives(function, order):
    """function(r) -> (rows, columns) and its derivatives by r, compiled once."""
    chain = [function]
    for _ in range(order):
        chain.append(lambda r, f=chain[-1]: jax.jvp(f, (r,), (jnp.ones_like(r),))[1])
    return jax.jit(lambda r: [f(r) for f in chain])


def bessel_reference(r, orders, count):
    """chi_ln and its slope from scipy, float64."""
    zeros, r = radial.bessel_zeros(orders, count), np.asarray(r, np.float64)
    value, slope = np.zeros((2, len(r), orders, count))
    for l in range(orders):
        for n, z in enumerate(zeros[l]):
            scale = np.sqrt(2 / CUTOFF**3) / abs(spherical_jn(l + 1, z))
            value[:, l, n] = scale * spherical_jn(l, z * r / CUTOFF)
            slope[:, l, n] = scale * spherical_jn(l, z * r / CUTOFF, derivative=True) * z / CUTOFF
    return value, slope


@functools.cache
def bessel_with_slope(dtype, orders=4, count=4):
    function = with_derivatives(lambda r: radial.bessel_basis(r, orders, count, CUTOFF), 1)

    def evaluate(r):
        with numerics(dtype):
            return [np.asarray(x) for x in function(np.resize(r, 1000).astype(dtype))]

    return evaluate


def test_zeros_of_bessel_functions():
    """Abramowitz and Stegun, table 10.6; the zeros of j_0 are multiples of pi."""
    zeros = radial.bessel_zeros(5, 4)
    np.testing.assert_allclose(zeros[0], np.pi * np.arange(1, 5), rtol=1e-15)
    np.testing.assert_allclose(zeros[1, :3], [4.493409, 7.725252, 10.904122], atol=1e-6)
    np.testing.assert_allclose(zeros[2, :2], [5.763459, 9.095011], atol=1e-6)
    np.testing.assert_allclose(zeros[3, 0], 6.987932, atol=1e-6)
    for l, row in enumerate(zeros):
        np.testing.assert_allclose(spherical_jn(l, row), 0, atol=1e-15)
        assert (np.diff(row) > 0).all()
    assert (np.diff(zeros, axis=0) > 0).all()


@pytest.mark.parametrize("order", range(7))
def test_spherical_bessel_both_branches(order):
    x = np.concatenate([[0], np.geomspace(1e-8, 1, 300), np.linspace(1, 30, 700)])
    with numerics("float64"):
        value = jax.jit(radial.spherical_bessel, static_argnums=0)(order, x)
    np.testing.assert_allclose(value, spherical_jn(order, x), rtol=0, atol=1e-13)


def test_bessel_basis_in_double():
    r = np.linspace(0, CUTOFF, 1000)
    expected, expected_slope = bessel_reference(r, 4, 4)
    value, slope = bessel_with_slope("float64")(r)
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(slope, expected_slope, rtol=0, atol=1e-12)


def test_bessel_basis_in_single_has_good_slopes_at_short_distance():
    """Closed forms lose digits there: 4e-3 at 0.1 A. The series does not."""
    r = np.concatenate([[0], np.geomspace(0.01, CUTOFF, 999)]).astype(np.float32)
    expected, expected_slope = bessel_reference(r, 4, 4)
    value, slope = bessel_with_slope("float32")(r)
    assert value.dtype == slope.dtype == np.float32
    np.testing.assert_allclose(value, expected, rtol=0, atol=2e-6)
    np.testing.assert_allclose(slope, expected_slope, rtol=0, atol=5e-6)
    near = (r > 0) & (r < 0.5)
    np.testing.assert_allclose(slope[near], expected_slope[near], rtol=0, atol=2e-6)


def quadrature(basis):
    """Matrix of integrals over [0, cutoff] of products of columns with weight r^2."""
    nodes, weights = np.polynomial.legendre.leggauss(100)
    r, weights = (nodes + 1) * CUTOFF / 2, weights * CUTOFF / 2
    with numerics("float64"):
        columns = np.asarray(jax.jit(basis)(r))
    return np.einsum("ea,eb,e->ab", columns, columns, weights * r**2)


@pytest.mark.parametrize("l", range(4))
def test_bessel_basis_is_orthonormal(l):
    gram = quadrature(lambda r: radial.bessel_basis(r, 4, 4, CUTOFF)[:, l])
    np.testing.assert_allclose(gram, np.eye(4), atol=1e-12)


def test_smooth_basis_is_orthonormal():
    np.testing.assert_allclose(quadrature(lambda r: radial.smooth_basis(r, 6, CUTOFF)), np.eye(6), atol=1e-12)


def test_smooth_basis_ends_smoothly():
    """Value, slope and curvature vanish at the cutoff, the third derivative does not."""
    function = with_derivatives(lambda r: radial.smooth_basis(r, 9, CUTOFF), 3)
    with numerics("float64"):
        value, slope, curvature, third = (np.abs(x[0]).max() for x in function(np.array([CUTOFF])))
    assert value < 1e-14
    assert slope < 1e-12
    assert curvature < 1e-11
    assert third > 0.1


def test_smooth_basis_at_zero_distance_is_finite():
    function = with_derivatives(lambda r: radial.smooth_basis(r, 3, CUTOFF), 2)
    with numerics("float64"):
        at_zero, nearby = (function(np.array([r])) for r in (0.0, 1e-6))
    for a, b in zip(at_zero, nearby, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_smooth_basis_in_single_is_near_double():
    r = np.linspace(0.1, CUTOFF, 300)
    results = {}
    for dtype in ("float32", "float64"):
        with numerics(dtype):
            results[dtype] = with_derivatives(lambda r: radial.smooth_basis(r, 9, CUTOFF), 1)(r.astype(dtype))
    for single, double in zip(results["float32"], results["float64"], strict=True):
        assert single.dtype == np.float32
        np.testing.assert_allclose(single, double, rtol=0, atol=1e-5 * np.abs(double).max())


def test_polynomial_cutoff():
    """1 at zero, 0 from the cutoff on, three derivatives: value, slope and curvature vanish at the end."""
    function = with_derivatives(lambda r: radial.polynomial_cutoff(r, 4.0), 3)
    with numerics("float64"):
        inside = [np.asarray(x) for x in function(np.array([0, 1.3, 4 * (1 - 1e-12)]))]
        beyond = [np.asarray(x) for x in function(np.array([4.0, 4.1, 100.0]))]
    t = 1.3 / 4
    assert inside[0][:2] == pytest.approx([1, 1 - 6 * t**5 + 15 * t**4 - 10 * t**3], rel=1e-15)
    assert inside[1][1] == pytest.approx((-30 * t**4 + 60 * t**3 - 30 * t**2) / 4, rel=1e-13)
    assert max(abs(x[2]) for x in inside[:3]) < 1e-11
    assert abs(inside[3][2]) > 0.5
    assert not any(x.any() for x in beyond)
