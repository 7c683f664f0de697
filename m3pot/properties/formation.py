"""Formation energies and distances to the convex hull, against phases that were computed on the same footing."""

import json
import math
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple


class Phase(NamedTuple):
    """A compound or element with its energy."""

    name: str
    composition: dict[str, float]  # atoms of each element
    energy: float  # eV, of all these atoms
    scale: str  # where energies come from, e.g. "m3pot-s" or "Materials Project, uncorrected": they must agree


class Formation(NamedTuple):
    """Energies in eV per atom; NaN where the references do not cover the elements."""

    name: str
    formula: str
    formation_energy: float  # against the elements
    hull_distance: float  # above the hull of the references; negative: stable by so much against them
    decomposition: dict[str, float]  # share of atoms by phase
    reason: str = ""


def formation(phases: Sequence[Phase], references: Sequence[Phase]) -> list[Formation]:
    """Formation energy and distance to the hull of each phase against the same list of references.

    Elements take the lowest reference of each; the hull is that of all references and the elements among them.

    Raises ValueError if phases and references are not all on the same scale: a difference between two methods, or with
    and without the corrections of a database, would be taken for a heat of formation.
    """
    scales = {phase.scale for phase in (*phases, *references)}
    if len(scales) > 1:
        raise ValueError(
            f"Expected all energies on one scale, got {' and '.join(sorted(scales))}; "
            "compute phases and references with the same model."
        )
    return [_one(phase, references) for phase in phases]


def _one(phase: Phase, references: Sequence[Phase]) -> Formation:
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
    from pymatgen.core import Composition

    composition = Composition(phase.composition)
    nan, atoms = math.nan, composition.num_atoms
    inside = [entry for entry in references if set(entry.composition) <= set(phase.composition)]
    elements: dict[str, float] = {}
    for entry in inside:
        if len(entry.composition) == 1:
            ((symbol, count),) = entry.composition.items()
            elements[symbol] = min(entry.energy / count, elements.get(symbol, math.inf))
    missing = sorted(set(phase.composition) - set(elements))
    if missing:
        reason = f"there is no reference for {', '.join(missing)}; add the element."
        return Formation(phase.name, composition.reduced_formula, nan, nan, {}, reason)
    heat = (phase.energy - sum(count * elements[symbol] for symbol, count in phase.composition.items())) / atoms
    entries = [PDEntry(Composition(entry.composition), entry.energy, name=entry.name) for entry in inside]
    diagram = PhaseDiagram(entries)
    products, hull = diagram.get_decomposition(composition), diagram.get_hull_energy_per_atom(composition)
    shares = {str(entry.name): float(share) for entry, share in products.items()}  # ty: ignore[missing-attribute]
    return Formation(phase.name, composition.reduced_formula, float(heat), float(phase.energy / atoms - hull), shares)


def read_references(path: str | PathLike) -> list[Phase]:
    """Phases of a JSON file ``{"scale": "...", "phases": [{"name", "composition", "energy"}, ...]}``; see Phase.

    Raises ValueError if the file is not of this form.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        scale = str(document["scale"])
        return [
            Phase(str(p["name"]), {k: float(v) for k, v in p["composition"].items()}, float(p["energy"]), scale)
            for p in document["phases"]
        ]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a file of reference phases ({type(error).__name__}: {error}); "
            'expected {"scale": ..., "phases": [{"name", "composition", "energy"}]}.'
        ) from error


def references_document(phases: Sequence[Phase]) -> dict[str, Any]:
    """What :func:`read_references` reads, ready for JSON."""
    scale = phases[0].scale if phases else ""
    return {
        "scale": scale,
        "phases": [{"name": p.name, "composition": p.composition, "energy": p.energy} for p in phases],
    }
