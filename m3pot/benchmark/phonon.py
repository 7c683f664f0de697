"""Phonons of crystals against a reference: frequencies at points of high symmetry, heat capacity, stability."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from m3pot.benchmark.elastic import draw_parity
from m3pot.benchmark.run import Benchmark, Row
from m3pot.benchmark.solids import Solid, errors, summarise
from m3pot.properties.phonons import phonons

COLUMNS = {"heat_capacity": "heat_capacity_300K"}  # of MatCalc's records


def phonon(
    solids: Mapping[str, Solid], *, min_length: float = 12.0, dtype: str = "float64", device: Any = None
) -> Benchmark:
    """The benchmark; supercells are those of the crystals, or else at least ``min_length`` A in each direction."""

    def measure(model: Any, part: Mapping[str, Solid]) -> Iterator[Row]:
        for name, solid in part.items():
            try:
                found = phonons(
                    solid.atoms, model, supercell=solid.supercell, min_length=min_length, dtype=dtype, device=device
                )
            except ModuleNotFoundError:
                raise
            except Exception as error:  # phonopy and seekpath raise anything
                yield {"name": name, "status": "failed", "reason": " ".join(f"{type(error).__name__}: {error}".split())}
                continue
            row: Row = {"name": name, "status": "done", "reason": "", **found.summary(), "source": solid.source}
            for point in ("Gamma", "X", "L"):
                frequencies = found.at_point(point)
                if frequencies is not None:
                    row[f"{point}_lowest_THz"] = float(frequencies.min())
                    row[f"{point}_highest_THz"] = float(frequencies.max())
            yield row | errors(row, solid.reference)

    def counted(rows: Sequence[Row]) -> Row:
        return summarise(rows) | {"unstable": [row["name"] for row in rows if row.get("stable") is False]}

    return Benchmark(
        name="phonon",
        about="harmonic phonons by finite displacements (THz, J/K/mol of atoms) against the source of each row",
        settings={"dtype": dtype, "crystals": len(solids), "min_length": min_length},
        items=dict(solids),
        measure=measure,
        summarise=counted,
        draw=_draw,
        chunk=1,
    )


def _draw(rows: Mapping[str, Sequence[Row]], folder: Path) -> list[Path]:
    panels = {"heat_capacity_300K": "heat capacity / J/K/mol", "Gamma_highest_THz": "highest at Γ / THz"}
    panels |= {f"{q}_{end}_THz": f"{end} at {q} / THz" for q in ("X", "L") for end in ("lowest", "highest")}
    return draw_parity(rows, folder / "phonon.png", panels)
