"""Minimisers as pairs of pure functions (init, update); every length, step size and memory belongs to one structure.

``init(x)`` makes the state for a point of one or many structures; ``update(problem, x, force, state)`` returns the step
to add to ``x`` and the new state. Energies are not used: in float32 their differences drown before forces do.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from m3pot.graph import Graph
from m3pot.relaxation import springs
from m3pot.relaxation.coordinates import Vector, axpy, dot, largest_atom, scaled


class Problem(NamedTuple):
    """What a minimiser may know beside point and force."""

    graph: Graph  # at the present geometry
    counts: Float[Array, " b"]  # atoms of each structure
    deformation: Float[Array, "b 3 3"]
    project: Callable[[Vector], Vector]  # onto the allowed directions


class Minimizer(NamedTuple):
    """``init(x) -> state``; ``update(problem, x, force, state) -> (step, state)``.

    ``turning`` minimisers move in all nine numbers of a cell's logarithm and may turn a crystal; others in six.
    """

    init: Callable[[Vector], Any]
    update: Callable[[Problem, Vector, Vector, Any], tuple[Vector, Any]]
    turning: bool = False


class FireState(NamedTuple):
    """Per structure; ``downhill`` counts steps since the last turn, -1 before the first."""

    velocity: Vector
    dt: Float[Array, " b"]
    mixing: Float[Array, " b"]
    downhill: Int[Array, " b"]


@functools.cache
def fire(
    *,
    dt: float = 0.1,
    dt_max: float = 1.0,
    max_step: float = 0.2,
    delay: int = 5,
    grow: float = 1.1,
    shrink: float = 0.5,
    mixing: float = 0.1,
    mixing_decay: float = 0.99,
) -> Minimizer:
    """Fast inertial relaxation engine: E. Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006), with ASE's constants.

    Cell coordinates are the logarithm of the deformation times the number of atoms, all nine, as in FrechetCellFilter:
    with all strains free the steps are those of ASE. ``max_step`` bounds the length of the whole step (A).
    """

    def init(x: Vector) -> FireState:
        b, kind = len(x.cell), x.cell.dtype
        zero = Vector(np.zeros_like(x.atoms), np.zeros_like(x.cell))
        return FireState(zero, np.full(b, dt, kind), np.full(b, mixing, kind), np.full(b, -1, np.int32))

    def update(problem: Problem, x: Vector, force: Vector, state: FireState) -> tuple[Vector, FireState]:
        owner = problem.graph.owner
        factor = problem.counts[:, None, None] + (problem.counts == 0)[:, None, None]
        force = Vector(force.atoms, force.cell / factor)
        velocity, first = state.velocity, state.downhill < 0
        power = dot(force, velocity, owner)
        downhill = power > 0
        speed, size = jnp.sqrt(dot(velocity, velocity, owner)), jnp.sqrt(dot(force, force, owner))
        turned = state.mixing * speed / jnp.where(size > 0, size, 1)
        mixed = axpy(turned, force, scaled(1 - state.mixing, velocity, owner), owner)
        velocity = scaled(downhill.astype(power.dtype), mixed, owner)
        patient = downhill & (state.downhill > delay)
        longer, calmer = jnp.minimum(state.dt * grow, dt_max), state.mixing * mixing_decay
        uphill = ~downhill & ~first
        new_dt = jnp.where(patient, longer, jnp.where(uphill, state.dt * shrink, state.dt))
        new_mixing = jnp.where(patient, calmer, jnp.where(uphill, mixing, state.mixing))
        velocity = axpy(new_dt, force, velocity, owner)
        step = scaled(new_dt, velocity, owner)
        length = jnp.sqrt(dot(step, step, owner))
        step = scaled(jnp.where(length > max_step, max_step / jnp.where(length > 0, length, 1), 1), step, owner)
        count = jnp.where(downhill, jnp.maximum(state.downhill, 0) + 1, 0)
        return Vector(step.atoms, step.cell / factor), FireState(velocity, new_dt, new_mixing, count)

    return Minimizer(init, update, turning=True)


class LbfgsState(NamedTuple):
    """Per structure; memories hold the newest pair first."""

    count: Int[Array, " b"]  # evaluations seen
    radius: Float[Array, " b"]  # A, longest move of an atom
    stiffness: Float[Array, " b"]  # scale of the springs
    point: Vector
    force: Vector
    steps: Vector  # (n, memory, 3) and (b, memory, 3, 3)
    changes: Vector  # of the gradient


@functools.cache
def lbfgs(
    *,
    memory: int = 12,
    radius: float = 0.1,
    radius_max: float = 0.4,
    strain_ratio: float = 0.3,
) -> Minimizer:
    """Limited-memory BFGS (J. Nocedal, Math. Comp. 35, 773 (1980)) with springs as the first guess, no line search.

    The longest move of an atom is bounded by a radius (A) that grows while the force keeps its direction along the step
    and shrinks when it turns round; the strain of one step by ``strain_ratio`` times the radius.
    Pairs without positive curvature are left out.
    """
    radii = springs.covalent_radii()

    def init(x: Vector) -> LbfgsState:
        b, kind = len(x.cell), x.cell.dtype
        zero = Vector(np.zeros_like(x.atoms), np.zeros_like(x.cell))
        history = Vector(np.zeros((len(x.atoms), memory, 3), kind), np.zeros((b, memory, 3, 3), kind))
        full = functools.partial(np.full, b, dtype=kind)
        return LbfgsState(np.zeros(b, np.int32), full(radius), full(1.0), zero, zero, history, history)

    def update(problem: Problem, x: Vector, force: Vector, state: LbfgsState) -> tuple[Vector, LbfgsState]:
        owner, b = problem.graph.owner, len(problem.counts)
        step = Vector(x.atoms - state.point.atoms, x.cell - state.point.cell)
        change = Vector(state.force.atoms - force.atoms, state.force.cell - force.cell)
        curvature = dot(step, change, owner)
        lengths = jnp.sqrt(dot(step, step, owner) * dot(change, change, owner))
        known = state.count > 0
        good = known & (curvature > 1e-3 * lengths)
        steps, changes = _remember(good, step, state.steps, owner), _remember(good, change, state.changes, owner)

        network = springs.attach(problem.graph, problem.deformation, jnp.asarray(radii, x.cell.dtype))
        measured = jnp.clip(springs.scale_of(network, step, change), 0.1, 10)
        stiffness = jnp.where(good, jnp.sqrt(state.stiffness * measured), state.stiffness)

        def guess(v: Vector) -> Vector:
            return scaled(1 / stiffness, springs.solve(network, v, problem.project), owner)

        direction = _two_loops(force, steps, changes, guess, owner)
        before, after = dot(state.force, step, owner), dot(force, step, owner)
        agreement = after / jnp.where(before > 0, before, 1)
        moved = largest_atom(step.atoms, owner, b)
        smaller = known & (agreement < -0.5)
        larger = known & (agreement > 0.3)
        new_radius = jnp.where(smaller, jnp.maximum(0.5 * jnp.minimum(moved, state.radius), 0.01), state.radius)
        new_radius = jnp.where(larger, jnp.minimum(1.5 * state.radius, radius_max), new_radius)
        reach = largest_atom(direction.atoms, owner, b) / new_radius
        strain = jnp.sqrt(jnp.sum(direction.cell**2, axis=(-1, -2))) / (new_radius * strain_ratio)
        shorten = 1 / jnp.maximum(jnp.maximum(reach, strain), 1)
        result = scaled(shorten, direction, owner)
        return result, LbfgsState(state.count + 1, new_radius, stiffness, x, force, steps, changes)

    return Minimizer(init, update)


def _remember(good, new: Vector, old: Vector, owner) -> Vector:
    """Put a vector in front of the memory of the structures where it is good."""
    atoms = jnp.concatenate([new.atoms[:, None], old.atoms[:, :-1]], axis=1)
    cell = jnp.concatenate([new.cell[:, None], old.cell[:, :-1]], axis=1)
    return Vector(
        jnp.where(good[owner][:, None, None], atoms, old.atoms), jnp.where(good[:, None, None, None], cell, old.cell)
    )


def _two_loops(force: Vector, steps: Vector, changes: Vector, guess, owner) -> Vector:
    """The inverse second derivatives of the memory, applied to a force; empty places of the memory do nothing."""
    memory = steps.cell.shape[1]

    def pair(k):
        return Vector(steps.atoms[:, k], steps.cell[:, k]), Vector(changes.atoms[:, k], changes.cell[:, k])

    def inverse_curvature(k):
        s, y = pair(k)
        curvature = dot(s, y, owner)
        return jnp.where(curvature > 0, 1 / jnp.where(curvature > 0, curvature, 1), 0)

    def newest_first(q, k):
        s, y = pair(k)
        weight = inverse_curvature(k) * dot(s, q, owner)
        return axpy(-weight, y, q, owner), weight

    def oldest_first(r, inputs):
        k, weight = inputs
        s, y = pair(k)
        return axpy(weight - inverse_curvature(k) * dot(y, r, owner), s, r, owner), None

    ages = jnp.arange(memory)
    q, weights = jax.lax.scan(newest_first, force, ages)
    return jax.lax.scan(oldest_first, guess(q), (ages, weights), reverse=True)[0]


MINIMIZERS = {"lbfgs": lbfgs, "fire": fire}
