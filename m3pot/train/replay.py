"""Frames of earlier training mixed into fine-tuning, so that the model does not forget."""

import dataclasses

import numpy as np

from m3pot.data.frames import concatenate
from m3pot.data.graphs import EdgeCache
from m3pot.potential import Potential
from m3pot.train.predictions import predict_frames
from m3pot.train.references import composition


def mixing(new: int, replayed: int, fraction: float) -> np.ndarray:
    """Indices into ``new`` frames followed by ``replayed`` ones, the scarcer repeated as often as it takes to make
    the replayed ones ``fraction`` of all as nearly as possible; every frame at least once.
    """
    times = (fraction * new) / ((1 - fraction) * replayed)
    first, second = (1, max(round(times), 1)) if times >= 1 else (max(round(1 / times), 1), 1)
    return np.concatenate([np.tile(np.arange(new), first), new + np.tile(np.arange(replayed), second)])


def join(a: EdgeCache, b: EdgeCache) -> EdgeCache:
    """The frames of both, in this order, with their edges."""
    if a.cutoff != b.cutoff:
        raise ValueError(
            f"Expected neighbour lists of one cutoff, got {a.cutoff:g} and {b.cutoff:g} A; build them alike."
        )
    return EdgeCache(
        frames=concatenate([a.frames, b.frames]),
        cutoff=a.cutoff,
        edge_ptr=np.concatenate([a.edge_ptr, a.edge_ptr[-1] + b.edge_ptr[1:]]),
        degrees=np.concatenate([a.degrees, b.degrees]),
        senders=np.concatenate([a.senders, b.senders]),
        shifts=np.concatenate([a.shifts, b.shifts]),
    )


def labelled_by(potential: Potential, cache: EdgeCache) -> EdgeCache:
    """The cache with frames that have no label at all labelled by ``potential``."""
    frames = cache.frames
    owner = np.repeat(np.arange(len(frames)), frames.n_atoms)
    forces = np.bincount(owner, np.isfinite(frames.forces).all(axis=1), len(frames)) > 0
    bare = np.flatnonzero(~np.isfinite(frames.energy) & ~forces & ~np.isfinite(frames.stress).any(axis=(1, 2)))
    if not len(bare):
        return cache
    predicted = predict_frames(potential, cache[bare])
    energy, stress, force = frames.energy.copy(), frames.stress.copy(), frames.forces.copy()
    energy[bare], stress[bare] = predicted.energy, predicted.stress
    force[np.isin(owner, bare)] = predicted.forces
    return dataclasses.replace(cache, frames=dataclasses.replace(frames, energy=energy, stress=stress, forces=force))


def moved(cache: EdgeCache, correction: np.ndarray) -> EdgeCache:
    """The cache with energies on the scale of element references moved by ``correction`` (95,) eV."""
    frames = cache.frames
    energy = frames.energy + composition(frames) @ correction
    return dataclasses.replace(cache, frames=dataclasses.replace(frames, energy=energy))
