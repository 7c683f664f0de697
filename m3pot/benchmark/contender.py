"""The models of a benchmark: names, files, or ASE calculators as ``module:factory``."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from m3pot.data.calculators import make_calculator
from m3pot.data.manifest import checksum
from m3pot.io import registry
from m3pot.io.checkpoint import CheckpointError


class Contender(NamedTuple):
    """One model, loaded only when there is something left to measure."""

    label: str  # in tables and file names
    identity: str  # changes when the model changes
    load: Callable[[], Any]  # the Potential or ASE calculator


def contenders(names: Sequence[str]) -> list[Contender]:
    """Models by name or file as in ``m3pot.load``, or ``module:factory``; labels are short and differ.

    Raises CheckpointError for a name that is neither.
    """
    found = [_find(name) for name in names]
    labels = [contender.label for contender in found]
    return [
        contender if labels.count(contender.label) == 1 else contender._replace(label=_plain(name))
        for name, contender in zip(names, found, strict=True)
    ]


def _find(name: str) -> Contender:
    try:
        path = registry.find(name)
    except CheckpointError:
        if ":" not in name or Path(name).exists():
            raise
        return Contender(_plain(name.replace("ase.calculators.", "")), name, lambda: make_calculator(name))
    return Contender(_plain(path.stem), f"{path.name} sha256:{checksum(path)}", lambda: registry.load(path))


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", name).strip("_")
