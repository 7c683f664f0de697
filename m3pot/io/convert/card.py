"""The card of an imported model: what is known about it and where it comes from."""

from collections.abc import Mapping, Sequence
from typing import Any

from m3pot.io.catalogue import identify

UNITS = {"energy": "eV", "length": "A", "forces": "eV/A", "stress": "eV/A^3, tensile positive"}
_REFERENCE = "total energy on the scale of the training data, element references included"
_LICENCES = {"tensorflow": "BSD-3-Clause", "matgl": "BSD-3-Clause", "matgl-bessel": "BSD-3-Clause", "mattersim": "MIT"}


def imported(
    dialect: str, elements: Sequence[int], provenance: str, sha256: Mapping[str, str], doubts: Sequence[str] = ()
) -> dict[str, Any]:
    """Card of an energy model; ``sha256`` of its files names the published model that they are, if any."""
    known = identify(sha256)
    card = {
        "dialect": dialect,
        "elements": sorted(int(z) for z in elements),
        "units": UNITS,
        "energy_reference": _REFERENCE,
        "licence": f"not recorded; the weights published in this format are {_LICENCES[dialect]}",
        "training_data": "not recorded",
        "provenance": provenance,
        "sha256": dict(sha256),
        "warnings": list(doubts),
    }
    if known:
        card |= {"name": known.name, "licence": known.licence, "training_data": known.training_data}
        card |= {"provenance": f"{provenance}, {known.url}", "paper": known.paper}
    return card
