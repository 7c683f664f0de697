"""Relaxation from structures relaxed with DFT: how far volume, shape and atoms move."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from m3pot.benchmark.run import Benchmark, Row
from m3pot.properties.points import relax_all
from m3pot.relaxation import Options
from m3pot.train.plots import save
from m3pot.units import GPA


def equilibrium(
    structures: Mapping[str, Atoms], *, fmax: float = 0.02, steps: int = 500, dtype: str = "float32", device: Any = None
) -> Benchmark:
    """The benchmark on structures (by name) that are minima of the reference method."""
    options = Options(fmax=fmax, smax=0.1 * GPA, steps=steps, dtype=dtype, device=device)

    def measure(model: Any, part: Mapping[str, Atoms]) -> Iterator[Row]:
        for name, result in zip(part, relax_all([*part.values()], model, options), strict=True):
            row: Row = {"name": name, "formula": result.atoms.get_chemical_formula(), "relaxation": result.status}
            if not result.converged:
                yield row | {"status": "failed", "reason": f"{result.status}: {result.reason}"}
                continue
            yield row | {
                "status": "done",
                "reason": result.reason,
                "steps": result.steps,
                "volume_change": result.volume_change,
                "length_change": _largest_length_change(part[name], result.atoms),
                "displacement": result.displacement,
            }

    return Benchmark(
        name="equilibrium",
        about="change of volume, lattice and positions when DFT minima are relaxed",
        settings={"dtype": dtype, "fmax": fmax, "steps": steps, "structures": len(structures)},
        items=dict(structures),
        measure=measure,
        summarise=summarise,
        draw=_draw,
    )


def summarise(rows: Sequence[Row]) -> Row:
    """Medians over the converged structures, volume in per cent, displacement in A."""
    done = [row for row in rows if row["status"] == "done"]
    result: Row = {"structures": len(done), "failed": len(rows) - len(done)}
    if done:
        volume, move = (np.array([row[key] for row in done]) for key in ("volume_change", "displacement"))
        result |= {
            "median_volume_percent": 100 * float(np.median(np.abs(volume))),
            "mean_volume_percent": 100 * float(np.mean(np.abs(volume))),
            "bias_volume_percent": 100 * float(np.median(volume)),
            "median_displacement": float(np.median(move)),
            "mean_displacement": float(np.mean(move)),
            "median_steps": float(np.median([row["steps"] for row in done])),
            "worst": [row["name"] for row in sorted(done, key=lambda row: -abs(row["volume_change"]))[:10]],
        }
    return result


def _largest_length_change(before: Atoms, after: Atoms) -> float:
    return float(np.abs(after.cell.lengths() / before.cell.lengths() - 1).max())


def _draw(rows: Mapping[str, Sequence[Row]], folder: Path) -> list[Path]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for label, found in rows.items():
        done = [row for row in found if row["status"] == "done"]
        volume = np.clip([100 * row["volume_change"] for row in done], -20, 20)
        left.hist(volume, bins=np.linspace(-20, 20, 61), histtype="step", label=label)
        move = np.clip([row["displacement"] for row in done], 0, 0.5)
        right.hist(move, bins=np.linspace(0, 0.5, 51), histtype="step")
    left.set(xlabel="change of volume / per cent", ylabel="structures")
    right.set(xlabel="displacement / Å")
    left.legend(fontsize="small")
    save(figure, folder / "equilibrium.png")
    return [folder / "equilibrium.png"]
