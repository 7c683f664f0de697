"""Data sets by name: what ``data_manifests/*.toml`` says of them, and where their files are on this machine.

Files are looked for under the folders of the search path M3POT_DATA, then in the user's folder (see :func:`folders`).
"""

import hashlib
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from m3pot.data.frames import Keys
from m3pot.io.registry import home

USES = ("train", "validate", "benchmark", "parity", "teacher", "start")


class DataError(ValueError):
    """A data set that is not there or not what it should be; the message says what to do."""


class File(NamedTuple):
    """One file of a data set."""

    path: str  # below a folder of the search path
    sha256: str = ""  # "" where it is not known
    size: int = 0  # bytes; 0 where it is not known
    urls: tuple[str, ...] = ()  # public addresses, tried in this order; none for files made for this project


class DataSet(NamedTuple):
    """What a manifest says."""

    name: str
    about: str
    format: str
    source: str  # where it comes from: a page, a repository and path
    licence: str
    citation: str
    allowed_use: tuple[str, ...]  # of USES
    files: tuple[File, ...]
    count: int = 0
    functional: str = ""
    units: str = ""
    energy_reference: str = ""
    labels: Mapping[str, Any] = MappingProxyType({})  # energy_key, forces_key, stress_key, stress_unit, stress_sign
    notes: str = ""

    @property
    def verifiable(self) -> bool:
        """True if the sha256 of every file is known."""
        return all(file.sha256 for file in self.files)

    @property
    def keys(self) -> Keys:
        """Where the labels are, for :func:`m3pot.data.readers.read`."""
        given = {key.removesuffix("_key"): value for key, value in self.labels.items() if key != "group_key"}
        return Keys(**given)


_LABELS = frozenset({"energy_key", "forces_key", "stress_key", "stress_unit", "stress_sign", "group_key"})


def available() -> dict[str, DataSet]:
    """All data sets that the package knows, by name."""
    folder = _shipped()
    entries = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".toml")), key=lambda e: e.name)
    sets = [parse(entry.read_text(encoding="utf-8"), entry.name.removesuffix(".toml")) for entry in entries]
    return {dataset.name: dataset for dataset in sets}


def _shipped() -> Any:
    """Manifests inside the installed package, or beside the package in a checkout."""
    folder = resources.files("m3pot") / "data_manifests"
    return folder if folder.is_dir() else Path(str(resources.files("m3pot"))).parent / "data_manifests"


def find_set(name: str | os.PathLike[str]) -> DataSet:
    """A data set by its name, or by the path of a manifest of one's own. Raises DataError if there is none."""
    known = available()
    if os.fspath(name) in known:
        return known[os.fspath(name)]
    path = Path(name)
    if path.suffix == ".toml" and path.is_file():
        return parse(path.read_text(encoding="utf-8"), path.stem)
    raise DataError(f"Expected a data set of `m3pot data list` or a manifest (.toml), got {os.fspath(name)!r}.")


def parse(text: str, name: str) -> DataSet:
    """The data set of a TOML text. Raises DataError naming the first thing that is wrong."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"The manifest of {name} is not TOML ({error}); correct it.") from error
    required = set(DataSet._fields) - set(DataSet._field_defaults) - {"name"}
    unknown, missing = set(table) - set(DataSet._fields), required - set(table)
    if unknown or missing:
        what = f"unknown entries {sorted(unknown)}" if unknown else f"no entries {sorted(missing)}"
        raise DataError(f"The manifest of {name} has {what}; expected {', '.join(DataSet._fields)}.")
    files = []
    for entry in table.pop("files"):
        if not set(entry) <= set(File._fields) or not entry.get("path") or _escapes(entry["path"]):
            raise DataError(f"The manifest of {name} describes a file by {entry}; expected {', '.join(File._fields)}.")
        if not re.fullmatch(r"([0-9a-f]{64})?", entry.get("sha256", "")):
            raise DataError(f"The manifest of {name} has a sha256 for {entry['path']} that is not 64 hex digits.")
        files.append(File(**{**entry, "urls": tuple(entry.get("urls", ()))}))
    allowed_use = tuple(table.pop("allowed_use"))
    if not files or not set(allowed_use) <= set(USES) or not set(table.get("labels", {})) <= _LABELS:
        raise DataError(
            f"The manifest of {name} needs at least one file, allowed_use out of {', '.join(USES)}, and labels out of "
            f"{', '.join(sorted(_LABELS))}."
        )
    return DataSet(**{"name": name, **table}, files=tuple(files), allowed_use=allowed_use)


def _escapes(path: str) -> bool:
    return Path(path).is_absolute() or ".." in Path(path).parts


def folders() -> list[Path]:
    """Where files are looked for: the folders of M3POT_DATA (separated as in PATH), then the user's folder."""
    given = [Path(folder).expanduser() for folder in os.environ.get("M3POT_DATA", "").split(os.pathsep) if folder]
    return [*given, home() / "data"]


def find_file(file: File, where: list[Path] | None = None) -> Path | None:
    """The first file of this path on the search path, or None."""
    return next((folder / file.path for folder in where or folders() if (folder / file.path).is_file()), None)


def checksum(path: str | os.PathLike[str], advance: Callable[[int], None] = lambda count: None) -> str:
    """sha256 of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


class Status(NamedTuple):
    """What :func:`verify` finds about one file."""

    file: File
    path: Path | None
    status: str  # ok, wrong, unverified (there, but no sha256 is known), missing
    sha256: str  # of the file that is there

    @property
    def sentence(self) -> str:
        """The status with its remedy."""
        if self.status == "wrong":
            what = f"sha256 {self.sha256}, expected {self.file.sha256}" if self.file.sha256 else "not the expected size"
            return f"{self.path} has {what}: it is damaged or another version; remove it and fetch it again."
        if self.status == "missing":
            return f"{self.file.path} is in none of {', '.join(map(str, folders()))}; fetch it or set M3POT_DATA."
        if self.status == "unverified":
            return f"{self.path} is there, but its right sha256 is not known; this one is {self.sha256}."
        return f"{self.path} is right."


def verify(dataset: DataSet, advance: Callable[[int], None] = lambda count: None) -> list[Status]:
    """Compare every file of a data set with its sha256."""
    result = []
    for file in dataset.files:
        path = find_file(file)
        found = "" if path is None else checksum(path, advance)
        if path is None:
            status = "missing"
        elif not file.sha256:
            status = "unverified" if not file.size or path.stat().st_size == file.size else "wrong"
        else:
            status = "ok" if found == file.sha256 else "wrong"
        result.append(Status(file, path, status, found))
    return result


def locate(dataset: DataSet) -> list[Path]:
    """The files of a data set, checked. Raises DataError if one is missing or wrong."""
    states = verify(dataset)
    for state in states:
        if state.status in ("missing", "wrong"):
            raise DataError(f"{dataset.name}: {state.sentence}")
    return [state.path for state in states if state.path is not None]


def identify(path: str | os.PathLike[str]) -> DataSet | None:
    """The data set that a file belongs to, by its sha256, whatever its name and place; None if unknown."""
    size = Path(path).stat().st_size
    alike = [(s, f) for s in available().values() for f in s.files if f.sha256 and f.size in (0, size)]
    found = checksum(path) if alike else ""
    return next((dataset for dataset, file in alike if file.sha256 == found), None)


def require_use(dataset: DataSet, use: str) -> None:
    """Raise DataError unless the manifest allows this use (one of USES)."""
    if use not in dataset.allowed_use:
        raise DataError(
            f"{dataset.name} is for {' and '.join(dataset.allowed_use)} only, not for {use}; choose another data set."
        )
