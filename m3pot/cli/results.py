"""Results as rows of a table, and as files of structures or rows that appear whole or not at all."""

import contextlib
import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.io.trajectory import TrajectoryWriter

from m3pot.cli.files import Entry, replacing
from m3pot.cli.options import plain
from m3pot.units import GPA

ENDINGS = (".extxyz", ".xyz", ".traj", ".csv", ".json")


def row(entry: Entry, atoms: Atoms | None) -> dict[str, Any]:
    """One line about a structure: name, status, reason, and the results attached to ``atoms``."""
    line: dict[str, Any] = {"name": entry.name, "status": "done", "reason": ""}
    if atoms is None or atoms.calc is None:
        reason = entry.reason or (atoms.info.get("reason", "") if atoms is not None else "")
        return line | {"status": "failed", "reason": reason}
    results = atoms.calc.results
    stress = results.get("stress")
    return line | {
        "formula": atoms.get_chemical_formula(),
        "atoms": len(atoms),
        "energy": results["energy"],
        "energy_per_atom": results["energy"] / len(atoms),
        "fmax": float(np.linalg.norm(results["forces"], axis=1).max()),
        "pressure_GPa": None if stress is None else float(-stress[:3].mean() / GPA),
    }


def with_arrays(line: dict[str, Any], atoms: Atoms | None) -> dict[str, Any]:
    """The row with forces (eV/A) and stress (eV/A^3, Voigt) as well."""
    if atoms is None or atoms.calc is None:
        return line
    return line | {key: atoms.calc.results.get(key) for key in ("forces", "stress")}


@contextlib.contextmanager
def writer(path: Path | None) -> Iterator[Callable[[Atoms | None, dict[str, Any]], None]]:
    """Yields ``write(atoms, row)`` for a file of structures or rows, by its ending; None writes nothing.

    Raises ValueError for another ending.
    """
    if path is None:
        yield lambda atoms, line: None
        return
    if path.suffix not in ENDINGS:
        raise ValueError(f"Expected an output file ending in {', '.join(ENDINGS)}, got {path}; choose one of these.")
    with replacing(path) as temporary, _OPENERS[path.suffix](temporary) as write:
        yield write


@contextlib.contextmanager
def _structures(path: Path) -> Iterator[Callable]:
    with contextlib.ExitStack() as stack:
        if path.suffix == ".traj":
            put = stack.enter_context(TrajectoryWriter(str(path))).write
        else:
            file = stack.enter_context(open(path, "w"))

            def put(atoms: Atoms) -> None:
                ase.io.write(file, atoms, format="extxyz")

        def write(atoms: Atoms | None, line: dict[str, Any]) -> None:
            if atoms is not None and len(atoms):
                # An empty string in a comment line of extxyz would swallow the next key.
                atoms.info.update({key: line[key] for key in ("name", "status", "reason") if line[key]})
                put(atoms)

        yield write


@contextlib.contextmanager
def _csv(path: Path) -> Iterator[Callable]:
    columns = ["name", "status", "formula", "atoms", "energy", "energy_per_atom", "fmax", "pressure_GPa", "reason"]
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        yield lambda atoms, line: table.writerow(line)


@contextlib.contextmanager
def _json(path: Path) -> Iterator[Callable]:
    rows: list[dict[str, Any]] = []
    try:
        yield lambda atoms, line: rows.append(plain(with_arrays(line, atoms)))
    finally:
        path.write_text(json.dumps(rows, indent=1))


_OPENERS = {".csv": _csv, ".json": _json} | dict.fromkeys((".extxyz", ".xyz", ".traj"), _structures)
