"""Radial bases and cutoff functions of M3GNet. Lengths in A; every function works in the dtype of ``r``.

Source: C. Chen, S. P. Ong, Nat. Comput. Sci. 2, 718 (2022), Methods; smooth basis after
E. Kocer, J. K. Mason, H. Erturk, AIP Advances 10, 015021 (2020).
"""

import functools
import itertools
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import optimize, special

from m3pot.math import safe


def polynomial_cutoff(r: Float[Array, "*e"], cutoff: float) -> Float[Array, "*e"]:
    """1 - 6t^5 + 15t^4 - 10t^3 with t = r/cutoff, 0 beyond; value, slope and curvature vanish at the cutoff."""
    t = jnp.minimum(r / cutoff, 1)
    return jnp.where(r < cutoff, 1 - t * t * t * (10 - t * (15 - 6 * t)), 0)


@functools.cache
def _smooth_recursion(count: int) -> tuple[np.ndarray, np.ndarray]:
    """e_n and d_n of the orthogonalisation g_n = (f_n + sqrt(e_n/d_{n-1}) g_{n-1}) / sqrt(d_n)."""
    n = np.arange(count, dtype=np.float64)
    e = n**2 * (n + 2) ** 2 / (4 * (n + 1) ** 4 + 1)
    d = np.ones(count)
    for k in range(1, count):
        d[k] = 1 - e[k] / d[k - 1]
    return e, d


def smooth_basis(r: Float[Array, "*e"], count: int, cutoff: float) -> Float[Array, "*e count"]:
    """Orthogonal smooth functions g_0 .. g_{count-1}; value, slope and curvature vanish at the cutoff.

    Beyond the cutoff the formula goes on oscillating: the caller must mask.
    """
    e, d = _smooth_recursion(count)
    x = r * (math.pi / cutoff)
    sincs = [safe.sinc((k + 1) * x) for k in range(count + 1)]
    basis: list[Array] = []
    for n in range(count):
        amplitude = (-1) ** n * math.sqrt(2) * math.pi / cutoff**1.5
        amplitude *= (n + 1) * (n + 2) / math.hypot(n + 1, n + 2)
        f = amplitude * (sincs[n] + sincs[n + 1])
        if n:
            f = (f + math.sqrt(e[n] / d[n - 1]) * basis[-1]) / math.sqrt(d[n])
        basis.append(f)
    return jnp.stack(basis, axis=-1)


@functools.cache
def bessel_zeros(orders: int, count: int) -> np.ndarray:
    """z[l, n], the (n+1)-th positive zero of the spherical Bessel function j_l, for l < orders and n < count.

    The zeros of j_l lie between neighbouring zeros of j_{l-1}, and those of j_0 at multiples of pi.
    """
    row = np.arange(1, count + orders) * np.pi
    table = [row[:count]]
    for order in range(1, orders):
        row = np.array(
            [
                optimize.brentq(lambda x, l=order: special.spherical_jn(l, x), a, b, xtol=1e-15, rtol=1e-15)
                for a, b in itertools.pairwise(row)
            ]
        )
        table.append(row[:count])
    return np.array(table)


def spherical_bessel(order: int, x: Float[Array, "*e"]) -> Float[Array, "*e"]:
    """j_order(x) for x >= 0: power series for small x, upward recurrence beyond (no digits lost in float32)."""
    small = x < 1 + 0.5 * order
    series_x = jnp.where(small, x, 0)
    series = jnp.ones_like(x)
    for k in range(9 + order, 0, -1):
        series = 1 - series_x * series_x / (2 * k * (2 * k + 2 * order + 1)) * series
    for l in range(1, order + 1):
        series = series * series_x / (2 * l + 1)
    far = jnp.where(small, 1 + 0.5 * order, x)
    sine, inverse = jnp.sin(far), 1 / far
    current = sine * inverse
    if order:
        previous, current = current, (current - jnp.cos(far)) * inverse
        for l in range(1, order):
            previous, current = current, (2 * l + 1) * inverse * current - previous
    return jnp.where(small, series, current)


def bessel_basis(r: Float[Array, "*e"], orders: int, count: int, cutoff: float) -> Float[Array, "*e orders count"]:
    """chi_ln(r) = sqrt(2/cutoff^3) / |j_{l+1}(z_ln)| j_l(z_ln r/cutoff), orthonormal on [0, cutoff] with weight r^2.

    Vanishes at the cutoff with a slope that does not.
    """
    zeros = bessel_zeros(orders, count)
    columns = []
    for l in range(orders):
        scale = math.sqrt(2 / cutoff**3) / np.abs(special.spherical_jn(l + 1, zeros[l]))
        argument = r[..., None] * jnp.asarray(zeros[l] / cutoff, r.dtype)
        columns.append(jnp.asarray(scale, r.dtype) * spherical_bessel(l, argument))
    return jnp.stack(columns, axis=-2)
