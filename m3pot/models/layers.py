"""Layers shared by the models."""

import itertools
from collections.abc import Sequence

import flax.linen as nn
from jaxtyping import Array, Float, Int

from m3pot.math.activation import gated, sigmoid, silu

Part = tuple[Array, Array | None]  # rows of features, and the row that each output row reads (None: its own)


class GatedMLP(nn.Module):
    """phi(x) = value(x) * gate(x): two Dense chains on the same input.

    Hidden layers are silu; the last value layer is silu (or linear), the last gate layer is a sigmoid.
    The input may come in parts that live on atoms, structures or edges: the first kernel is split by rows,
    [v_i, v_j, e] K = (v K_1)_i + (v K_2)_j + e K_3, so that the parts on atoms cost one product per atom.
    """

    widths: tuple[int, ...]
    linear_end: bool = False
    use_bias: bool = True

    @nn.compact
    def __call__(self, parts: Sequence[Part]) -> Float[Array, "rows width"]:
        """Features of each row; the parts are columns of the input, from left to right."""
        # Two products instead of one of twice the width: XLA:CPU differentiates the split several times slower.
        value, gate = self._branch("value", parts), self._branch("gate", parts)
        return value * sigmoid(gate) if self.linear_end else gated(value, gate)

    def _branch(self, name: str, parts: Sequence[Part]) -> Float[Array, "rows width"]:
        rows = sum(features.shape[-1] for features, _ in parts)
        kernel, x = self._dense(f"{name}_0", rows, self.widths[0])
        start = 0
        for features, index in parts:
            product = features @ kernel[start : start + features.shape[-1]]
            x = x + (product if index is None else product[index])
            start += features.shape[-1]
        for layer, (inputs, width) in enumerate(itertools.pairwise(self.widths), start=1):
            kernel, bias = self._dense(f"{name}_{layer}", inputs, width)
            x = silu(x) @ kernel + bias
        return x

    def _dense(self, name: str, inputs: int, width: int):
        kernel = self.param(f"{name}_kernel", nn.initializers.lecun_normal(), (inputs, width))
        bias = self.param(f"{name}_bias", nn.initializers.zeros, (width,)) if self.use_bias else 0
        return kernel, bias


class MLP(nn.Module):
    """Dense chain with silu after every layer, or after all but the last."""

    widths: tuple[int, ...]
    linear_end: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*rows inputs"]) -> Float[Array, "*rows width"]:
        """Features of each row."""
        for layer, width in enumerate(self.widths):
            x = nn.Dense(width, name=f"layer_{layer}")(x)
            if layer + 1 < len(self.widths) or not self.linear_end:
                x = silu(x)
        return x


class ElementEmbedding(nn.Module):
    """A row of features for each atomic number; row 0 belongs to padding."""

    features: int
    rows: int = 95

    @nn.compact
    def __call__(self, species: Int[Array, " n"]) -> Float[Array, "n features"]:
        """Features of each atom from its atomic number."""
        table = self.param("table", nn.initializers.normal(1.0), (self.rows, self.features))
        return table[species]
