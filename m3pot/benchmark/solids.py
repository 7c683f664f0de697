"""Crystals with known elastic constants or phonons: five simple ones, or a file in the form of MatCalc's benchmarks."""

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.build import bulk

from m3pot.structure import to_atoms


class Solid(NamedTuple):
    """A crystal and what is known about it, by the name of the column that it is compared with."""

    atoms: Atoms
    reference: dict[str, float]
    source: str


def _cubic(atoms: Atoms, c11: float, c12: float, c44: float, source: str) -> Solid:
    known = {"bulk_GPa": (c11 + 2 * c12) / 3, "C11_GPa": c11, "C12_GPa": c12, "C44_GPa": c44}
    return Solid(atoms, known, source)


def simple() -> dict[str, Solid]:
    """Si, Al, Cu, MgO and NaCl with elastic constants measured at room temperature (not PBE)."""
    kittel = "experiment, 300 K: C. Kittel, Introduction to Solid State Physics, table of stiffness constants"
    landolt = "experiment, 300 K: G. Simmons and H. Wang, Single Crystal Elastic Constants (1971)"
    return {
        "Si": _cubic(bulk("Si", a=5.47), 166.0, 64.0, 79.6, landolt),
        "Al": _cubic(bulk("Al", a=4.04), 106.8, 60.7, 28.2, kittel),
        "Cu": _cubic(bulk("Cu", a=3.63), 168.4, 121.4, 75.4, kittel),
        "MgO": _cubic(bulk("MgO", "rocksalt", a=4.25), 297.0, 95.0, 156.0, landolt),
        "NaCl": _cubic(bulk("NaCl", "rocksalt", a=5.69), 48.7, 12.4, 12.6, kittel),
    }


def read(path: Path, columns: Mapping[str, str]) -> dict[str, Solid]:
    """Records of a JSON list (.json or .json.gz) with a pymatgen ``structure``; ``columns`` renames their numbers.

    Raises ValueError if the file is of another form.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        records = json.loads(raw)
        return dict(_record(record, columns, path.name, k) for k, record in enumerate(records))
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{path} is not a list of crystals ({type(error).__name__}: {error}); "
            f"expected JSON records with a pymatgen structure and some of {', '.join(columns)}."
        ) from error


def thinned(solids: Mapping[str, Solid], limit: int | None) -> dict[str, Solid]:
    """At most ``limit`` of them, evenly spread."""
    names = list(solids)
    if limit and limit < len(names):
        names = [names[k] for k in np.unique(np.linspace(0, len(names) - 1, limit).astype(int))]
    return {name: solids[name] for name in names}


def errors(found: Mapping[str, Any], reference: Mapping[str, float]) -> dict[str, float]:
    """``NAME_reference`` and ``NAME_error`` (found less reference) of each known number."""
    result = {}
    for name, value in reference.items():
        if found.get(name) is not None:
            result |= {f"{name}_reference": value, f"{name}_error": found[name] - value}
    return result


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and median absolute error of each number with a reference, and in per cent; the worst ten by the first."""
    done = [row for row in rows if row["status"] == "done"]
    result: dict[str, Any] = {"crystals": len(done), "failed": len(rows) - len(done)}
    names = list(dict.fromkeys(key.removesuffix("_error") for row in done for key in row if key.endswith("_error")))
    for name in names:
        pairs = [(row[f"{name}_error"], row[f"{name}_reference"]) for row in done if f"{name}_error" in row]
        error, known = np.array(pairs).T
        relative = np.abs(error[known != 0] / known[known != 0])
        result[f"{name}_mae"] = float(np.abs(error).mean())
        result[f"{name}_median_error"] = float(np.median(np.abs(error)))
        result[f"{name}_median_percent"] = 100 * float(np.median(relative)) if len(relative) else None
    if names:
        known = [row for row in done if f"{names[0]}_error" in row]
        result["worst"] = [row["name"] for row in sorted(known, key=lambda row: -abs(row[f"{names[0]}_error"]))[:10]]
    return result


def _record(record: Mapping[str, Any], columns: Mapping[str, str], source: str, k: int) -> tuple[str, Solid]:
    from pymatgen.core import Structure

    structure = record["structure"]
    atoms = to_atoms(Structure.from_dict(structure) if isinstance(structure, dict) else structure)
    known = {new: float(record[old]) for old, new in columns.items() if record.get(old) is not None}
    name = str(record.get("mp_id") or record.get("name") or record.get("material_id") or k)
    return name, Solid(atoms, known, source)
