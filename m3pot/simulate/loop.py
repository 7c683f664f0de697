"""The loop on the device: steps under one ``lax.while_loop`` until a step number is reached or something happened."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from m3pot.ensemble import Ensemble, force_disagreement, mean_and_spread, predict_each
from m3pot.execution import compiled
from m3pot.potential import Potential, predict
from m3pot.simulate.edges import EdgeList, join, stale, trim
from m3pot.simulate.integrator import first_half, second_half
from m3pot.simulate.state import Conditions, Method, State, kinetic_energy, observe, volume_of
from m3pot.units import BOLTZMANN

RUNNING, OVERFLOW, NAN, EXPLODED, COLLAPSED, UNCERTAIN = range(6)
VOLUME_FACTOR = 10.0  # a cell that has grown or shrunk this much is no longer the simulation that was asked for
CHUNK = 1000  # steps per call of the device at most: bounds the time between signs of life


def evaluate(
    potential: Potential | Ensemble, species: Int[Array, " n"], state: State, edges: EdgeList, cutoff: float, room: int
) -> tuple[State, Int[Array, ""]]:
    """New energy, forces, virial and disagreement of all replicas (leading axis) from one call of the potential.

    Also the number of edges within the cutoff; the result is wrong if that exceeds ``room``.
    """
    graph, count = trim(join(species, state.positions, state.cell, edges), cutoff, room)
    disagreement = jnp.zeros(graph.species.shape, state.positions.dtype)
    if isinstance(potential, Ensemble):
        each = predict_each(potential, graph)
        properties, disagreement = mean_and_spread(each)[0], force_disagreement(each)
    else:
        properties = predict(potential, graph)
    shape = state.positions.shape
    volume = jax.vmap(volume_of)(state.cell)[:, None, None]
    state = state._replace(
        energy=properties.energy[:-1],
        forces=properties.forces[:-1].reshape(shape),
        virial=jnp.where(volume > 0, properties.stress[:-1] * volume, 0),
        disagreement=jnp.max(disagreement[:-1].reshape(shape[:2]), axis=1),
    )
    return state, count


def verdict(state: State, conditions: Conditions, method: Method) -> Int[Array, ""]:
    """RUNNING, or why one system must not go on."""
    energies = state.energy + jnp.sum(state.forces) + jnp.sum(state.momenta) + jnp.sum(state.cell)
    # Below three degrees of freedom a temperature means nothing; the limit then acts on the energy of one atom.
    kinetic = kinetic_energy(state.momenta, conditions.masses)
    hot = 2 * kinetic > BOLTZMANN * conditions.max_temperature * jnp.maximum(conditions.freedom, 3)
    code = jnp.where(state.disagreement > conditions.max_disagreement, UNCERTAIN, RUNNING)
    if method.barostat:
        ratio = volume_of(state.cell) / conditions.volume
        code = jnp.where((ratio > VOLUME_FACTOR) | (ratio < 1 / VOLUME_FACTOR), COLLAPSED, code)
    code = jnp.where(hot, EXPLODED, code)
    return jnp.where(jnp.isfinite(energies), code, NAN).astype(jnp.int32)


def advance(
    potential: Potential | Ensemble,
    species: Int[Array, " n"],
    state: State,
    conditions: Conditions,
    edges: EdgeList,
    stop: Int[Array, ""],
    method: Method,
    cutoff: float,
    skin: float,
    room: int,
) -> tuple[State, Int[Array, " r"]]:
    """Step all replicas until step ``stop``, the end of the list's validity, or an incident in any replica.

    Returns the state after the last complete, sound step and the verdict on each replica; OVERFLOW says that more than
    ``room`` edges lie within the cutoff. A call for fewer steps does not change what a step computes, so results do
    not depend on where the loop is interrupted.
    """
    start = jax.vmap(lambda s, c: first_half(s, c, method))
    finish = jax.vmap(lambda s, c: second_half(s, c, method))
    judge = jax.vmap(lambda s, c: verdict(s, c, method))

    def outdated(moved: State) -> Array:
        check = lambda x, h, x0, h0: stale(x, h, x0, h0, cutoff, skin, method.barostat)  # noqa: E731
        return jnp.any(jax.vmap(check)(moved.positions, moved.cell, edges.positions, edges.cell))

    def proceed(carry):
        state, codes = carry
        running = (state.step[0] < stop) & jnp.all(codes == RUNNING)
        return running & ~outdated(start(state, conditions))

    def step(carry):
        # The new positions once more: no branch in here, so that XLA takes what never changes out of the loop.
        state, _ = carry
        new, count = evaluate(potential, species, start(state, conditions), edges, cutoff, room)
        new = finish(new, conditions)
        codes = jnp.where(count > room, OVERFLOW, judge(new, conditions))
        sound = jnp.all((codes == RUNNING) | (codes == UNCERTAIN))
        return jax.tree.map(lambda a, b: jnp.where(sound, a, b), new, state), codes

    codes = jnp.zeros(state.step.shape, jnp.int32)
    return jax.lax.while_loop(proceed, step, (state, codes))


def observe_all(state: State, conditions: Conditions) -> Any:
    """:func:`m3pot.simulate.state.observe` of every replica."""
    return jax.vmap(observe)(state, conditions)


jit_advance = compiled(advance, static_argnames=("method", "cutoff", "skin", "room"))
jit_evaluate = compiled(evaluate, static_argnames=("cutoff", "room"))
jit_observe = compiled(observe_all)
