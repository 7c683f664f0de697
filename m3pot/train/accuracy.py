"""How far predictions are from labels: the numbers in logs, cards and tables."""

from typing import NamedTuple

import numpy as np

from m3pot.data.frames import Frames
from m3pot.units import GPA


class Accuracy(NamedTuple):
    """Errors over a set of frames; NaN where there are no labels."""

    structures: int  # with a label of the energy
    atoms: int  # with labels of the forces
    energy_mae: float  # eV/atom
    energy_rmse: float
    energy_median: float  # median of the absolute error
    forces_mae: float  # eV/A, mean length of the error vector
    forces_component_mae: float  # eV/A, over x, y and z
    forces_rmse: float  # eV/A, over x, y and z
    stress_mae: float  # GPa, over the nine components
    stress_rmse: float


class Residuals(NamedTuple):
    """Prediction less label; NaN where either is missing."""

    energy: np.ndarray  # (f,) eV/atom
    forces: np.ndarray  # (n, 3) eV/A
    stress: np.ndarray  # (f, 3, 3) GPa


def residuals(labels: Frames, predicted: Frames) -> Residuals:
    """Differences of two sets of the same frames."""
    return Residuals(
        (predicted.energy - labels.energy) / labels.n_atoms,
        predicted.forces - labels.forces,
        (predicted.stress - labels.stress) / GPA,
    )


def accuracy(errors: Residuals, frames: np.ndarray | None = None, atoms: np.ndarray | None = None) -> Accuracy:
    """Mean errors, of all or of the ``frames`` (f,) and ``atoms`` (n,) that these masks choose."""
    energy = errors.energy if frames is None else errors.energy[frames]
    stress = errors.stress if frames is None else errors.stress[frames]
    forces = errors.forces if atoms is None else errors.forces[atoms]
    energy = energy[np.isfinite(energy)]
    forces = forces[np.isfinite(forces).all(axis=1)]
    stress = stress[np.isfinite(stress).all(axis=(1, 2))]
    return Accuracy(
        structures=len(energy),
        atoms=len(forces),
        energy_mae=_mean(np.abs(energy)),
        energy_rmse=_mean(energy**2) ** 0.5,
        energy_median=float(np.median(np.abs(energy))) if len(energy) else np.nan,
        forces_mae=_mean(np.linalg.norm(forces, axis=1)),
        forces_component_mae=_mean(np.abs(forces)),
        forces_rmse=_mean(forces**2) ** 0.5,
        stress_mae=_mean(np.abs(stress)),
        stress_rmse=_mean(stress**2) ** 0.5,
    )


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def by_element(labels: Frames, errors: Residuals) -> dict[int, Accuracy]:
    """For each atomic number: the forces on its atoms, energy and stress of the frames that hold it."""
    owner = np.repeat(np.arange(len(labels)), labels.n_atoms)
    result = {}
    for number in np.unique(labels.numbers).tolist():
        atoms = labels.numbers == number
        frames = np.zeros(len(labels), bool)
        frames[owner[atoms]] = True
        result[number] = accuracy(errors, frames, atoms)
    return result
