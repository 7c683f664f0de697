"""Activations whose first two derivatives are written out.

A step of training differentiates each activation twice. On CPUs its time goes into passes over memory, and XLA makes
fewer of a closed form than of what the chain rule leaves.
"""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float


def with_slopes(function: Callable, *slopes: Callable) -> Callable:
    """The elementwise ``function`` whose derivative by its k-th argument is ``slopes[k]`` of all arguments."""
    function = jax.custom_jvp(function)
    function.defjvps(*(lambda tangent, _, *x, slope=slope: tangent * slope(*x) for slope in slopes))
    return function


def _sigmoid_2(x: Array) -> Array:
    s = jax.nn.sigmoid(x)
    return s * (1 - s) * (1 - 2 * s)


def _sigmoid_1(x: Array) -> Array:
    s = jax.nn.sigmoid(x)
    return s * (1 - s)


def _silu_2(x: Array) -> Array:
    s = jax.nn.sigmoid(x)
    return s * (1 - s) * (2 + x * (1 - 2 * s))


def _silu_1(x: Array) -> Array:
    s = jax.nn.sigmoid(x)
    return s * (1 + x * (1 - s))


def _gated_vv(v: Array, g: Array) -> Array:
    return _silu_2(v) * jax.nn.sigmoid(g)


def _gated_vg(v: Array, g: Array) -> Array:
    return _silu_1(v) * _sigmoid_1(g)


def _gated_gg(v: Array, g: Array) -> Array:
    return jax.nn.silu(v) * _sigmoid_2(g)


_gated_v = with_slopes(lambda v, g: _silu_1(v) * jax.nn.sigmoid(g), _gated_vv, _gated_vg)
_gated_g = with_slopes(lambda v, g: jax.nn.silu(v) * _sigmoid_1(g), _gated_vg, _gated_gg)
_gated = with_slopes(lambda v, g: jax.nn.silu(v) * jax.nn.sigmoid(g), _gated_v, _gated_g)
_sigmoid = with_slopes(jax.nn.sigmoid, with_slopes(_sigmoid_1, _sigmoid_2))
_silu = with_slopes(jax.nn.silu, with_slopes(_silu_1, _silu_2))


def sigmoid(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """1 / (1 + exp(-x))."""
    return _sigmoid(x)


def silu(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """x sigmoid(x)."""
    return _silu(x)


def gated(value: Float[Array, "*s"], gate: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """silu(value) sigmoid(gate), the nonlinearity at the end of a gated MLP."""
    return _gated(value, gate)
