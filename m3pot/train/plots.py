"""Figures of a training run: how the errors fell, and predictions against labels."""

import io
import math
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np

from m3pot.data.frames import Frames
from m3pot.io.checkpoint import write_atomically
from m3pot.units import GPA

_CURVES = (
    ("valid_loss", "loss"),
    ("energy", "energy / eV/atom"),
    ("forces", "force / eV/Å"),
    ("stress", "stress / GPa"),
)


def learning_curves(records: Sequence[Mapping[str, Any]], path: str | PathLike) -> None:
    """Loss and mean absolute errors over the steps, from the lines of a log."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.2), layout="constrained")
    steps = [record["step"] for record in records]
    for axes, (key, label) in zip(figure.subplots(1, len(_CURVES)), _CURVES, strict=True):
        unit = 1 / GPA if key == "stress" else 1.0
        for source, style in (("train", "C7--"), ("valid", "C0-")):
            if key != "valid_loss":
                values = [record[source].get(key) for record in records]
            elif source == "valid":
                values = [record[key] for record in records]
            else:
                continue
            axes.plot(steps, [math.nan if v is None else v * unit for v in values], style, marker=".", label=source)
        if any(line.get_ydata().size and np.nanmax(line.get_ydata(), initial=0) > 0 for line in axes.lines):
            axes.set_yscale("log")
        axes.set_xlabel("step")
        axes.set_title(label)
        axes.legend()
    save(figure, path)


def parity(labels: Frames, predictions: Mapping[str, Frames], path: str | PathLike) -> None:
    """Predictions of each model (a row each) against the labels: energy per atom, force and stress components."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4 * len(predictions)), layout="constrained")
    grid = figure.subplots(len(predictions), 3, squeeze=False)
    for row, (name, predicted) in zip(grid, predictions.items(), strict=True):
        panels = {
            "energy / eV/atom": (labels.energy / labels.n_atoms, predicted.energy / labels.n_atoms),
            "force component / eV/Å": (labels.forces.ravel(), predicted.forces.ravel()),
            "stress component / GPa": (labels.stress.ravel() / GPA, predicted.stress.ravel() / GPA),
        }
        for axes, (label, (x, y)) in zip(row, panels.items(), strict=True):
            _panel(axes, x, y)
            axes.set_xlabel(f"label: {label}")
            axes.set_ylabel(name)
    save(figure, path)


def _panel(axes: Any, x: np.ndarray, y: np.ndarray) -> None:
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if not len(x):
        axes.text(0.5, 0.5, "no labels", ha="center", transform=axes.transAxes)
        return
    if len(x) > 5000:
        axes.hexbin(x, y, gridsize=80, bins="log", mincnt=1, cmap="viridis")
    else:
        axes.plot(x, y, ".", markersize=3, alpha=0.5)
    ends = [min(x.min(), y.min()), max(x.max(), y.max())]
    axes.plot(ends, ends, "k-", linewidth=0.6)
    axes.set_title(f"MAE {np.abs(y - x).mean():.4g}", fontsize="medium")


def save(figure: Any, path: str | PathLike) -> None:
    """Write a matplotlib figure as PNG, whole or not at all."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=120)
    write_atomically(path, data.getvalue())
