"""Predictions of a potential for a data set, as frames with other labels."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from m3pot.data.batching import assemble, capacity_for, plan, prefetch
from m3pot.data.frames import Frames, ragged
from m3pot.data.graphs import EdgeCache
from m3pot.execution import numerics
from m3pot.potential import Potential, jit_predict


def predict_frames(
    potential: Potential,
    cache: EdgeCache,
    *,
    edge_budget: int | None = None,
    dtype: str = "float32",
    precision: str = "highest",
    advance: Callable[[int], None] = lambda count: None,
) -> Frames:
    """The frames of ``cache`` with the predicted energy, forces and stress in place of the labels.

    ``edge_budget`` neighbours per batch decide the memory; raises ValueError if the edges of the cache do not reach as
    far as the potential sees.
    """
    if cache.cutoff < potential.cutoff:
        raise ValueError(
            f"The neighbour lists end at {cache.cutoff:g} A, before the cutoff of {potential.cutoff:g} A; build others."
        )
    frames = cache.frames
    energy, forces, stress = (np.full_like(x, np.nan) for x in (frames.energy, frames.forces, frames.stress))
    budget = edge_budget or 16384 // potential.appetite
    capacity = capacity_for(cache, max(budget, int(cache.n_edges.max(initial=0))))
    groups = plan(cache, capacity, seed=0, epoch=0, shuffle=False)
    with numerics(dtype, precision):
        placed = jax.device_put(potential.astype(dtype))
        graphs = prefetch((indices, assemble(cache, indices, capacity, dtype)[0]) for indices in groups)
        for indices, graph in graphs:
            result = jax.device_get(jit_predict(placed, graph))
            counts = frames.n_atoms[indices]
            total = int(counts.sum())
            owner = np.repeat(np.arange(len(indices)), counts)
            # Summed here in float64: a float32 total of many atoms has errors of 1e-4 eV.
            energies = np.bincount(owner, result.energies[:total].astype(np.float64), len(indices))
            energy[indices] = energies + float(potential.offset)
            forces[ragged(frames.ptr[indices], counts)] = result.forces[:total]
            stress[indices] = result.stress[: len(indices)]
            advance(len(indices))
    return dataclasses.replace(frames, energy=energy, forces=forces, stress=stress)
