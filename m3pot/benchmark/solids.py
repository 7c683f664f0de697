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
    supercell: tuple[int, int, int] | None = None  # for phonons; None: by length


_CRYSTALS = {
    "Si": bulk("Si", a=5.469, cubic=True),
    "Al": bulk("Al", a=4.040, cubic=True),
    "Cu": bulk("Cu", a=3.629, cubic=True),
    "MgO": bulk("MgO", "rocksalt", a=4.254, cubic=True),
    "NaCl": bulk("NaCl", "rocksalt", a=5.698, cubic=True),
}
_DELTA = "K. Lejaeghere et al., Science 351, aad3000 (2016), WIEN2k"
_ACWF = "E. Bosoni et al., Nat. Rev. Phys. 6, 45 (2024), all-electron average"
_TENSOR = "M. de Jong et al., Sci. Data 2, 150009 (2015)"
_PHONOPY = "forces in the examples of phonopy 4.8.6"


def elastic_pbe() -> dict[str, Solid]:
    """Si, Al, Cu, MgO and NaCl with published PBE values: lattice constant (A), B0 and elastic constants (GPa).

    Lattice constant and bulk modulus are those of all-electron equations of state where there is one. The elastic
    constants are those of the Materials Project's data set of 2015, under the names of its entries.
    """
    table = {  # a, B0 and their source; C11, C12, C44 and the entry
        "Si": (5.4695, 88.545, _DELTA, 143.597, 52.718, 74.625, "mp-149"),
        "Al": (4.0396, 78.077, _DELTA, 103.928, 72.951, 31.856, "mp-134"),
        "Cu": (3.6293, 141.335, _DELTA, 146.432, 131.096, 71.185, "mp-30"),
        "MgO": (4.2540, 148.981, _ACWF, 273.414, 90.541, 141.376, "mp-1265"),
        "NaCl": (5.6984, 22.590, f"{_TENSOR}, mp-22862", 46.349, 10.711, 12.302, "mp-22862"),
    }
    solids = {}
    for name, (length, modulus, source, c11, c12, c44, entry) in table.items():
        known = {"a": length, "bulk_GPa": modulus, "C11_GPa": c11, "C12_GPa": c12, "C44_GPa": c44}
        text = f"PBE; a, B0: {source}; C11, C12, C44: {_TENSOR}, {entry}"
        solids[name] = Solid(_CRYSTALS[name], known, text)
    return solids


def phonon_pbe() -> dict[str, Solid]:
    """Si, Al, Cu, MgO and NaCl with frequencies (THz) at Gamma, X and L, without the splitting of LO and TO.

    They are what phonopy gives for published PBE forces on 2 x 2 x 2 conventional cells (Si: primitive cells), of
    which these points are exact: "lowest" and "highest" branch. Those of Cu are the project's own, from cells of two
    atoms (benchmarks/dft_phonons.py), which give aluminium at X within 4 % of the published values.
    """
    ends = ("X_lowest_THz", "X_highest_THz", "L_lowest_THz", "L_highest_THz")
    table = {
        "Si": (
            {"Gamma_highest_THz": 15.111},
            (4.389, 13.426, 3.333, 14.334),
            f"{_PHONOPY}, Si: VASP, PAW_PBE, a = 5.466 A",
        ),
        "Al": ({}, (5.756, 9.972, 4.140, 9.706), f"{_PHONOPY}, Al-ABACUS/abacus-pw: PBE, a = 4.044 A"),
        "MgO": (
            {"Gamma_highest_THz": 11.198},
            (8.455, 15.853, 7.929, 16.470),
            f"{_PHONOPY}, MgO: VASP, PAW_PBE, a = 4.256 A",
        ),
        "NaCl": (
            {"Gamma_highest_THz": 4.616},
            (2.414, 5.256, 3.273, 6.242),
            f"{_PHONOPY}, NaCl: VASP, PAW_PBE, a = 5.690 A",
        ),
        "Cu": ({}, (5.087, 7.237, 3.426, 7.410), "GPAW 26.7, a = 3.629 A, benchmarks/results/dft_phonons.json"),
    }
    return {
        name: Solid(_CRYSTALS[name], centre | dict(zip(ends, values, strict=True)), f"PBE; {text}", (2, 2, 2))
        for name, (centre, values, text) in table.items()
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
