"""Errors of models against labelled frames: ``m3pot evaluate``. Models of this package and any ASE calculator."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from m3pot.data.calculators import compute, make_calculator
from m3pot.data.frames import Frames, to_atoms
from m3pot.data.graphs import EdgeCache
from m3pot.io.checkpoint import CheckpointError, write_atomically
from m3pot.io.registry import load
from m3pot.potential import Potential
from m3pot.structure import StructureError, labels_from_ase
from m3pot.train import log, plots
from m3pot.train.accuracy import Accuracy, accuracy, by_element, residuals
from m3pot.train.predictions import predict_frames
from m3pot.train.references import composition, element_references

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

_RIDGE = 1e-3
_FRAMES_PER_REFERENCE = 5


class Evaluation(NamedTuple):
    """What :func:`evaluate` finds."""

    rows: list[dict[str, Any]]  # set, model, element ("all" or a symbol), and the fields of Accuracy
    labels: dict[str, Frames]  # of each set, without the frames that some model could not evaluate
    predictions: dict[str, dict[str, Frames]]  # of each set and model, for the same frames
    failures: list[tuple[str, str]]  # frame, reason


def evaluate(
    sets: Mapping[str, Frames],
    models: Mapping[str, "Potential | Calculator"],
    *,
    dtype: str = "float32",
    align: bool = False,
    advance: Callable[[int], None] = lambda count: None,
) -> Evaluation:
    """Errors per set, model and element. All models are measured on the same frames: those that all can evaluate.

    Args:
        sets: labelled frames by name.
        models: potentials and ASE calculators by name.
        dtype: of the potentials.
        align: fit element references to the energy errors of each model and set first, to compare energy scales that
            differ by a constant for each element.
        advance: called with the number of frames just evaluated, once for each model.
    """
    result = Evaluation([], {}, {}, [])
    for name, frames in sets.items():
        raw = {}
        for model, potential in models.items():
            predicted, failures = predict(potential, frames, dtype=dtype, advance=advance)
            result.failures.extend((f"{name}: {frame} with {model}", reason) for frame, reason in failures.items())
            raw[model] = predicted
        done = np.flatnonzero(np.all([np.isfinite(p.energy) for p in raw.values()], axis=0))
        labels, predictions = frames[done], {model: predicted[done] for model, predicted in raw.items()}
        if align:
            predictions = {model: _aligned(labels, predicted) for model, predicted in predictions.items()}
        result.labels[name], result.predictions[name] = labels, predictions
        for model, predicted in predictions.items():
            result.rows.extend(_rows(name, model, labels, predicted))
    return result


def find_model(name: str) -> "Potential | Calculator":
    """A model by name or file as in ``m3pot.load``, or an ASE calculator as ``module:factory``."""
    try:
        return load(name)
    except CheckpointError:
        if ":" not in name or Path(name).exists():
            raise
    return make_calculator(name)


def predict(
    model: "Potential | Calculator",
    frames: Frames,
    *,
    dtype: str = "float32",
    advance: Callable[[int], None] = lambda count: None,
) -> tuple[Frames, dict[str, str]]:
    """The frames with predictions in place of labels, NaN where that failed; and the reasons by name of the frame."""
    if not isinstance(model, Potential):
        return _with_calculator(model, frames, advance)
    usable, reasons = _usable(model, frames)
    advance(len(frames) - len(usable))
    result = _without_labels(frames)
    if not len(usable):
        return result, reasons
    cache = EdgeCache.build(frames[usable], model.cutoff)
    predicted = predict_frames(model, cache, dtype=dtype, advance=advance)
    atoms = np.isin(np.repeat(np.arange(len(frames)), frames.n_atoms), usable)
    result.energy[usable], result.stress[usable], result.forces[atoms] = (
        predicted.energy,
        predicted.stress,
        predicted.forces,
    )
    return result, reasons


def _usable(model: Potential, frames: Frames) -> tuple[np.ndarray, dict[str, str]]:
    """Indices of the frames that a potential can evaluate, and why the others cannot be."""
    from ase.data import chemical_symbols

    known = np.isin(np.arange(256), list(model.elements))
    reasons, usable = {}, []
    for k in range(len(frames)):
        numbers = frames.numbers[frames.ptr[k] : frames.ptr[k + 1]]
        if not known[numbers].all():
            unknown = ", ".join(chemical_symbols[z] for z in np.unique(numbers[~known[numbers]]))
            reasons[_name(frames, k)] = f"the model does not know {unknown}."
        else:
            usable.append(k)
    try:
        EdgeCache.build(frames[usable], 0.5)  # finds overlapping atoms and cells without volume, cheaply
    except StructureError:
        for k in list(usable):
            try:
                EdgeCache.build(frames[k], 0.5)
            except StructureError as error:
                reasons[_name(frames, k)] = str(error)
                usable.remove(k)
    return np.array(usable, np.int64), reasons


def _with_calculator(
    calculator: "Calculator", frames: Frames, advance: Callable[[int], None]
) -> tuple[Frames, dict[str, str]]:
    result, reasons = _without_labels(frames), {}
    for k in range(len(frames)):
        atoms = compute(to_atoms(frames, k), calculator)
        if atoms.calc is None:
            reasons[_name(frames, k)] = atoms.info["reason"]
        else:
            found = labels_from_ase(atoms)
            result.energy[k], result.stress[k] = found.energy[0], found.stress[0]
            result.forces[frames.ptr[k] : frames.ptr[k + 1]] = found.forces
        advance(1)
    return result, reasons


def _without_labels(frames: Frames) -> Frames:
    missing = {label: np.full_like(getattr(frames, label), np.nan) for label in ("energy", "forces", "stress")}
    return dataclasses.replace(frames, **missing)


def _name(frames: Frames, k: int) -> str:
    return str(frames.name[k]) or f"frame {k}"


def _aligned(labels: Frames, predicted: Frames) -> Frames:
    """Predictions with energies moved by the element references that fit the labels best.

    Raises ValueError for so few frames that the fit would take most of the errors away.
    """
    free = np.linalg.matrix_rank(composition(labels))
    if len(labels) < _FRAMES_PER_REFERENCE * free:
        raise ValueError(
            f"Expected at least {_FRAMES_PER_REFERENCE * free} frames to fit {free} element references, got "
            f"{len(labels)}: the fit would hide the errors; give more frames or do not align."
        )
    correction = element_references(labels, labels.energy - predicted.energy, ridge=_RIDGE)
    return dataclasses.replace(predicted, energy=predicted.energy + composition(labels) @ correction)


def _rows(name: str, model: str, labels: Frames, predicted: Frames) -> list[dict[str, Any]]:
    from ase.data import chemical_symbols

    errors = residuals(labels, predicted)
    measured: dict[str, Accuracy] = {"all": accuracy(errors)}
    measured |= {chemical_symbols[z]: found for z, found in by_element(labels, errors).items()}
    return [{"set": name, "model": model, "element": key, **found._asdict()} for key, found in measured.items()]


def write(folder: Path, evaluation: Evaluation, facts: Mapping[str, Any]) -> list[Path]:
    """Write ``errors.csv``, ``errors.json`` (with ``facts``: models ...) and ``parity_SET.png``; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    log.write_csv(folder / "errors.csv", evaluation.rows)
    document = {**facts, "rows": evaluation.rows, "failures": [list(failure) for failure in evaluation.failures]}
    write_atomically(folder / "errors.json", json.dumps(log.finite(document), indent=1, allow_nan=False).encode())
    written = [folder / "errors.csv", folder / "errors.json"]
    for name, labels in evaluation.labels.items():
        if len(labels):
            written.append(folder / f"parity_{name}.png")
            plots.parity(labels, evaluation.predictions[name], written[-1])
    return written


def overall(evaluation: Evaluation) -> Sequence[Mapping[str, Any]]:
    """The rows over all elements."""
    return [row for row in evaluation.rows if row["element"] == "all"]
