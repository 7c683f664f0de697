"""One training step, the same code on one device or many: the batch is split, the gradient is averaged."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from m3pot.execution import compiled
from m3pot.graph import Graph, Properties
from m3pot.potential import Potential, predict
from m3pot.train.loss import Errors, LossWeights, loss


class TrainState(NamedTuple):
    """All that changes during training; a pytree of arrays."""

    step: Any  # int32
    params: Any
    optimizer: Any
    average: Any  # exponential moving average of params, the model that is kept
    rate: Any  # factor on the learning rate, halved at each roll-back
    skipped: Any  # int32, consecutive steps without a finite gradient


def make_optimizer(
    schedule: optax.Schedule, params: Any, *, kind: str = "adamw", weight_decay: float, clip: float
) -> optax.GradientTransformation:
    """AdamW or Muon (K. Jordan, 2024: orthogonalised momentum for matrices, Adam for the rest) behind norm clipping.

    Weight decay acts on kernels alone: not on biases, nor on the embedding, whose rows are rarely visited.
    """

    def is_kernel(path, x) -> bool:
        return x.ndim == 2 and "kernel" in jax.tree_util.keystr(path)

    kernels = jax.tree_util.tree_map_with_path(is_kernel, params)
    if kind == "adamw":
        inner = optax.adamw(schedule, weight_decay=weight_decay, mask=kernels)
    elif kind == "muon":
        inner = by_shape(
            optax.contrib.muon(
                schedule,
                weight_decay=weight_decay,
                adam_weight_decay=0.0,
                muon_weight_dimension_numbers=_dimensions,
                consistent_rms=0.2,
            ),
            kernels,
        )
    else:
        raise ValueError(f"Expected optimizer adamw or muon, got {kind!r}; choose one of them.")
    return optax.chain(optax.clip_by_global_norm(clip), inner)


_MATRICES = optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)


def _dimensions(stacks: Any) -> Any:
    return {key: _MATRICES if key.startswith("kernels") else None for key in stacks}


def by_shape(inner: optax.GradientTransformation, kernels: Any) -> optax.GradientTransformation:
    """``inner`` on few leaves: all kernels (m, n) as one array "kernels m n" of shape (k, m, n), the rest one by one.

    Muon then multiplies a few stacks instead of many small matrices, each of which costs a GPU the same time.
    """
    which, treedef = jax.tree.flatten(kernels)

    def keys(leaves: list[Any]) -> list[str]:
        shapes = ("kernels {} {}".format(*leaf.shape) if k else "" for leaf, k in zip(leaves, which, strict=True))
        return [shape or f"other {number}" for number, shape in enumerate(shapes)]

    def stack(tree: Any) -> dict[str, Any]:
        leaves, alike = treedef.flatten_up_to(tree), {}
        for key, leaf in zip(keys(leaves), leaves, strict=True):
            alike.setdefault(key, []).append(leaf)
        return {key: jnp.stack(group) if key.startswith("kernels") else group[0] for key, group in alike.items()}

    def unstack(stacks: dict[str, Any], like: Any) -> Any:
        parts = {key: iter(stack if key.startswith("kernels") else [stack]) for key, stack in stacks.items()}
        return treedef.unflatten([next(parts[key]) for key in keys(treedef.flatten_up_to(like))])

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        new, state = inner.update(stack(updates), state, None if params is None else stack(params))
        return unstack(new, updates), state

    return optax.GradientTransformation(lambda params: inner.init(stack(params)), update)


def init_state(potential: Potential, optimizer: optax.GradientTransformation) -> TrainState:
    """State before the first step; parameters in float32."""
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), potential.params)
    average = jax.tree.map(jnp.copy, params)
    return TrainState(
        jnp.zeros((), jnp.int32),
        params,
        optimizer.init(params),
        average,
        jnp.ones((), jnp.float32),
        jnp.zeros((), jnp.int32),
    )


def data_mesh() -> Mesh:
    """All devices of all processes in a row; each takes one batch per step."""
    return Mesh(np.array(jax.devices()), ("data",))


def replicate(mesh: Mesh, tree: Any) -> Any:
    """The same arrays on every device of the mesh, of other processes too."""
    sharding = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree)


def place(mesh: Mesh, batch: Any) -> Any:
    """Local numpy arrays with a leading device axis -> one global array split along it."""
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    if jax.process_count() == 1:  # all arrays in one call: a small model waits for the host else
        return jax.device_put(batch, sharding)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def make_step(
    potential: Potential,
    optimizer: optax.GradientTransformation,
    weights: LossWeights,
    mesh: Mesh,
    *,
    decay: float,
    rates: Any = None,
) -> Callable[[TrainState, Graph, Properties], tuple[TrainState, dict[str, Any]]]:
    """The compiled function (state, graphs, labels) -> (state, metrics); graphs carry a leading device axis.

    ``rates``: pytree like params with a factor on each leaf's update (0 freezes it). A step whose loss or gradient
    is not finite changes nothing but the count of skipped steps.
    """

    def train_step(state: TrainState, graph: Graph, labels: Properties):
        graph, labels = jax.tree.map(lambda x: x[0], (graph, labels))

        def objective(params):
            return loss(predict(dataclasses.replace(potential, params=params), graph), labels, graph, weights)

        (value, errors), gradient = jax.value_and_grad(objective, has_aux=True)(state.params)
        value, gradient = jax.lax.pmean((value, gradient), "data")
        errors = jax.lax.psum(errors, "data")
        norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradient)))
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        if rates is not None:
            updates = jax.tree.map(jnp.multiply, updates, rates)
        params = optax.apply_updates(state.params, jax.tree.map(lambda u: u * state.rate, updates))
        keep = jnp.minimum(decay, (1 + state.step) / (10 + state.step))  # short memory at the start
        # In this form a frozen parameter stays what it is to the last bit.
        average = jax.tree.map(lambda a, p: a + (1 - keep) * (p - a), state.average, params)
        new = state._replace(params=params, optimizer=optimizer_state, average=average)
        new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
        new = new._replace(step=state.step + 1, skipped=jnp.where(finite, 0, state.skipped + 1))
        return new, {"loss": value, "gradient": norm, "errors": errors}

    split, same = PartitionSpec("data"), PartitionSpec()
    sharded = jax.shard_map(
        train_step, mesh=mesh, in_specs=(same, split, split), out_specs=(same, same), check_vma=False
    )
    sharded.__name__ = "train_step"
    return compiled(sharded, donate_argnums=(0,))


def make_evaluation(
    potential: Potential, weights: LossWeights, mesh: Mesh
) -> Callable[[Any, Graph, Properties], tuple[Any, Errors]]:
    """The compiled function (params, graphs, labels) -> (sum of the devices' losses, errors)."""

    def evaluation_step(params, graph: Graph, labels: Properties):
        graph, labels = jax.tree.map(lambda x: x[0], (graph, labels))
        result = loss(predict(dataclasses.replace(potential, params=params), graph), labels, graph, weights)
        return jax.lax.psum(result, "data")

    split, same = PartitionSpec("data"), PartitionSpec()
    sharded = jax.shard_map(
        evaluation_step, mesh=mesh, in_specs=(same, split, split), out_specs=(same, same), check_vma=False
    )
    sharded.__name__ = "evaluation_step"
    return compiled(sharded)
