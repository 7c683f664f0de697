"""Sums over atoms and edges that belong together."""

import jax
from jaxtyping import Array, Float, Int


def segment_sum(
    values: Float[Array, "k *rest"], segments: Int[Array, " k"], count: int, *, ordered: bool = False
) -> Float[Array, "count *rest"]:
    """out[s] = sum of ``values[k]`` with ``segments[k] == s``; ``ordered`` promises ascending segments."""
    return jax.ops.segment_sum(values, segments, num_segments=count, indices_are_sorted=ordered)
