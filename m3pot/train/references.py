"""Energy scale of a data set: element references by ridge regression, scale from the size of the forces."""

import dataclasses

import numpy as np

from m3pot.data.frames import Frames
from m3pot.potential import Potential

_RIDGES = (1e6, 100.0, 10.0, 1.0, 0.1, 0.01)
_FOLDS = 5


def composition(frames: Frames) -> np.ndarray:
    """Number of atoms of each atomic number in each frame, (f, 95)."""
    owner = np.repeat(np.arange(len(frames)), frames.n_atoms)
    counts = np.zeros((len(frames), 95))
    np.add.at(counts, (owner, frames.numbers.astype(int)), 1)
    return counts


def element_references(frames: Frames, residual: np.ndarray, *, ridge: float) -> np.ndarray:
    """Energies per element (95,) in eV that fit ``residual`` (f,) eV per structure best, per atom, with a ridge.

    Elements that do not occur get 0. The ridge keeps elements that occur in few compositions near 0, so fit the
    residual of a model that already has references rather than total energies of few structures.
    """
    return _solve(*_fractions(frames, residual), ridge)


def choose_ridge(frames: Frames, residual: np.ndarray) -> float:
    """The ridge whose references, fitted to four fifths of the compositions, do best on the last fifth, in turn.

    The strongest leaves references as they are. A weaker one must be better by a fiftieth; it wins on a foreign energy
    scale, and the stronger where a few structures would only pass their errors on to their elements.
    """
    a, b = _fractions(frames, residual)
    compositions, group = np.unique(a.round(6), axis=0, return_inverse=True)
    if len(compositions) < 2:
        return min(_RIDGES)
    fold = np.random.default_rng(0).permutation(len(compositions))[group.ravel()] % _FOLDS
    best, score = max(_RIDGES), np.inf
    for ridge in _RIDGES:
        left = [b[fold == k] - a[fold == k] @ _solve(a[fold != k], b[fold != k], ridge) for k in range(_FOLDS)]
        error = float(np.median(np.abs(np.concatenate(left))))
        if error < 0.98 * score:
            best, score = ridge, error
    return best


def _fractions(frames: Frames, residual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of each element (f, 95) and residual per atom (f,) of the frames that have one."""
    labelled = np.isfinite(residual)
    counts = composition(frames)[labelled]
    atoms = counts.sum(axis=1)
    return counts / atoms[:, None], residual[labelled] / atoms


def _solve(a: np.ndarray, b: np.ndarray, ridge: float) -> np.ndarray:
    return np.linalg.solve(a.T @ a + ridge * np.eye(95), a.T @ b)


def force_rms(frames: Frames) -> float:
    """Root mean square force component, eV/A: the natural unit of a model's output. 1 if there are no forces."""
    forces = frames.forces[np.isfinite(frames.forces).all(axis=1)]
    return float(np.sqrt(np.mean(forces**2))) if forces.size and np.any(forces) else 1.0


def with_references(potential: Potential, correction: np.ndarray) -> Potential:
    """The potential with its element references moved by ``correction`` (95,) eV."""
    shift = np.asarray(potential.shift, np.float64) + correction
    return dataclasses.replace(potential, shift=shift.astype(np.asarray(potential.shift).dtype))
