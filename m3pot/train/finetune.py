"""Fine-tuning: a training run that starts from a model, and what it won and forgot."""

from collections.abc import Mapping, Sequence
from typing import Any

from m3pot.data.graphs import EdgeCache
from m3pot.potential import Potential
from m3pot.train.accuracy import Accuracy, accuracy, residuals
from m3pot.train.config import TrainConfig, make_config
from m3pot.train.predictions import predict_frames
from m3pot.train.prepare import Prepared

DEFAULTS: dict[str, Any] = {
    "output": "finetuned",
    "valid_every": 100,
    "save_every": 100,
    "patience": 10,
    "data": {"valid_fraction": 0.1},
    "optim": {"lr": 1e-4, "final_lr": 1e-6, "steps": 2000, "warmup": 100, "ema": 0.99},
    "loss": {"forces": 3.0},  # as the shipped models were trained
}


def finetune_config(
    data: Sequence[str],
    start: str,
    *,
    output: str | None = None,
    valid: Sequence[str] = (),
    replay: Sequence[str] = (),
    replay_fraction: float | None = None,
    freeze: Sequence[str] = (),
    rates: Mapping[str, float] | None = None,
    overrides: Sequence[str] = (),
) -> TrainConfig:
    """The configuration of a fine-tuning: small rates, few steps, early stop; ``overrides`` as in ``load_config``.

    Args:
        data: labelled frames.
        start: model file or name.
        output: folder; default ``finetuned``.
        valid: frames to validate on; default a tenth of the parent crystals of ``data``.
        replay: frames of earlier training, or unlabelled structures that ``start`` labels.
        replay_fraction: their share of what training sees.
        freeze: prefixes of parameters that stay as they are.
        rates: factors on the learning rate by prefix.
        overrides: ``section.key=value``.
    """
    tree: dict[str, Any] = {
        **DEFAULTS,
        "model": {"start": start},
        "data": {**DEFAULTS["data"], "train": list(data), "valid": list(valid)},
        "optim": {**DEFAULTS["optim"], "rates": {**(rates or {}), **dict.fromkeys(freeze, 0.0)}},
    }
    if output:
        tree["output"] = output
    if replay:
        fraction = {} if replay_fraction is None else {"fraction": replay_fraction}
        tree["replay"] = {"data": list(replay), **fraction}
    return make_config(tree, overrides)


def before_and_after(prepared: Prepared, after: Potential) -> list[dict[str, Any]]:
    """Errors on the user's validation frames and on the replay probe: the model as it was, with its element
    references fitted to the new data, and fine-tuned.

    The energies of the probe are on the scale of the new references, so the model as it was is compared without them.
    """
    models: dict[str, Potential] = {"references fitted": prepared.potential, "fine-tuned": after}
    rows = []
    if prepared.source is not None:
        rows.append(_row("your data", "before", prepared.source, prepared.valid))
    rows += [_row("your data", name, model, prepared.valid) for name, model in models.items()]
    if prepared.probe is not None:
        rows.append(_row("replay probe", "before", prepared.potential, prepared.probe))
        rows.append(_row("replay probe", "fine-tuned", after, prepared.probe))
    return rows


def _row(name: str, state: str, potential: Potential, cache: EdgeCache) -> dict[str, Any]:
    return {"set": name, "model": state, **measure(potential, cache)._asdict()}


def measure(potential: Potential, cache: EdgeCache) -> Accuracy:
    """Errors of a potential on labelled frames."""
    return accuracy(residuals(cache.frames, predict_frames(potential, cache)))
