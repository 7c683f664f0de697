"""Equations of state of 576 cubic oxides against all-electron PBE.

E. Bosoni et al., Nat. Rev. Phys. 6, 45 (2024): 96 elements, six oxides each, cells scaled from 94 to 106 % of the
reference volume at fixed fractional coordinates. ``compare`` gives the metrics of that paper.
"""

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from m3pot.benchmark.periodic_table import heat_map
from m3pot.benchmark.run import Benchmark, Row
from m3pot.data.manifest import find_set, locate
from m3pot.properties.eos import BirchMurnaghan, eos
from m3pot.units import GPA

_NOBLE = ("He", "Ne", "Ar", "Kr", "Xe", "Rn")  # their oxides do not exist
_WEIGHTS = (1.0, 1 / 20, 1 / 400)  # of V0, B0 and B1 in nu


def acwf(
    *, elements: Sequence[str] | None = None, limit: int | None = None, dtype: str = "float64", device: Any = None
) -> Benchmark:
    """The benchmark; ``elements`` and ``limit`` (every k-th crystal) make it smaller. Raises DataError without data."""
    (path,) = locate(find_set("acwf-oxides"))
    crystals = read(path)
    if elements:
        crystals = {name: c for name, c in crystals.items() if c["element"] in elements}
    if limit:
        names = list(crystals)
        chosen = np.unique(np.linspace(0, len(names) - 1, min(limit, len(names))).astype(int))
        crystals = {names[k]: crystals[names[k]] for k in chosen}

    def measure(model: Any, part: Mapping[str, Any]) -> Iterator[Row]:
        structures, volumes = [_atoms(c) for c in part.values()], [c["volumes_A3"] for c in part.values()]
        results = eos(structures, model, volumes=volumes, dtype=dtype, device=device)
        for (name, crystal), result in zip(part.items(), results, strict=True):
            yield _row(name, crystal, result.fit, result.reason) | {
                "inside": result.inside,
                "energies": result.energies.tolist(),
            }

    vasp = {name: _fit(c["vasp_fit"]) for name, c in crystals.items()}
    return Benchmark(
        name="acwf",
        about="equation of state of cubic oxides against the average of two all-electron codes (PBE)",
        settings={"dtype": dtype, "crystals": len(crystals), "range": "94 to 106 % of volume_ref, 7 points"},
        items=crystals,
        measure=measure,
        summarise=summarise,
        draw=_draw,
        baseline={"VASP-PBE": [_row(name, crystals[name], fit, "") | {"inside": True} for name, fit in vasp.items()]},
    )


def read(path: Path) -> dict[str, Any]:
    """Crystals by name, as in the file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return {crystal["name"]: crystal for crystal in json.load(file)["crystals"]}


def compare(found: BirchMurnaghan, reference: BirchMurnaghan, atoms: int) -> dict[str, float]:
    """Metrics of two equations of state.

    ``epsilon`` is the distance of the two curves, minima aligned, relative to their spread, over 94 to 106 % of the
    mean V0 (0.06 excellent, 0.20 good); ``delta_meV`` that distance in meV per atom; ``nu`` in per cent of V0, B0 and
    B1, weighted. Equations 1 to 3 of the paper.
    """
    nodes, weights = np.polynomial.legendre.leggauss(24)
    volumes = (found.volume + reference.volume) / 2 * (1 + 0.06 * nodes)
    a, b = (fit._replace(energy=0.0).energies(volumes) for fit in (found, reference))

    def mean(values: np.ndarray) -> float:
        return float(weights @ values / 2)

    distance = mean((a - b) ** 2)
    spread = np.sqrt(mean((a - mean(a)) ** 2) * mean((b - mean(b)) ** 2))
    pairs = [(found.volume, reference.volume), (found.bulk_modulus, reference.bulk_modulus)]
    pairs.append((found.derivative, reference.derivative))
    return {
        "dV0": found.volume / reference.volume - 1,
        "dB0": found.bulk_modulus / reference.bulk_modulus - 1,
        "dB1": found.derivative / reference.derivative - 1,
        "epsilon": float(np.sqrt(distance / spread)),
        "delta_meV": float(1000 * np.sqrt(distance) / atoms),
        "nu": float(
            100 * np.sqrt(sum((w * 2 * (x - y) / (x + y)) ** 2 for w, (x, y) in zip(_WEIGHTS, pairs, strict=True)))
        ),
    }


def summarise(rows: Sequence[Row]) -> Row:
    """Medians and means over the crystals that could be measured, and the worst ten."""
    done = [row for row in rows if row["status"] == "done"]
    result: Row = {"crystals": len(done), "failed": len(rows) - len(done)}
    if not done:
        return result
    real = [row for row in done if row["element"] not in _NOBLE]
    for key, name, factor in (("dV0", "V0_percent", 100), ("dB0", "B0_percent", 100), ("dB1", "B1_percent", 100)):
        result[f"median_{name}"] = factor * float(np.median([abs(row[key]) for row in done]))
    result["mean_V0_percent"] = 100 * float(np.mean([abs(row["dV0"]) for row in done]))
    result["bias_V0_percent"] = 100 * float(np.median([row["dV0"] for row in done]))
    for key in ("epsilon", "delta_meV", "nu"):
        result[f"median_{key}"] = float(np.median([row[key] for row in done]))
    result["median_V0_percent_without_noble_gases"] = (
        100 * float(np.median([abs(row["dV0"]) for row in real])) if real else None
    )
    result["good_percent"] = 100 * float(np.mean([row["epsilon"] < 0.2 for row in done]))  # of the paper's two codes
    result["outside_percent"] = 100 * float(np.mean([not row["inside"] for row in done]))  # V0 beyond the scan
    worst = sorted(done, key=lambda row: -abs(row["dV0"]))[:10]
    result["worst"] = [f"{row['name']} {100 * row['dV0']:+.1f} %" for row in worst]
    return result


def by_element(rows: Sequence[Row], key: str, factor: float = 1.0) -> dict[str, float]:
    """Median of the absolute value over the oxides of each element."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row["status"] == "done":
            values.setdefault(row["element"], []).append(abs(row[key]) * factor)
    return {element: float(np.median(found)) for element, found in values.items()}


def _atoms(crystal: Mapping[str, Any]) -> Atoms:
    return Atoms(crystal["symbols"], cell=crystal["cell_A"], scaled_positions=crystal["frac"], pbc=True)


def _fit(stored: Mapping[str, float]) -> BirchMurnaghan:
    return BirchMurnaghan(stored["V0_A3"], stored.get("E0_eV", 0.0), stored["B0_GPa"] * GPA, stored["B1"])


def _row(name: str, crystal: Mapping[str, Any], fit: BirchMurnaghan | None, reason: str) -> Row:
    row = {"name": name, "element": crystal["element"], "config": crystal["config"], "natoms": crystal["natoms"]}
    if fit is None:
        return row | {"status": "failed", "reason": reason}
    reference = _fit(crystal["allelectron"])
    return row | {
        "status": "done",
        "reason": reason,
        "V0": fit.volume,
        "B0_GPa": fit.bulk_modulus / GPA,
        "B1": fit.derivative,
        "V0_reference": reference.volume,
        "B0_GPa_reference": reference.bulk_modulus / GPA,
        "B1_reference": reference.derivative,
        **compare(fit, reference, crystal["natoms"]),
    }


def _draw(rows: Mapping[str, Sequence[Row]], folder: Path) -> list[Path]:
    files = []
    for label, found in rows.items():
        if not any(row["status"] == "done" for row in found) or label == "VASP-PBE":
            continue
        title = f"{label}: median |V0 / V0(all-electron) - 1| of the oxides of each element"
        values = by_element(found, "dV0", 100)
        files.append(heat_map(values, folder / f"acwf_{label}.png", title=title, label="per cent", top=5, digits=1))
    return files
