"""Training loss and the metrics that people read. Pure functions of predictions and labels."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from m3pot.graph import Graph, Properties, sum_structures
from m3pot.math import safe


class LossWeights(NamedTuple):
    """Weights of the three terms, and the knee: the size of error at which each turns from squared to absolute.

    The scales keep hot and compressed frames from drowning those near equilibrium; ``inf`` switches them off.
    """

    energy: float = 5.0  # per eV/atom
    forces: float = 1.0  # per eV/A
    stress: float = 30.0  # per eV/A^3
    energy_knee: float = 0.01  # eV/atom
    forces_knee: float = 0.01  # eV/A
    stress_knee: float = 0.001  # eV/A^3
    forces_scale: float = 2.0  # eV/A; an error on a larger force counts in proportion to scale/(scale + |F|)
    stress_scale: float = 0.1  # eV/A^3; the same for stress


class Errors(NamedTuple):
    """Sums of absolute errors and the number of labels behind each, so that batches can be added up."""

    energy: Float[Array, ""]  # eV/atom
    forces: Float[Array, ""]  # eV/A, length of the error vector
    stress: Float[Array, ""]  # eV/A^3, mean over components
    structures: Float[Array, ""]
    atoms: Float[Array, ""]
    stresses: Float[Array, ""]


def huber(error: Float[Array, "*b"], knee: float) -> Float[Array, "*b"]:
    """|error| - knee/2 for large errors, error^2/(2 knee) for small ones (P. J. Huber, 1964, divided by the knee)."""
    size = jnp.abs(error)
    return jnp.where(size < knee, size * size / (2 * knee), size - knee / 2)


def loss(
    prediction: Properties, labels: Properties, graph: Graph, weights: LossWeights
) -> tuple[Float[Array, ""], Errors]:
    """Weighted mean of Huber losses over the labels that are there (NaN = no label), and plain absolute errors.

    Energy per atom, length of the force error vector (so that the loss is invariant under rotation), and
    Frobenius norm of the stress error over 3, so that a hydrostatic error counts with its own size over sqrt(3).
    """
    real = jnp.asarray(graph.species) > 0
    count = sum_structures(real.astype(prediction.energy.dtype), graph)

    has_energy = jnp.isfinite(labels.energy) & (count > 0)
    energy = (prediction.energy - jnp.where(has_energy, labels.energy, 0)) / jnp.maximum(count, 1)
    energy = jnp.where(has_energy, energy, 0)

    has_forces = jnp.isfinite(labels.forces).all(axis=-1) & real
    target = jnp.where(has_forces[:, None], labels.forces, 0)
    forces = safe.norm(jnp.where(has_forces[:, None], prediction.forces - target, 0))
    soft = 1 / (1 + safe.norm(target) / weights.forces_scale)

    has_stress = jnp.isfinite(labels.stress).all(axis=(-2, -1)) & jnp.isfinite(prediction.stress).all(axis=(-2, -1))
    has_stress = (has_stress & (count > 0))[:, None, None]
    target = jnp.where(has_stress, labels.stress, 0)
    stress = jnp.where(has_stress, prediction.stress, 0) - target
    stress_size = safe.norm(stress.reshape(-1, 9)) / 3
    stress_soft = 1 / (1 + safe.norm(target.reshape(-1, 9)) / 3 / weights.stress_scale)

    structures, atoms, stresses = has_energy.sum(), has_forces.sum(), has_stress.sum()
    total = (
        weights.energy * huber(energy, weights.energy_knee).sum() / jnp.maximum(structures, 1)
        + weights.forces * (soft * huber(forces, weights.forces_knee)).sum() / jnp.maximum(atoms, 1)
        + weights.stress * (stress_soft * huber(stress_size, weights.stress_knee)).sum() / jnp.maximum(stresses, 1)
    )
    sums = jnp.abs(energy).sum(), forces.sum(), jnp.abs(stress).mean(axis=(-2, -1)).sum()
    return total, Errors(*sums, *(x.astype(total.dtype) for x in (structures, atoms, stresses)))


def mean_errors(errors: Errors) -> dict[str, float]:
    """MAE of energy (eV/atom), forces (eV/A, vector) and stress (eV/A^3); NaN where there were no labels."""
    pairs = {
        "energy": (errors.energy, errors.structures),
        "forces": (errors.forces, errors.atoms),
        "stress": (errors.stress, errors.stresses),
    }
    return {name: float(total) / float(n) if n else float("nan") for name, (total, n) in pairs.items()}
