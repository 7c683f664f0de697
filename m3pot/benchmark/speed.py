"""Time of energy, forces and stress: one structure after another through ASE, and many in a batch."""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk

from m3pot.benchmark.run import Benchmark, Row
from m3pot.calculator import M3PotCalculator
from m3pot.inference import predict
from m3pot.potential import Potential
from m3pot.train.plots import save

REPEATS = {
    8: (1, 1, 1),
    32: (2, 2, 1),
    96: (3, 2, 2),
    192: (4, 3, 2),
    504: (7, 3, 3),
    1000: (5, 5, 5),
    2000: (10, 5, 5),
}


def speed(
    sizes: Sequence[int] = (8, 96, 504), *, calls: int = 5, dtype: str = "float32", device: Any = None
) -> Benchmark:
    """The benchmark: displaced MgO crystals of these numbers of atoms, new displacements for each call.

    The first call, which compiles, is timed apart. Raises ValueError for sizes other than those of ``REPEATS``.
    """
    if unknown := set(sizes) - set(REPEATS):
        known = ", ".join(map(str, REPEATS))
        raise ValueError(f"Expected sizes of {known} atoms, got {sorted(unknown)}; choose among them.")
    items = {f"MgO {atoms}": atoms for atoms in sizes}

    def measure(model: Any, part: Mapping[str, int]) -> Iterator[Row]:
        calculator = (
            M3PotCalculator(model, dtype=dtype, device=device, skin=0.0) if isinstance(model, Potential) else model
        )
        for name, atoms in part.items():
            first, *later = [_timed(calculator, crystal(atoms, call)) for call in range(calls + 1)]
            middle = statistics.median(later)
            row: Row = {
                "name": name,
                "status": "done",
                "reason": "",
                "atoms": atoms,
                "first_s": first,
                "call_s": middle,
            }
            row |= {"atoms_per_s": atoms / middle, "spread_s": max(later) - min(later)}
            if isinstance(model, Potential):
                structures = [crystal(atoms, call) for call in range(max(1, 512 // atoms))]
                predict(structures, model, dtype=dtype, device=device)
                start = time.perf_counter()
                predict(structures, model, dtype=dtype, device=device)
                row["batched_atoms_per_s"] = len(structures) * atoms / (time.perf_counter() - start)
            yield row

    return Benchmark(
        name="speed",
        about="neighbour list, energy, forces and stress of displaced MgO; median of several calls",
        settings={"dtype": dtype, "calls": calls, "sizes": list(sizes)},
        items=items,
        measure=measure,
        summarise=summarise,
        draw=_draw,
        chunk=1,
    )


def crystal(atoms: int, call: int) -> Atoms:
    """MgO with random displacements of 0.05 A."""
    structure = bulk("MgO", "rocksalt", a=4.21, cubic=True) * REPEATS[atoms]
    structure.positions += np.random.default_rng(call).normal(scale=0.05, size=structure.positions.shape)
    return structure


def summarise(rows: Sequence[Row]) -> Row:
    """Time of a call by number of atoms."""
    return {f"{row['atoms']} atoms: {key}": row.get(key) for row in rows for key in ("call_s", "batched_atoms_per_s")}


def _timed(calculator: Any, structure: Atoms) -> float:
    structure.calc = calculator
    start = time.perf_counter()
    structure.get_potential_energy()
    structure.get_forces()
    structure.get_stress()
    return time.perf_counter() - start


def _draw(rows: Mapping[str, Sequence[Row]], folder: Path) -> list[Path]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axes: Any = figure.subplots()
    for label, found in rows.items():
        axes.loglog([row["atoms"] for row in found], [1000 * row["call_s"] for row in found], "o-", label=label)
    axes.set(xlabel="atoms", ylabel="energy + forces + stress / ms")
    axes.legend(fontsize="small")
    save(figure, folder / "speed.png")
    return [folder / "speed.png"]
