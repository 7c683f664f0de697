"""The published models that can be downloaded, as ``models.toml`` lists them."""

import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import NamedTuple


class Published(NamedTuple):
    """A model that others published."""

    name: str
    about: str
    kind: str  # tensorflow, matgl or mattersim
    licence: str
    training_data: str
    paper: str
    url: str  # of the folder, or of the zip archive, that holds the files
    files: Mapping[str, str]  # name -> sha256
    archive: str = ""  # sha256 of the archive; empty: url is a folder


def published() -> dict[str, Published]:
    """All published models, by name."""
    table = tomllib.loads(resources.files("m3pot.io").joinpath("models.toml").read_text())
    return {name: Published(name, **entry) for name, entry in table.items()}


def identify(sha256: Mapping[str, str]) -> Published | None:
    """The published model whose files have these checksums, or None."""
    received = set(sha256.values())
    return next((x for x in published().values() if set(x.files.values()) <= received), None)
