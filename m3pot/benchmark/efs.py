"""Energy, forces and stress against labelled frames: by default those of MatterSim's benchmark."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from m3pot import evaluation
from m3pot.benchmark.run import Benchmark, Row
from m3pot.data.frames import Frames
from m3pot.data.sources import load
from m3pot.train.accuracy import accuracy, residuals
from m3pot.train.plots import save

DEFAULT_SETS = ("mptrj-random-500", "alexandria-random-500")
_MEASURED = ("energy_mae", "energy_median", "forces_mae", "forces_component_mae", "stress_mae")


def efs(sets: Sequence[str] = DEFAULT_SETS, *, dtype: str = "float32") -> Benchmark:
    """The benchmark: one row for each set (a data set of ``m3pot data list``, file or folder).

    Raises DataError or LabelError without usable data. For parity plots see ``m3pot evaluate``.
    """
    short = [Path(name).name for name in sets]
    items: dict[str, Frames] = {
        name if short.count(base) > 1 else base: load([name], use=None) for name, base in zip(sets, short, strict=True)
    }

    def measure(model: Any, part: Mapping[str, Frames]) -> Iterator[Row]:
        for name, frames in part.items():
            predicted, failures = evaluation.predict(model, frames, dtype=dtype)
            done = np.flatnonzero(np.isfinite(predicted.energy))
            row: Row = {"name": name, "status": "done" if len(done) else "failed"}
            row["reason"] = next(iter(failures.values()), "") if failures else ""
            row |= {"failed_frames": len(failures)}
            if len(done):
                labels, values = frames[done], predicted[done]
                row |= accuracy(residuals(labels, values))._asdict()
            yield row

    return Benchmark(
        name="efs",
        about="energy (eV/atom), forces (eV/A) and stress (GPa) against labelled frames",
        settings={"dtype": dtype, "frames": {name: len(frames) for name, frames in items.items()}},
        items=items,
        measure=measure,
        summarise=summarise,
        draw=_draw,
        chunk=1,
    )


def summarise(rows: Sequence[Row]) -> Row:
    """The errors of each set under its name."""
    done = [row for row in rows if row["status"] == "done"]
    result: Row = {"sets": len(done), "failed": len(rows) - len(done)}
    for row in done:
        result |= {f"{row['name']}: {key}": row[key] for key in _MEASURED}
    return result


def _draw(rows: Mapping[str, Sequence[Row]], folder: Path) -> list[Path]:
    from matplotlib.figure import Figure

    panels = (("energy_mae", "energy / eV/atom"), ("forces_mae", "force / eV/Å"), ("stress_mae", "stress / GPa"))
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    names = list(dict.fromkeys(row["name"] for found in rows.values() for row in found))
    for axes, (key, title) in zip(figure.subplots(1, 3), panels, strict=True):
        for k, (label, found) in enumerate(rows.items()):
            known = {row["name"]: row.get(key) for row in found}
            heights = [known.get(name) or 0.0 for name in names]
            axes.bar(np.arange(len(names)) + k / (len(rows) + 1), heights, 1 / (len(rows) + 1), label=label)
        axes.set_xticks(np.arange(len(names)) + 0.5 - 1 / (len(rows) + 1), names, rotation=15, fontsize="small")
        axes.set_title(f"mean absolute error: {title}", fontsize="medium")
    axes.legend(fontsize="small")
    save(figure, folder / "efs.png")
    return [folder / "efs.png"]
