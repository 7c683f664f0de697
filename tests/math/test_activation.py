"""The written-out derivatives are those that automatic differentiation finds, up to the third."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3pot.execution import numerics
from m3pot.math import activation

PLAIN = {
    activation.sigmoid: jax.nn.sigmoid,
    activation.silu: jax.nn.silu,
    activation.gated: lambda v, g: jax.nn.silu(v) * jax.nn.sigmoid(g),
}


@pytest.mark.parametrize("function", PLAIN, ids=lambda f: f.__name__)
@pytest.mark.parametrize("order", range(4))
def test_derivatives(function, order):
    count = 2 if function is activation.gated else 1
    points = np.random.default_rng(order).normal(scale=3, size=(count, 50))
    ours, plain = function, PLAIN[function]
    for _ in range(order):
        # All mixed derivatives: each round differentiates the sum of those before, with weights that tell them apart.
        ours, plain = (
            (lambda *x, f=f: sum((k + 1) * jax.grad(f, argnums=k)(*x) for k in range(count))) for f in (ours, plain)
        )
    with numerics("float64"):
        x = [jnp.asarray(row) for row in points]
        np.testing.assert_allclose(jax.vmap(ours)(*x), jax.vmap(plain)(*x), rtol=1e-12, atol=1e-12)


def test_large_arguments_stay_finite():
    with numerics("float32"):
        x = jnp.asarray([-1e4, -100.0, 0.0, 100.0, 1e4], jnp.float32)
        for function in (activation.sigmoid, activation.silu):
            for f in (function, jax.grad(function), jax.grad(jax.grad(function))):
                assert np.isfinite(jax.vmap(f)(x)).all()
