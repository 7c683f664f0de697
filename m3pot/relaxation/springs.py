"""A network of springs as a first guess of the second derivatives, for atoms and cell together.

Each pair within the cutoff is a spring, stiff along the bond and weak across it, whose strength decays with the
distance in covalent radii: R. Lindh et al., Chem. Phys. Lett. 241, 423 (1995), and the preconditioner of L. Mones,
C. Ortner, G. Csanyi, Sci. Rep. 8, 13991 (2018). A strain stretches the same springs, so the coupling of atoms and
cell and the stiffness of the cell come for free. K is applied through the edges and inverted by conjugate gradients.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from m3pot.graph import Graph, edge_vectors, real_edges, sum_receivers, sum_senders, sum_structures
from m3pot.math import safe
from m3pot.relaxation.coordinates import Vector, axpy, dot, symmetrised

STRENGTH = 4.0  # eV/A^2 of a bond whose length is the sum of the covalent radii
DECAY = 6.0  # exp(-DECAY (r / sum of radii - 1))
ACROSS = 0.15  # stiffness across the bond / along it
FLOOR = 0.1  # eV/A^2 for every atom, so that free translations and lonely atoms have a stiffness
CELL_FLOOR = 2.0  # eV per atom for every strain


def covalent_radii() -> np.ndarray:
    """Radii in A, index = atomic number (B. Cordero et al., Dalton Trans. 2832 (2008), as tabulated by ASE)."""
    from ase.data import covalent_radii

    return np.asarray(covalent_radii[:95], np.float64)


class Springs(NamedTuple):
    """The network at one geometry of a batch."""

    graph: Graph
    vectors: Float[Array, "e 3"]  # r_ij, A
    unit: Float[Array, "e 3"]
    along: Float[Array, " e"]  # eV/A^2
    deformation: Float[Array, "b 3 3"]
    atoms_diagonal: Float[Array, " n"]  # eV/A^2
    cell_diagonal: Float[Array, " b"]  # eV
    counts: Float[Array, " b"]  # atoms of each structure


def attach(graph: Graph, deformation: Float[Array, "b 3 3"], radii: Float[Array, " z"]) -> Springs:
    """Springs of a batch at its present geometry."""
    vectors = edge_vectors(graph)
    r = safe.norm(vectors)
    size = radii[graph.species]
    bond = size[graph.receivers] + size[graph.senders]
    along = STRENGTH * jnp.exp(-DECAY * jnp.maximum(r / jnp.where(bond > 0, bond, 1) - 1, -0.3))
    along = jnp.where(real_edges(graph), along, 0)
    counts = sum_structures((graph.species > 0).astype(r.dtype), graph)
    mean = (1 + 2 * ACROSS) / 3
    # Every pair appears twice among the edges: half of each, over both ends.
    atoms_diagonal = FLOOR + mean * sum_receivers(along, graph)
    stretch = sum_structures(sum_receivers(along * r * r, graph), graph) / 2
    cell_diagonal = CELL_FLOOR * counts + stretch * mean / 3 + (counts == 0)
    unit = vectors / jnp.where(r > 0, r, 1)[:, None]
    return Springs(graph, vectors, unit, along, deformation, atoms_diagonal, cell_diagonal, counts)


def apply(springs: Springs, step: Vector) -> Vector:
    """K step: the change of the force when the batch moves by -step."""
    graph, owner = springs.graph, springs.graph.owner
    moved = jnp.einsum("na,nab->nb", step.atoms, springs.deformation[owner])
    edge_strain = step.cell[owner[graph.receivers]]
    stretch = moved[graph.senders] - moved[graph.receivers]
    stretch = stretch + jnp.einsum("ea,eab->eb", springs.vectors, edge_strain)
    parallel = jnp.sum(stretch * springs.unit, axis=-1, keepdims=True) * springs.unit
    tension = springs.along[:, None] * (ACROSS * stretch + (1 - ACROSS) * parallel) / 2
    on_atoms = sum_senders(tension, graph) - sum_receivers(tension, graph) + FLOOR * moved
    virial = sum_structures(sum_receivers(springs.vectors[:, :, None] * tension[:, None, :], graph), graph)
    on_cell = symmetrised(virial) + CELL_FLOOR * springs.counts[:, None, None] * step.cell
    return Vector(jnp.einsum("na,nab->nb", on_atoms, springs.deformation[owner]), on_cell)


def solve(springs: Springs, force: Vector, project, *, iterations: int = 30, tolerance: float = 1e-2) -> Vector:
    """Approximate K^-1 force within the allowed directions, by conjugate gradients of each structure alone."""
    owner = springs.graph.owner

    def precondition(v: Vector) -> Vector:
        return project(Vector(v.atoms / springs.atoms_diagonal[:, None], v.cell / springs.cell_diagonal[:, None, None]))

    def unfinished(carry):
        k, _, residual, _, _, goal = carry
        return (k < iterations) & jnp.any(dot(residual, residual, owner) > goal)

    def iterate(carry):
        k, x, residual, direction, slope, goal = carry
        image = project(apply(springs, direction))
        curvature = dot(direction, image, owner)
        active = (dot(residual, residual, owner) > goal) & (curvature > 0)
        length = jnp.where(active, slope / jnp.where(active, curvature, 1), 0)
        x = axpy(length, direction, x, owner)
        residual = axpy(-length, image, residual, owner)
        shaped = precondition(residual)
        following = jnp.where(active, dot(residual, shaped, owner), slope)
        ratio = jnp.where(active, following / jnp.where(slope > 0, slope, 1), 0)
        new = axpy(ratio, direction, shaped, owner)
        keep = active[:, None, None]
        direction = Vector(
            jnp.where(active[owner][:, None], new.atoms, direction.atoms), jnp.where(keep, new.cell, direction.cell)
        )
        return k + 1, x, residual, direction, following, goal

    force = project(force)  # rounding left outside of the allowed space would never converge
    zero = jax.tree.map(jnp.zeros_like, force)
    shaped = precondition(force)
    goal = tolerance * tolerance * dot(force, force, owner)
    start = (0, zero, force, shaped, dot(force, shaped, owner), goal)
    return jax.lax.while_loop(unfinished, iterate, start)[1]


def scale_of(springs: Springs, step: Vector, change: Vector) -> Float[Array, " b"]:
    """Factor on K that reproduces a measured curvature: step.change / step.K.step; 1 where that has no meaning."""
    owner = springs.graph.owner
    measured = dot(step, change, owner)
    expected = dot(step, apply(springs, step), owner)
    good = (measured > 0) & (expected > 0)
    return jnp.where(good, measured / jnp.where(good, expected, 1), 1)
