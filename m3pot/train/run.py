"""A whole run: data in; model, card, tables and plots out."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from m3pot.data.graphs import EdgeCache
from m3pot.io.checkpoint import save_potential, write_atomically
from m3pot.potential import Potential
from m3pot.train import card, log, plots
from m3pot.train.accuracy import Accuracy, accuracy, residuals
from m3pot.train.checkpoints import TrainingError, writing
from m3pot.train.config import TrainConfig
from m3pot.train.finetune import before_and_after
from m3pot.train.fit import fit
from m3pot.train.predictions import predict_frames
from m3pot.train.prepare import Prepared, prepare

_BINDING = ("seed", "model", "data", "replay", "refit_references", "ridge")  # a resumed run cannot change these


class Trained(NamedTuple):
    """What a run leaves behind."""

    potential: Potential
    model: Path  # model.safetensors; the card is beside it as model.md
    accuracy: dict[str, Accuracy]  # errors on the validation set and the replay probe
    comparison: list[dict[str, Any]]  # before and after, where training started from a model


def run(
    config: TrainConfig,
    *,
    resume: bool = False,
    command: str = "",
    say: Callable[[str], None] = lambda text: None,
    report: Callable[[dict[str, Any]], None] = lambda record: None,
    advance: Callable[[int], None] = lambda count: None,
) -> Trained:
    """Train as ``config`` says; safe to kill and to repeat with ``resume``.

    Writes into ``config.output``: ``model.safetensors`` and ``model.md`` (the best parameters and their card),
    ``learning_curves.png``, ``parity.png``, ``before_after.csv`` if training started from a model, and what
    :func:`m3pot.train.fit.fit` writes.

    Args:
        config: all of the run.
        resume: go on with the run in ``config.output``.
        command: what the user typed, for the card.
        say: called with a sentence at each stage.
        report, advance: as in :func:`m3pot.train.fit.fit`.

    Raises:
        TrainingError, ConfigError, LabelError, StructureError, CheckpointError, OSError: one sentence.
    """
    folder = Path(config.output)
    remember(config, folder, resume=resume)
    prepared = prepare(config, resume=resume, say=say)
    best = fit(
        prepared.potential, prepared.train, prepared.valid, config, resume=resume, report=report, advance=advance
    )
    records = [record for record in log.read(folder / "log.jsonl") if record["valid_loss"] is not None]
    if config.model.start and min(records, key=lambda record: record["valid_loss"], default={"step": -1})["step"] == 0:
        fitted = ", its references fitted" if config.refit_references else ""
        say(
            f"no validation was better than that of the start, which is kept{fitted}; try a smaller optim.lr, more "
            "optim.steps or more data."
        )
    return finish(config, prepared, blend(prepared.potential, best, config.optim.blend), command=command)


def blend(start: Potential, trained: Potential, share: float) -> Potential:
    """``trained`` with parameters on the line from those of ``start`` (share 0) to its own (share 1).

    Between the two, a model often is better than either on what training did not cover: M. Wortsman et al., Robust
    fine-tuning of zero-shot models, CVPR (2022).
    """
    if share == 1:
        return trained
    mean = jax.tree.map(lambda a, b: np.asarray(a + share * (b - a), b.dtype), start.params, trained.params)
    return dataclasses.replace(trained, params=mean)


def remember(config: TrainConfig, folder: Path, *, resume: bool) -> None:
    """Write ``config.json``; before a resumed run is touched, compare what cannot change.

    Raises TrainingError if the folder holds a run of another configuration, or any run unless ``resume``. What ended
    before its first step, for want of data perhaps, is no run.
    """
    path = folder / "config.json"
    wanted = config.model_dump(mode="json")
    begun = (folder / "checkpoints").exists()
    if begun and path.exists():
        if not resume:
            raise TrainingError(f"{folder} holds a run already; go on with --resume, or choose another output folder.")
        before = json.loads(path.read_text(encoding="utf-8"))
        if changed := [key for key in _BINDING if before.get(key) != wanted[key]]:
            raise TrainingError(
                f"{folder} holds a run with other settings ({', '.join(changed)}); give the configuration that it was "
                "started with, or choose another output folder."
            )
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("all processes have read config.json")
    if jax.process_index() == 0:
        with writing(folder):
            if not begun:
                (folder / "start.safetensors").unlink(missing_ok=True)
            write_atomically(path, json.dumps(wanted, indent=1).encode())


def finish(config: TrainConfig, prepared: Prepared, best: Potential, *, command: str) -> Trained:
    """Measure the model, write card, tables and plots."""
    folder = Path(config.output)
    sets: dict[str, EdgeCache] = {"validation": prepared.valid}
    if prepared.probe is not None:
        sets["replay probe"] = prepared.probe
    predicted = {name: predict_frames(best, cache) for name, cache in sets.items()}
    measured = {name: accuracy(residuals(sets[name].frames, frames)) for name, frames in predicted.items()}
    comparison = before_and_after(prepared, best) if prepared.source is not None else []
    records = log.read(folder / "log.jsonl")
    text = card.make_card(
        config, prepared.source, prepared.frames, prepared.sources, records, measured, command=command
    )
    best = dataclasses.replace(best, card=text)
    if jax.process_index() == 0:
        with writing(folder):
            save_potential(folder / "model.safetensors", best)
            write_atomically(folder / "model.md", card.markdown(text).encode())
            if comparison:
                log.write_csv(folder / "before_after.csv", comparison)
            plots.learning_curves(records, folder / "learning_curves.png")
            plots.parity(prepared.valid.frames, {"trained": predicted["validation"]}, folder / "parity.png")
    return Trained(best, folder / "model.safetensors", measured, comparison)
