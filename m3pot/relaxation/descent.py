"""Steps of many structures on the device: evaluate, judge, move, until done or until the edges are stale."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from m3pot.execution import compiled
from m3pot.graph import Graph, edge_vectors, real_edges, sum_structures
from m3pot.math import safe
from m3pot.potential import Potential, predict
from m3pot.relaxation.coordinates import (
    Symmetry,
    Vector,
    exponential,
    generalised_force,
    inverse,
    largest_atom,
    place,
    product,
    projected_strain,
    symmetrised_atoms,
)
from m3pot.relaxation.minimizers import Minimizer, Problem
from m3pot.relaxation.slots import CLASH, CONVERGED, EXPLODED, MAX_STEPS, NAN, RUNNING, Edges, Slots


class Limits(NamedTuple):
    """Scalars that decide when a structure stops; traced, so that a change compiles nothing."""

    fmax: Float[Array, ""]  # eV/A
    smax: Float[Array, ""]  # eV/A^3
    steps: Int[Array, ""]
    pressure: Float[Array, ""]  # eV/A^3
    skin: Float[Array, ""]  # A
    swelling: Float[Array, ""]  # largest |ln(volume / volume at the start)|
    closeness: Float[Array, ""]  # smallest distance / sum of covalent radii


class Geometry(NamedTuple):
    """Where the atoms are, for the host."""

    positions: Float[Array, "n 3"]
    cell: Float[Array, "b 3 3"]


def _descend(
    potential: Potential,
    minimizer: Minimizer,
    limits: Limits,
    radii: Float[Array, " z"],
    chunk: Int[Array, ""],
    slots: Slots,
    edges: Edges,
) -> tuple[Slots, Geometry]:
    """At most ``chunk`` steps of every structure that runs. Stale structures wait, finished ones keep their results."""
    renewed = slots.stale
    slots = slots._replace(
        reference=_where(renewed, slots.x, slots.reference, edges.owner), stale=jnp.zeros_like(slots.stale)
    )

    def proceed(carry):
        k, slots = carry
        return (k < chunk) & jnp.any((slots.status == RUNNING) & ~slots.stale)

    def body(carry):
        k, slots = carry
        return k + 1, _step(potential, minimizer, limits, radii, slots, edges)

    _, slots = jax.lax.while_loop(proceed, body, (0, slots))
    positions, cell, _ = place(slots.x, slots.start, edges.owner)
    return slots, Geometry(positions, cell)


descend = compiled(_descend, static_argnames=("minimizer",))


def _step(potential: Potential, minimizer: Minimizer, limits: Limits, radii, slots: Slots, edges: Edges) -> Slots:
    owner, b = edges.owner, slots.status.shape[0]
    running = (slots.status == RUNNING) & ~slots.stale
    positions, cell, deformation = place(slots.x, slots.start, owner)
    graph = Graph(slots.atoms.species, positions, cell, owner, edges.receivers, edges.senders, edges.shifts)
    result = predict(potential, graph)
    symmetry = Symmetry(slots.atoms.images, slots.rotations, slots.weights)

    def project(v: Vector) -> Vector:
        atoms = symmetrised_atoms(v.atoms * slots.atoms.movable, symmetry, owner, edges.first)
        return Vector(atoms, projected_strain(slots.projector, v.cell))

    force = project(generalised_force(slots.x, result, cell, owner, limits.pressure))
    fmax = largest_atom(result.forces * slots.atoms.movable, owner, b)
    eye = jnp.eye(3, dtype=cell.dtype)
    excess = jnp.where(jnp.isnan(result.stress) & ~_strained(slots), 0, result.stress + limits.pressure * eye)
    smax = jnp.max(jnp.abs(projected_strain(slots.projector, excess)), axis=(-1, -2))
    verdict = _judge(limits, slots, graph, radii, fmax, smax, result.energy)
    moving = running & (verdict == RUNNING)

    counts = sum_structures((slots.atoms.species > 0).astype(cell.dtype), graph)
    step, state = minimizer.update(Problem(graph, counts, deformation, project), slots.x, force, slots.state)
    x = Vector(slots.x.atoms + step.atoms, slots.x.cell + step.cell)
    after = slots._replace(
        x=_where(moving, x, slots.x, owner),
        state=_where(moving, state, slots.state, owner),
        steps=slots.steps + moving,
        status=jnp.where(running, verdict, slots.status),
        atoms=slots.atoms._replace(
            forces=jnp.where(running[owner][:, None], result.forces, slots.atoms.forces),
            energies=jnp.where(running[owner], result.energies, slots.atoms.energies),
        ),
        stress=jnp.where(running[:, None, None], result.stress, slots.stress),
        fmax=jnp.where(running, fmax, slots.fmax),
        smax=jnp.where(running, smax, slots.smax),
    )
    return after._replace(stale=jnp.where(moving, _is_stale(potential.cutoff, limits.skin, after, owner), slots.stale))


def _judge(limits: Limits, slots: Slots, graph: Graph, radii, fmax, smax, energy) -> Int[Array, " b"]:
    """Status of each structure at the geometry just evaluated, the worst finding first."""
    owner, b = graph.owner, slots.status.shape[0]
    bond = radii[graph.species]
    ratio = safe.norm(edge_vectors(graph)) / jnp.maximum(bond[graph.receivers] + bond[graph.senders], 1e-3)
    ratio = jnp.where(real_edges(graph), ratio, jnp.inf)
    closest = jax.ops.segment_min(ratio, owner[graph.receivers], b, indices_are_sorted=True)
    swelling = jnp.abs(jnp.trace(slots.x.cell, axis1=-2, axis2=-1))
    status = jnp.where(slots.steps >= limits.steps, MAX_STEPS, RUNNING)
    status = jnp.where((fmax < limits.fmax) & (smax < limits.smax), CONVERGED, status)
    status = jnp.where(swelling > limits.swelling, EXPLODED, status)
    status = jnp.where(closest < limits.closeness, CLASH, status)
    return jnp.where(jnp.isfinite(energy) & jnp.isfinite(fmax) & jnp.isfinite(smax), status, NAN)


def _is_stale(cutoff: float, skin, slots: Slots, owner: Int[Array, " n"]):
    """False while every pair within the cutoff is surely among the edges, which were made for cutoff + skin.

    With the deformation D since then and the moves u of atoms on top of it, |r| >= s_min(D) |r_0| - 2 max|u|, and
    the smallest singular value is at least 1 - |D - 1|.
    """
    now, then = exponential(slots.x.cell), exponential(slots.reference.cell)
    change = product(inverse(then), now) - jnp.eye(3, dtype=now.dtype)
    shrink = 1 - jnp.sqrt(jnp.sum(change * change, axis=(-1, -2)))
    moved = jnp.einsum("na,nab->nb", slots.x.atoms - slots.reference.atoms, now[owner])
    return ~(shrink * (cutoff + skin) - 2 * largest_atom(moved, owner, len(now)) >= cutoff)


def _strained(slots: Slots):
    return jnp.any(slots.projector != 0, axis=(-1, -2))[:, None, None]


def _where(condition: Any, new: Any, old: Any, owner: Int[Array, " n"]) -> Any:
    """``new`` for the structures where the condition holds; leaves under ``atoms`` follow their owner."""

    def choose(path, a, b):
        atomic = any(getattr(key, "name", None) == "atoms" for key in path)
        mask = condition[owner] if atomic else condition
        return jnp.where(mask.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree_util.tree_map_with_path(choose, new, old)
