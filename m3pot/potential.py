"""Potential = model + parameters + energy scale; here, and only here, are energies differentiated."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from m3pot.execution import compiled
from m3pot.graph import Graph, Properties, edge_vectors, sum_receivers, sum_senders, sum_structures
from m3pot.models.zbl import ShortRange, widened, zbl_energies


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "scale", "shift", "offset"],
    meta_fields=["model", "zbl"],
    drop_fields=["card"],
)
@dataclasses.dataclass(frozen=True)
class Potential:
    """E = sum_i (scale[Z_i] * model_i + shift[Z_i] (+ ZBL_i)) + offset per structure, in eV.

    A pytree whose leaves are the arrays; ``card`` (a JSON-like dict: elements, training data, licence ...)
    describes a stored model and does not take part in transformations.
    """

    model: nn.Module
    params: Any
    scale: Float[Array, " 95"]  # eV, index = atomic number
    shift: Float[Array, " 95"]  # eV, element references
    offset: Float[Array, ""]  # eV per structure (0 but in imported models)
    # Where the Ziegler-Biersack-Littmark repulsion takes over; None: nowhere, short distances are left to the network.
    zbl: ShortRange | None = None
    card: dict = dataclasses.field(default_factory=dict)

    @property
    def cutoff(self) -> float:
        """Radius in A beyond which atoms do not see each other directly."""
        return self.model.cutoff

    @property
    def appetite(self) -> int:
        """Memory that a neighbour takes, in units of M3GNet's: what batches are to be smaller by."""
        return getattr(self.model, "appetite", 1)

    @property
    def elements(self) -> frozenset[int]:
        """Atomic numbers that the potential knows."""
        return frozenset(self.card.get("elements") or range(1, 95))

    def astype(self, dtype: Any) -> "Potential":
        """The same potential with all arrays (numpy) in ``dtype``."""
        cast = jax.tree.map(lambda x: np.asarray(x).astype(dtype), self)
        return dataclasses.replace(cast, card=self.card)


def atomic_energies(potential: Potential, graph: Graph, vectors: Float[Array, "e 3"]) -> Float[Array, " n"]:
    """Energy of each atom in eV as a function of the edge vectors; 0 on padding."""
    potential = jax.tree.map(lambda x: jnp.asarray(x).astype(vectors.dtype), potential)
    species = jnp.asarray(graph.species)
    seen = widened(graph, vectors, potential.zbl) if potential.zbl else vectors
    energies = potential.model.apply({"params": potential.params}, graph, seen)
    energies = energies * potential.scale[species] + potential.shift[species]
    if potential.zbl:
        energies = energies + zbl_energies(graph, vectors, potential.zbl)
    return jnp.where(species > 0, energies, 0)


def _total(potential: Potential, graph: Graph, energies: Float[Array, " n"]) -> Float[Array, " b"]:
    occupied = sum_structures((jnp.asarray(graph.species) > 0).astype(energies.dtype), graph) > 0
    return sum_structures(energies, graph) + jnp.where(occupied, jnp.asarray(potential.offset, energies.dtype), 0)


def energy(potential: Potential, graph: Graph) -> Float[Array, " b"]:
    """Energy of each structure in eV, differentiable in ``graph.positions`` and ``graph.cell``."""
    return _total(potential, graph, atomic_energies(potential, graph, edge_vectors(graph)))


def volumes(cell: Float[Array, "b 3 3"]) -> Float[Array, " b"]:
    """|det cell| in A^3, whatever the handedness."""
    a, b, c = cell[:, 0], cell[:, 1], cell[:, 2]
    return jnp.abs(jnp.sum(a * jnp.cross(b, c), axis=-1))


def predict(potential: Potential, graph: Graph) -> Properties:
    """Energy, forces, stress and atomic energies from one gradient with respect to the edge vectors.

    F_i = sum of dE/dr_ij over edges that leave i, minus those that arrive; stress = sum r_ij (x) dE/dr_ij / V,
    symmetrised, which is the derivative by a strain of positions and cell (tensile positive).
    """
    vectors = edge_vectors(graph)
    energies, pull = jax.vjp(functools.partial(atomic_energies, potential, graph), vectors)
    (slope,) = pull(jnp.ones_like(energies))
    forces = sum_receivers(slope, graph) - sum_senders(slope, graph)
    virial = sum_structures(sum_receivers(vectors[:, :, None] * slope[:, None, :], graph), graph)
    virial = (virial + jnp.swapaxes(virial, -1, -2)) / 2
    volume = volumes(jnp.asarray(graph.cell))[:, None, None]
    stress = jnp.where(volume > 0, virial / jnp.where(volume > 0, volume, 1), jnp.nan)
    return Properties(_total(potential, graph, energies), forces, stress, energies)


def hessian(potential: Potential, graph: Graph, *, block: int = 32) -> Float[Array, "n 3 n 3"]:
    """Second derivatives d2E/dx_ia dx_jb in eV/A^2 at fixed cell: forward over reverse, ``block`` columns at a time."""
    positions = jnp.asarray(graph.positions)
    n = positions.shape[0]
    rounds = -(-3 * n // block)
    block = -(-3 * n // rounds)  # equal blocks: a shorter last one would be compiled a second time

    def gradient(x):
        return jax.grad(lambda y: energy(potential, graph._replace(positions=y)).sum())(x)

    def column(k):
        direction = jnp.zeros(3 * n, positions.dtype).at[k].set(1, mode="drop").reshape(n, 3)
        return jax.jvp(gradient, (positions,), (direction,))[1]

    columns = jax.lax.map(column, jnp.arange(rounds * block), batch_size=block)[: 3 * n]
    return columns.reshape(n, 3, n, 3)


jit_predict = compiled(predict)
jit_hessian = compiled(hessian, static_argnames=("block",))
