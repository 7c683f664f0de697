"""Labels from several teachers on one energy scale: their mean, where they agree."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from m3pot.data.label import Evaluate
from m3pot.ensemble import force_variance, mean_and_spread
from m3pot.graph import Properties
from m3pot.structure import labels_from_ase

if TYPE_CHECKING:
    from ase import Atoms


def mean_of(teachers: Sequence[Evaluate], *, limit: float = np.inf) -> Evaluate:
    """Labels that are the mean over the teachers.

    A structure gets none, and the reason in ``info``, where a teacher has none, or where on some atom
    :func:`m3pot.ensemble.force_disagreement` is above ``limit`` (eV/A). Errors of teachers that learned from different
    data cancel in part; where they disagree none of them is to be trusted.
    """

    def evaluate(structures: "list[Atoms]") -> "Iterator[Atoms]":
        for answers in zip(*(teacher(structures) for teacher in teachers), strict=True):
            yield _mean(answers, limit)

    return evaluate


def _mean(answers: "Sequence[Atoms]", limit: float) -> "Atoms":
    for atoms in answers:
        if atoms.calc is None:
            return atoms
    each = Properties(*(np.stack(field) for field in zip(*map(labels_from_ase, answers), strict=True)))
    mean, _ = mean_and_spread(each)
    atoms = answers[0].copy()
    disagreement = float(np.sqrt(force_variance(each).max()))  # numpy: jax would compile for each size
    if disagreement > limit:
        atoms.info["reason"] = f"models disagree on a force by {disagreement:.2f} eV/A"
        return atoms
    stress = {"stress": full_3x3_to_voigt_6_stress(mean.stress[0])} if np.isfinite(mean.stress).all() else {}
    atoms.calc = SinglePointCalculator(atoms, energy=float(mean.energy[0]), forces=mean.forces, **stress)
    return atoms
