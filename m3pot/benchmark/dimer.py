"""Homonuclear dimers against PBE: bond lengths, depths, and holes at short range.

Data: J. Riebesell et al., Nat. Mach. Intell. (2025), doi:10.1038/s42256-025-01055-1 (diatomics of Matbench Discovery).
"""

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from m3pot.benchmark.periodic_table import heat_map
from m3pot.benchmark.run import Benchmark, Row
from m3pot.data.manifest import find_set, locate
from m3pot.properties.dimer import Dimer, dimers


def dimer(*, elements: Sequence[str] | None = None, dtype: str = "float64", device: Any = None) -> Benchmark:
    """The benchmark, for all elements of the data or some. Raises DataError without data."""
    (path,) = locate(find_set("diatomics-pbe"))
    with gzip.open(path, "rt", encoding="utf-8") as file:
        curves = json.load(file)["dimers"]
    items = {symbol: curve for symbol, curve in curves.items() if not elements or symbol in elements}

    def measure(model: Any, part: Mapping[str, Any]) -> Iterator[Row]:
        grid = [np.sort(curve["r_A"]) for curve in part.values()]
        found = dimers([*part], model, distances=grid, dtype=dtype, device=device)
        for (symbol, curve), result in zip(part.items(), found, strict=True):
            yield compare(symbol, result, _reference(symbol, curve))

    return Benchmark(
        name="dimer",
        about="homonuclear dimers against PBE (spin-polarised): bond length, depth, attraction at short range",
        settings={"dtype": dtype, "elements": len(items)},
        items=items,
        measure=measure,
        summarise=summarise,
        draw=_draw,
    )


def compare(symbol: str, found: Dimer, reference: Dimer) -> Row:
    """One element; errors are NaN where one of the curves has no bond."""
    row: Row = {"name": symbol, "status": "failed" if found.reason else "done", "reason": found.reason}
    if found.reason:
        return row
    return row | {
        "bond": found.bond,
        "bond_reference": reference.bond,
        "bond_error": found.bond - reference.bond,
        "depth": found.depth,
        "depth_reference": reference.depth,
        "depth_error": found.depth - reference.depth,
        "minima": found.minima,
        "hole": found.hole,
        "energies": found.energies.tolist(),
        "distances": found.distances.tolist(),
    }


def summarise(rows: Sequence[Row]) -> Row:
    """Medians over the elements with a bond in both curves, and the elements that attract at short range."""
    done = [row for row in rows if row["status"] == "done"]
    result: Row = {"elements": len(done), "failed": len(rows) - len(done)}
    for key in ("bond_error", "depth_error"):
        values = [abs(row[key]) for row in done if row[key] is not None and np.isfinite(row[key])]
        result[f"median_{key}"] = float(np.median(values)) if values else None
    result["without_bond"] = sum(row["bond"] is None or not np.isfinite(row["bond"]) for row in done)
    result["several_minima"] = sum(row["minima"] > 1 for row in done)
    result["holes"] = sum(row["hole"] > 0 for row in done)
    result["worst"] = [row["name"] for row in sorted(done, key=lambda row: -row["hole"]) if row["hole"] > 0][:10]
    return result


def _reference(symbol: str, curve: Mapping[str, Any]) -> Dimer:
    r = np.array(curve["r_A"])
    order = np.argsort(r)
    energies = np.array(curve["energy_eV"])[order]
    return Dimer(f"{symbol}-{symbol}", r[order], energies - energies[-1], -np.gradient(energies, r[order]))


def _draw(rows: Mapping[str, Sequence[Row]], folder: Path) -> list[Path]:
    files = []
    for label, found in rows.items():
        values = {row["name"]: row["hole"] for row in found if row["status"] == "done"}
        if values:
            title = f"{label}: largest distance below 0.8 bond lengths where the dimer attracts (0: nowhere)"
            files.append(heat_map(values, folder / f"dimer_{label}.png", title=title, label="Å", top=2.0))
    return files
