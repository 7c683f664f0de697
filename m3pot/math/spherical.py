"""Real spherical harmonics as polynomials of the unit vector: no angle, no acos, no pole."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def harmonics(unit: Float[Array, "*e 3"], orders: int) -> Float[Array, "*e orders*orders"]:
    """Y_lm for l < orders, orthonormal convention, column l^2 + l + m.

    Addition theorem: sum_m Y_lm(u) Y_lm(w) = (2l+1)/(4 pi) P_l(u.w).
    Recurrences in (x + iy)^m and Q_lm(z), see e.g. NIST DLMF 14.10.3 and 14.30.
    """
    x, y, z = unit[..., 0], unit[..., 1], unit[..., 2]
    cosines, sines = [jnp.ones_like(x)], [jnp.zeros_like(x)]  # real and imaginary part of (x + iy)^m
    for _ in range(1, orders):
        a, b = cosines[-1], sines[-1]
        cosines.append(a * x - b * y)
        sines.append(a * y + b * x)
    q: dict[tuple[int, int], Array] = {}
    for m in range(orders):
        q[m, m] = jnp.full_like(x, math.prod(range(1, 2 * m, 2)))
        if m + 1 < orders:
            q[m + 1, m] = (2 * m + 1) * z * q[m, m]
        for l in range(m + 2, orders):
            q[l, m] = ((2 * l - 1) * z * q[l - 1, m] - (l + m - 1) * q[l - 2, m]) / (l - m)
    columns = []
    for l in range(orders):
        for m in range(-l, l + 1):
            k = abs(m)
            scale = math.sqrt((2 * l + 1) / (4 * math.pi) * math.factorial(l - k) / math.factorial(l + k))
            part = sines[k] if m < 0 else cosines[k]
            columns.append((scale if m == 0 else scale * math.sqrt(2)) * q[l, k] * part)
    return jnp.stack(columns, axis=-1)


def order_of_column(orders: int) -> np.ndarray:
    """The order l of each column of :func:`harmonics`."""
    return np.repeat(np.arange(orders), 2 * np.arange(orders) + 1)
