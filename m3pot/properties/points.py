"""Single points and relaxations of many structures, alike for a potential (batched) and any ASE calculator."""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from m3pot import inference
from m3pot.data.calculators import compute
from m3pot.potential import Potential
from m3pot.relaxation import Options, Relaxed, iter_relax
from m3pot.relaxation.ase_route import relax_with_ase
from m3pot.structure import StructureError, to_atoms

Model = Potential | BaseCalculator | str | PathLike | None  # what users may give; None is the shipped default
Evaluate = Callable[[Sequence[Atoms]], list[Atoms]]


def find(model: Model) -> Potential | BaseCalculator:
    """The potential of a name or file; potentials and calculators (of any class: GPAW's is its own) pass through."""
    if model is not None and not isinstance(model, str | PathLike):
        return model
    from m3pot.io.registry import load

    return load(model)


def evaluator(
    model: Model,
    *,
    dtype: str = "float64",
    device: Any = None,
    progress: Callable[[int], None] = lambda count: None,
) -> Evaluate:
    """A function from structures to copies with energy, forces and stress, in batches where the model is a potential.

    A structure that cannot be evaluated comes back without calculator and with ``info["reason"]``. ``dtype`` and
    ``device`` are those of a potential; a calculator has its own.
    """
    found = find(model)

    def batched(structures: Sequence[Atoms]) -> list[Atoms]:
        return inference.predict(structures, found, dtype=dtype, device=device, errors="keep", progress=progress)

    def one_by_one(structures: Sequence[Atoms]) -> list[Atoms]:
        results = []
        for atoms in structures:
            results.append(compute(atoms, found))
            progress(1)
        return results

    return batched if isinstance(found, Potential) else one_by_one


def evaluate(structures: Sequence[Any], model: Model, *, dtype: str = "float64", device: Any = None) -> list[Atoms]:
    """:func:`evaluator` at once; raises StructureError for the first structure that fails."""
    done = evaluator(model, dtype=dtype, device=device)([to_atoms(structure) for structure in structures])
    for k, atoms in enumerate(done):
        if atoms.calc is None:
            raise StructureError(f"structure {k} ({atoms.get_chemical_formula()}): {atoms.info['reason']}")
    return done


def relax_all(structures: Sequence[Any], model: Model, options: Options) -> list[Relaxed]:
    """Relax structures in batches, or one by one through ASE for a calculator; in the order of the input."""
    found = find(model)
    if isinstance(found, Potential):
        return sorted(iter_relax(enumerate(structures), found, options), key=lambda result: result.index)
    return [_relax_one(to_atoms(atoms), found, options, index) for index, atoms in enumerate(structures)]


def _relax_one(atoms: Atoms, calculator: BaseCalculator, options: Options, index: int) -> Relaxed:
    try:
        return relax_with_ase(atoms, calculator, options, index=index)
    except Exception as error:  # calculators raise anything, and one structure must not stop the others
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Relaxed(atoms, "failed", reason=reason, index=index)
