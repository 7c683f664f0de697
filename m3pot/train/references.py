"""Energy scale of a data set: element references by ridge regression, scale from the size of the forces."""

import dataclasses

import numpy as np

from m3pot.data.frames import Frames
from m3pot.potential import Potential


def composition(frames: Frames) -> np.ndarray:
    """Number of atoms of each atomic number in each frame, (f, 95)."""
    owner = np.repeat(np.arange(len(frames)), frames.n_atoms)
    counts = np.zeros((len(frames), 95))
    np.add.at(counts, (owner, frames.numbers.astype(int)), 1)
    return counts


def element_references(frames: Frames, residual: np.ndarray, *, ridge: float = 1e-2) -> np.ndarray:
    """Energies per element (95,) in eV that fit ``residual`` (f,) eV per structure best, per atom, with a small ridge.

    Elements that do not occur get 0. The ridge keeps elements that occur in few compositions near 0, so fit the
    residual of a model that already has references rather than total energies of few structures.
    """
    labelled = np.isfinite(residual)
    counts = composition(frames)[labelled]
    atoms = counts.sum(axis=1, keepdims=True)
    a, b = counts / atoms, residual[labelled] / atoms[:, 0]
    return np.linalg.solve(a.T @ a + ridge * np.eye(95), a.T @ b)


def force_rms(frames: Frames) -> float:
    """Root mean square force component, eV/A: the natural unit of a model's output. 1 if there are no forces."""
    forces = frames.forces[np.isfinite(frames.forces).all(axis=1)]
    return float(np.sqrt(np.mean(forces**2))) if forces.size and np.any(forces) else 1.0


def with_references(potential: Potential, correction: np.ndarray) -> Potential:
    """The potential with its element references moved by ``correction`` (95,) eV."""
    shift = np.asarray(potential.shift, np.float64) + correction
    return dataclasses.replace(potential, shift=shift.astype(np.asarray(potential.shift).dtype))
