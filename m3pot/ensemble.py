"""Several potentials of one architecture as one: mean predictions, and their spread as a measure of ignorance."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from m3pot.execution import compiled
from m3pot.graph import Graph, Properties
from m3pot.potential import Potential, predict


class Ensemble(NamedTuple):
    """Members stacked along a new first axis of every array; a pytree that ``jax.jit`` takes like a potential."""

    members: Potential

    @property
    def model(self):
        """Architecture shared by all members."""
        return self.members.model

    @property
    def cutoff(self) -> float:
        """Radius in A beyond which atoms do not see each other directly."""
        return self.members.cutoff

    @property
    def elements(self) -> frozenset[int]:
        """Atomic numbers that all members know."""
        return self.members.elements

    def astype(self, dtype) -> "Ensemble":
        """The same ensemble with all arrays (numpy) in ``dtype``."""
        return Ensemble(self.members.astype(dtype))


def stack(potentials: Sequence[Potential]) -> Ensemble:
    """Join potentials. Raises ValueError unless there are two or more of the same model with the same fields."""
    if len(potentials) < 2:
        raise ValueError(f"Expected two or more potentials for an ensemble, got {len(potentials)}; train more seeds.")
    first = potentials[0]
    for k, other in enumerate(potentials[1:], 2):
        if other.model != first.model or other.zbl != first.zbl:
            raise ValueError(
                f"Potential {k} of the ensemble differs in architecture from the first; all must share one model."
            )
    joined = jax.tree.map(lambda *leaves: np.stack([np.asarray(x) for x in leaves]), *potentials)
    elements = frozenset.intersection(*(p.elements for p in potentials))
    return Ensemble(dataclasses.replace(joined, card=first.card | {"elements": sorted(elements)}))


def members(ensemble: Ensemble) -> list[Potential]:
    """The potentials one by one."""
    count = np.shape(ensemble.members.offset)[0]
    pick = lambda k: jax.tree.map(lambda x: np.asarray(x)[k], ensemble.members)  # noqa: E731
    return [dataclasses.replace(pick(k), card=ensemble.members.card) for k in range(count)]


def predict_each(ensemble: Ensemble, graph: Graph) -> Properties:
    """Predictions of every member, along a new first axis of each field."""
    return jax.vmap(predict, in_axes=(0, None))(ensemble.members, graph)


def mean_and_spread(each: Properties) -> tuple[Properties, Properties]:
    """Mean over members, and standard deviation (population) of each component; numpy for numpy."""
    return Properties(*(x.mean(axis=0) for x in each)), Properties(*(x.std(axis=0) for x in each))


def force_variance(each: Properties) -> Float[Array, " n"]:
    """``mean over members of |F_i - <F_i>|^2`` of each atom in (eV/A)^2; numpy for numpy."""
    spread = each.forces - each.forces.mean(axis=0)
    return (spread**2).sum(axis=-1).mean(axis=0)


def force_disagreement(each: Properties) -> Float[Array, " n"]:
    """``sqrt(mean over members of |F_i - <F_i>|^2)`` of each atom in eV/A.

    The model deviation of Y. Zhang et al., Comput. Phys. Commun. 253, 107206 (2020).
    """
    return jnp.sqrt(force_variance(each))


def predict_ensemble(ensemble: Ensemble, graph: Graph) -> tuple[Properties, Properties, Float[Array, " n"]]:
    """Mean, standard deviation, and force disagreement of each atom."""
    each = predict_each(ensemble, graph)
    return *mean_and_spread(each), force_disagreement(each)


jit_predict_ensemble = compiled(predict_ensemble)
