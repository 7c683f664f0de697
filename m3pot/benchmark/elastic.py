"""Elastic constants of crystals against a reference."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from m3pot.benchmark.run import Benchmark, Row
from m3pot.benchmark.solids import Solid, errors, summarise
from m3pot.properties.elastic import elastic as compute
from m3pot.train.plots import save
from m3pot.units import GPA

COLUMNS = {"bulk_modulus_vrh": "bulk_GPa", "shear_modulus_vrh": "shear_GPa"}  # of MatCalc's records


def elastic(solids: Mapping[str, Solid], *, dtype: str = "float64", device: Any = None) -> Benchmark:
    """The benchmark. For cubic crystals a (A), C11, C12 and C44 (GPa) are columns of their own."""

    def measure(model: Any, part: Mapping[str, Solid]) -> Iterator[Row]:
        for name, solid in part.items():
            try:
                result = compute(solid.atoms, model, dtype=dtype, device=device)
            except ValueError as error:
                yield {"name": name, "status": "failed", "reason": str(error)}
                continue
            row: Row = {"name": name, "status": "done", **result.summary(), "source": solid.source}
            if _number(result.spacegroup) >= 195:
                row["a"] = _conventional_length(result.atoms)
                for key, (i, j) in {"C11_GPa": (0, 0), "C12_GPa": (0, 1), "C44_GPa": (3, 3)}.items():
                    row[key] = float(result.tensor[i, j] / GPA)
            yield row | errors(row, solid.reference)

    return Benchmark(
        name="elastic",
        about="elastic constants by stress and strain, atoms relaxed, against the source of each row (GPa)",
        settings={"dtype": dtype, "crystals": len(solids)},
        items=dict(solids),
        measure=measure,
        summarise=summarise,
        draw=_draw,
        chunk=1,
    )


def _number(spacegroup: str) -> int:
    return int(spacegroup.rpartition("(")[2].rstrip(")")) if "(" in spacegroup else 1


def _conventional_length(atoms: Atoms) -> float:
    """Lattice constant in A of a cubic crystal in any cell."""
    import spglib

    cell = spglib.standardize_cell((atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), symprec=0.01)
    return float(np.linalg.norm(cell[0][0]))


def _draw(rows: Mapping[str, Sequence[Row]], folder: Path) -> list[Path]:
    panels = {"a": "lattice constant / Å", "bulk_GPa": "bulk modulus / GPa", "shear_GPa": "shear modulus / GPa"}
    panels |= {f"{name}_GPa": f"{name} / GPa" for name in ("C11", "C12", "C44")}
    return draw_parity(rows, folder / "elastic.png", panels)


def draw_parity(rows: Mapping[str, Sequence[Row]], path: Path, panels: Mapping[str, str]) -> list[Path]:
    """Found against reference for some columns, one colour for each model; columns without reference are left out."""
    from matplotlib.figure import Figure

    known = {
        key: title
        for key, title in panels.items()
        if any(row.get(f"{key}_reference") is not None for found in rows.values() for row in found)
    }
    if not known:
        return []
    figure = Figure(figsize=(4.4 * len(known), 4), layout="constrained")
    for axes, (key, title) in zip(figure.subplots(1, len(known), squeeze=False)[0], known.items(), strict=True):
        ends = [np.inf, -np.inf]
        for label, found in rows.items():
            pairs = [(row[f"{key}_reference"], row[key]) for row in found if row.get(f"{key}_reference") is not None]
            if pairs:
                x, y = np.array(pairs).T
                axes.plot(x, y, ".", label=label)
                ends = [min(ends[0], x.min()), max(ends[1], x.max())]
        axes.plot(ends, ends, "k-", linewidth=0.6)
        axes.set(xlabel=f"reference: {title}", ylabel="model")
        axes.legend(fontsize="small")
    save(figure, path)
    return [path]
