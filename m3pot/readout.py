"""Property heads: graph -> intensive targets of each structure (formation energy, band gap, moduli ...).

The counterpart of ``models`` and ``potential.py`` for what is not an energy: the trunk of M3GNet, a pooling over
atoms, an MLP, and the transformation that the targets went through before training.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from m3pot.execution import compiled
from m3pot.graph import Graph, edge_vectors, sum_structures
from m3pot.models.layers import MLP
from m3pot.models.m3gnet import Trunk, mean_atoms

POOLINGS = ("mean", "weighted", "set2set")


class WeightedMean(nn.Module):
    """sum_i w_i h_i / sum_i w_i over the atoms of each structure, w = sigmoid(MLP(v)), h = MLP(v)."""

    units: int

    @nn.compact
    def __call__(self, v: Float[Array, "n units"], graph: Graph) -> Float[Array, "b units"]:
        """Pooled features; 0 for a structure without atoms."""
        real = (jnp.asarray(graph.species) > 0)[:, None]
        weights = nn.sigmoid(MLP((self.units, 1), linear_end=True, name="weight")(v))
        weights = jnp.where(real, weights, 0)
        values = MLP((self.units, self.units), name="value")(v)
        return sum_structures(weights * values, graph) / jnp.maximum(sum_structures(weights, graph), 1e-8)


class Set2Set(nn.Module):
    """Pooling by repeated attention: q = LSTM([q, r]), r = sum_i softmax_i(v_i . q) v_i.

    O. Vinyals, S. Bengio, M. Kudlur, Order matters: sequence to sequence for sets, ICLR 2016. The LSTM has PyTorch's
    gates (i, f, c, o) and its two biases, which add up.
    """

    steps: int
    layers: int

    @nn.compact
    def __call__(self, v: Float[Array, "n units"], graph: Graph) -> Float[Array, "b 2*units"]:
        """Last query and what it attends to, side by side."""
        structures, units = graph.cell.shape[0], v.shape[-1]
        owner = jnp.asarray(graph.owner)
        real = jnp.asarray(graph.species) > 0
        cells = [self._weights(m, units) for m in range(self.layers)]
        zeros = jnp.zeros((structures, units), v.dtype)
        states = [(zeros, zeros)] * self.layers
        pooled = jnp.zeros((structures, 2 * units), v.dtype)
        for _ in range(self.steps):
            query = pooled
            for m, cell in enumerate(cells):
                states[m] = _lstm(cell, query, states[m])
                query = states[m][0]
            score = jnp.where(real, jnp.sum(v * query[owner], axis=-1), -jnp.inf)
            highest = jax.ops.segment_max(score, owner, num_segments=structures, indices_are_sorted=True)
            highest = jax.lax.stop_gradient(jnp.where(jnp.isfinite(highest), highest, 0))
            share = jnp.where(real, jnp.exp(score - highest[owner]), 0)[:, None]
            total = sum_structures(share, graph)
            attended = sum_structures(share * v, graph) / jnp.where(total > 0, total, 1)
            pooled = jnp.concatenate([query, attended], axis=-1)
        return pooled

    def _weights(self, layer: int, units: int) -> tuple[Array, ...]:
        inputs = 2 * units if layer == 0 else units
        kernel, bias = nn.initializers.lecun_normal(), nn.initializers.zeros
        return (
            self.param(f"lstm_{layer}_input_kernel", kernel, (inputs, 4 * units)),
            self.param(f"lstm_{layer}_hidden_kernel", kernel, (units, 4 * units)),
            self.param(f"lstm_{layer}_input_bias", bias, (4 * units,)),
            self.param(f"lstm_{layer}_hidden_bias", bias, (4 * units,)),
        )


def _lstm(weights: tuple[Array, ...], x: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
    """One step of a long short-term memory: (output, memory) -> (output, memory)."""
    input_kernel, hidden_kernel, input_bias, hidden_bias = weights
    output, memory = state
    i, f, c, o = jnp.split(x @ input_kernel + input_bias + output @ hidden_kernel + hidden_bias, 4, axis=-1)
    memory = nn.sigmoid(f) * memory + nn.sigmoid(i) * jnp.tanh(c)
    return nn.sigmoid(o) * jnp.tanh(memory), memory


class M3GNetProperty(Trunk):
    """Graph (and state) -> targets of each structure, before the inverse target transformation."""

    pooling: str = "mean"  # one of POOLINGS
    set2set_steps: int = 3
    set2set_layers: int = 1
    targets: int = 1
    classify: bool = False  # a sigmoid at the end

    @nn.compact
    def __call__(
        self, graph: Graph, vectors: Float[Array, "e 3"], state: Array | None = None
    ) -> Float[Array, "b targets"]:
        """Targets of every structure; ``vectors`` are r_ij in A, ``state`` as the field of that name says."""
        v, u = self.features(graph, vectors, state)
        hidden = self.hidden or self.units
        if self.pooling == "set2set":
            pooled = Set2Set(self.set2set_steps, self.set2set_layers, name="set2set")(v, graph)
        elif self.pooling == "weighted":
            pooled = WeightedMean(hidden, name="weighted")(v, graph)
        elif self.pooling == "mean":
            pooled = mean_atoms(v, graph)
        else:
            raise ValueError(f"Expected pooling {', '.join(POOLINGS)}, got {self.pooling!r}; choose one of them.")
        pooled = pooled if u is None else jnp.concatenate([pooled, u], axis=-1)
        y = MLP((hidden, hidden, self.targets), linear_end=True, name="property")(pooled)
        return nn.sigmoid(y) if self.classify else y


PROPERTY_MODELS = {"M3GNetProperty": M3GNetProperty}


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "scale", "shift"],
    meta_fields=["model", "exponential"],
    drop_fields=["card"],
)
@dataclasses.dataclass(frozen=True)
class PropertyModel:
    """y = scale * model + shift, or the exponential of that; a pytree like ``Potential``, with the same ``card``."""

    model: nn.Module
    params: Any
    scale: Float[Array, " targets"]  # in the units of the target
    shift: Float[Array, " targets"]
    exponential: bool = False  # the model predicts the logarithm
    card: dict = dataclasses.field(default_factory=dict)

    @property
    def cutoff(self) -> float:
        """Radius in A beyond which atoms do not see each other directly."""
        return self.model.cutoff

    @property
    def elements(self) -> frozenset[int]:
        """Atomic numbers that the model knows."""
        return frozenset(self.card.get("elements") or range(1, 95))


def predict_property(model: PropertyModel, graph: Graph, state: Array | None = None) -> Float[Array, "b targets"]:
    """Targets of each structure of ``graph`` (padding structures included), in the units of the target.

    ``state`` has a row for each structure, padding optional: integer labels (b,) for a model with ``state="label"``,
    vectors (b, s) for "linear" and "raw", nothing for models without. Raises ValueError if it is missing or too long.
    """
    vectors = edge_vectors(graph)
    model = jax.tree.map(lambda x: jnp.asarray(x).astype(vectors.dtype), model)
    y = model.model.apply({"params": model.params}, graph, vectors, _rows(model.model, graph, state, vectors.dtype))
    y = y * model.scale + model.shift
    return jnp.exp(y) if model.exponential else y


def _rows(net: Trunk, graph: Graph, state: Array | None, dtype: Any) -> Array | None:
    """The state as one row per structure, zeros for the padding structures that it leaves out."""
    if state is None or not net.state:
        if state is not None:
            raise ValueError("This model was trained without a state; leave `state` out.")
        return None
    state = jnp.asarray(state, jnp.int32 if net.state == "label" else dtype)
    shape = {"label": (), "linear": (net.state_size,), "raw": (net.state_dim,)}[net.state]
    missing = graph.cell.shape[0] - len(state)
    if state.shape[1:] != shape or missing < 0:
        raise ValueError(
            f"Expected a state of shape {('b', *shape)} with b <= {graph.cell.shape[0]}, got {state.shape}; "
            "give one row for each structure."
        )
    return jnp.pad(state, [(0, missing)] + [(0, 0)] * len(shape))


jit_predict_property = compiled(predict_property)
