"""Cheap potentials and structures."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.build import bulk

from m3pot.graph import Graph, sum_receivers
from m3pot.math import safe
from m3pot.potential import Potential


class Morse(nn.Module):
    """Morse pair potential, truncated smoothly over the last 30 % of the cutoff; no parameters."""

    depth: float = 0.34  # eV
    alpha: float = 1.36  # 1/A
    distance: float = 2.6  # A
    cutoff: float = 3.5  # A, twelve neighbours in fcc copper

    @nn.compact
    def __call__(self, graph: Graph, vectors: Any) -> Any:
        r = safe.norm(vectors)
        x = jnp.exp(-self.alpha * (r - self.distance))
        s = jnp.clip((r / self.cutoff - 0.7) / 0.3, 0, 1)
        smooth = 1 - s**3 * (10 - 15 * s + 6 * s**2)
        pair = self.depth * (x * x - 2 * x) * smooth
        return sum_receivers(jnp.where(r < self.cutoff, pair, 0), graph) / 2


class Free(nn.Module):
    """No interaction: an ideal gas."""

    cutoff: float = 1.0

    @nn.compact
    def __call__(self, graph: Graph, vectors: Any) -> Any:
        return sum_receivers(0 * safe.norm(vectors), graph)


class Broken(nn.Module):
    """Morse that answers NaN once two atoms come closer than ``near``."""

    near: float = 2.2  # A
    cutoff: float = 3.5

    @nn.compact
    def __call__(self, graph: Graph, vectors: Any) -> Any:
        energies = Morse(cutoff=self.cutoff)(graph, vectors)
        real = jnp.asarray(graph.species)[graph.receivers] > 0
        nearest = jnp.min(jnp.where(real, safe.norm(vectors), jnp.inf))
        return jnp.where(nearest < self.near, jnp.nan, energies)


def potential(model: nn.Module) -> Potential:
    """A parameterless model as a potential."""
    return Potential(model, {}, np.ones(95), np.zeros(95), np.zeros(()))


MORSE = potential(Morse())


def copper(n: int = 2, *, skewed: bool = False, seed: int = 0, rattle: float = 0.05) -> Atoms:
    """n^3 conventional fcc cells (4 n^3 atoms), optionally sheared."""
    atoms = bulk("Cu", cubic=True) * (n, n, n)
    if skewed:
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + np.array([[0, 0.05, 0], [0, 0, -0.08], [0.03, 0, 0]])), True)
    atoms.rattle(rattle, seed=seed)
    return atoms
