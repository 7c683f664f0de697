"""Analytic potential and problems for the tests of relaxation."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.build import bulk
from jaxtyping import Array, Float

from m3pot.graph import Graph, real_edges, sum_receivers
from m3pot.math import safe
from m3pot.potential import Potential


class Morse(nn.Module):
    """Smooth Morse pairs with a minimum near the sum of two radii; NaN for the element ``poison``."""

    cutoff: float = 4.5
    poison: int = 36  # Kr

    @nn.compact
    def __call__(self, graph: Graph, vectors: Float[Array, "e 3"]) -> Float[Array, " n"]:
        r = safe.norm(vectors)
        size = jnp.where(jnp.asarray(graph.species) == 8, 0.8, 1.3).astype(r.dtype)
        bond = size[graph.receivers] + size[graph.senders]
        decay = jnp.exp(-1.6 * (r - bond))
        fade = 1 - jnp.minimum(r / self.cutoff, 1) ** 2
        pair = 0.2 * (decay * decay - 2 * decay) * fade * fade * fade
        energies = sum_receivers(jnp.where(real_edges(graph), pair, 0), graph)
        return jnp.where(jnp.asarray(graph.species) == self.poison, jnp.nan, energies)


def morse() -> Potential:
    elements = [z for z in range(1, 95) if z != 92]
    return Potential(Morse(), {}, np.ones(95), np.zeros(95), np.array(0.25), card={"elements": elements})


def distorted(atoms: Atoms, seed: int, rattle: float = 0.08, strain: float = 0.03) -> Atoms:
    rng = np.random.default_rng(seed)
    atoms = atoms.copy()
    epsilon = rng.normal(0, strain, (3, 3))
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + (epsilon + epsilon.T) / 2), scale_atoms=True)
    atoms.positions += rng.normal(0, rattle, atoms.positions.shape)
    return atoms


def problems() -> dict[str, Atoms]:
    """Crystals, a layer, a molecule, one atom in a cell and one alone, out of equilibrium."""
    table = {
        "metal": distorted(bulk("Cu", cubic=True, a=3.7), 1),
        "alloy": distorted(bulk("CuAu", "cesiumchloride", a=3.0), 2),
        "oxide": distorted(bulk("MgO", "rocksalt", a=4.4, cubic=True), 3),
        "one atom": distorted(bulk("Ni", "fcc", a=3.9), 4, rattle=0),
    }
    layer = bulk("Al", "fcc", a=3.8, cubic=True)
    layer.cell[2] = [0, 0, 14]
    layer.pbc = (True, True, False)
    table["layer"] = distorted(layer, 5, strain=0)
    table["molecule"] = Atoms("CuOCu", positions=[[0, 0, 0], [1.8, 0.4, 0], [3.9, 0, 0.1]])
    table["alone"] = Atoms("He")
    return table
