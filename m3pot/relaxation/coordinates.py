"""The space in which structures relax: atoms in the frame of the starting cell, and the logarithm of the deformation.

As in ASE's FrechetCellFilter (S. Okada and C. Ortner, JuLIP.jl): positions = x exp(L), cell = cell_0 exp(L), rows are
vectors. A symmetric L reaches every shape without turning the crystal; with all nine numbers of L a path can be ASE's.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from m3pot.graph import Properties
from m3pot.math.segment import segment_sum
from m3pot.potential import volumes


class Vector(NamedTuple):
    """A point, a step or a force of a batch; leaves under ``atoms`` count atoms first, all others structures."""

    atoms: Float[Array, "n 3"]  # A in the frame of the starting cell; eV/A for a force
    cell: Float[Array, "b 3 3"]  # L; eV for a force


class Symmetry(NamedTuple):
    """Operations x_i -> x_images[i] of each structure; g = 0 operations where symmetry is free."""

    images: Int[Array, "n g"]  # atom of the same structure, counted from its first, onto which each atom is carried
    rotations: Float[Array, "b g 3 3"]  # row vectors: v -> v @ rotation
    weights: Float[Array, "b g"]  # 1/order of the group, 0 for padding


def product(a: Float[Array, "b 3 3"], b: Float[Array, "b 3 3"]) -> Float[Array, "b 3 3"]:
    """Matrix products written out: for many small matrices faster than a batched dot."""
    return jnp.sum(a[..., :, :, None] * b[..., None, :, :], axis=-2)


def exponential(logarithm: Float[Array, "b 3 3"]) -> Float[Array, "b 3 3"]:
    """exp(L) by scaling and squaring; Taylor series of order 9 at L/16, exact to rounding for |L| < 2."""
    eye = jnp.eye(3, dtype=logarithm.dtype)
    small = logarithm / 16
    series = eye + small / 9
    for k in range(8, 0, -1):
        series = eye + product(small, series) / k
    for _ in range(4):
        series = product(series, series)
    return series


def symmetrised(matrix: Float[Array, "b 3 3"]) -> Float[Array, "b 3 3"]:
    """(A + A^T) / 2."""
    return (matrix + jnp.swapaxes(matrix, -1, -2)) / 2


def inverse(matrix: Float[Array, "b 3 3"]) -> Float[Array, "b 3 3"]:
    """Inverse by cofactors; zeros for a singular matrix."""
    a, b, c = matrix[..., 0, :], matrix[..., 1, :], matrix[..., 2, :]
    columns = jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)], axis=-1)
    determinant = jnp.sum(a * columns[..., 0], axis=-1)[..., None, None]
    return jnp.where(determinant != 0, columns / jnp.where(determinant != 0, determinant, 1), 0)


def place(x: Vector, start: Float[Array, "b 3 3"], owner: Int[Array, " n"]):
    """Positions (n, 3), cells (b, 3, 3) and deformations exp(L) at the point ``x``; ``start`` are the first cells."""
    deformation = exponential(x.cell)
    positions = jnp.einsum("na,nab->nb", x.atoms, deformation[owner])
    return positions, product(start, deformation), deformation


def generalised_force(
    x: Vector, result: Properties, cell: Float[Array, "b 3 3"], owner: Int[Array, " n"], pressure: Float[Array, ""]
) -> Vector:
    """-d(E + pV)/dx of a prediction at ``x``; ``pressure`` in eV/A^3.

    On atoms F exp(L)^T; on cells the pull-back of -exp(-L)^T V (stress + p) through the exponential.
    """
    deformation, pull = jax.vjp(exponential, x.cell)
    volume = volumes(cell)[:, None, None]
    stress = jnp.where(volume > 0, result.stress + pressure * jnp.eye(3, dtype=cell.dtype), 0)
    (on_cell,) = pull(-product(jnp.swapaxes(inverse(deformation), -1, -2), volume * stress))
    return Vector(jnp.einsum("nb,nab->na", result.forces, deformation[owner]), on_cell)


def projected_strain(projector: Float[Array, "b 9 9"], matrix: Float[Array, "b 3 3"]) -> Float[Array, "b 3 3"]:
    """The part of a matrix that lies in the space of allowed strains."""
    return jnp.einsum("bij,bj->bi", projector, matrix.reshape(-1, 9)).reshape(-1, 3, 3)


def symmetrised_atoms(
    values: Float[Array, "n 3"], symmetry: Symmetry, owner: Int[Array, " n"], first: Int[Array, " n"]
) -> Float[Array, "n 3"]:
    """Mean of a vector field over the operations: v_i <- sum_g w_g R_g^-1 v_g(i); ``first`` atom of each structure."""
    if symmetry.images.shape[1] == 0:
        return values
    carried = values[first[:, None] + symmetry.images]
    weighted = symmetry.rotations[owner] * symmetry.weights[owner][:, :, None, None]
    return jnp.einsum("nga,ngba->nb", carried, weighted)


def dot(a: Vector, b: Vector, owner: Int[Array, " n"]) -> Float[Array, " b"]:
    """Scalar product of each structure."""
    atoms = segment_sum(jnp.sum(a.atoms * b.atoms, axis=-1), owner, a.cell.shape[0], ordered=True)
    return atoms + jnp.sum(a.cell * b.cell, axis=(-1, -2))


def largest_atom(values: Float[Array, "n 3"], owner: Int[Array, " n"], count: int) -> Float[Array, " b"]:
    """Largest length of an atomic vector in each structure; NaN stays NaN, 0 where there is no atom."""
    squares = jax.ops.segment_max(jnp.sum(values * values, axis=-1), owner, count, indices_are_sorted=True)
    return jnp.sqrt(jnp.where(squares < 0, 0, squares))  # the maximum of nothing is -infinity


def axpy(scale: Float[Array, " b"], a: Vector, b: Vector, owner: Int[Array, " n"]) -> Vector:
    """scale * a + b with one scale per structure."""
    return Vector(scale[owner][:, None] * a.atoms + b.atoms, scale[:, None, None] * a.cell + b.cell)


def scaled(scale: Float[Array, " b"], a: Vector, owner: Int[Array, " n"]) -> Vector:
    """scale * a with one scale per structure."""
    return Vector(scale[owner][:, None] * a.atoms, scale[:, None, None] * a.cell)
