"""The labelled frames that a configuration names: read, checked, filtered, and accounted for."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from m3pot.data import guard, manifest, sources
from m3pot.data.frames import Frames, Keys, concatenate
from m3pot.data.readers import read
from m3pot.data.split import matches
from m3pot.train.config import ConfigError, DataSection

_USES = {"train": "train", "valid": "validate", "replay": "train"}  # what a manifest must allow


class Source(NamedTuple):
    """What was read under one name, for messages and the model card."""

    name: str
    used_for: str  # train, valid or replay
    frames: int  # in the files
    kept: int  # after the filters
    functional: str
    licence: str
    citation: str
    energy_reference: str
    sha256: dict[str, str]  # of each file


def load_sets(
    names: Sequence[str],
    data: DataSection,
    *,
    used_for: str,
    elements: frozenset[int] | None = None,
    labelled: bool = True,
    predict: Callable[[Frames], Frames] | None = None,
) -> tuple[Frames, list[Source]]:
    """All frames of these files, folders or data sets that can be trained on.

    Args:
        names: as in ``data.train``.
        data: keys, units and filters.
        used_for: train, valid or replay.
        elements: atomic numbers of the model; None: all that m3pot knows.
        labelled: refuse files without labels.
        predict: gives frames the labels of the model that training starts from, to find wrong units.

    Raises:
        ConfigError: no frame is left. LabelError, DataError, ValueError, OSError: as
        :func:`m3pot.data.sources.load`.
    """
    keys = Keys(data.energy_key, data.forces_key, data.stress_key, data.stress_unit, data.stress_sign)
    blind = concatenate([read(_files(name), labelled=False) for name in data.blind]) if data.blind else None
    parts, found = [], []
    for name in names:
        frames = None if labelled else read(_files(name), keys, group_key=data.group_key, labelled=False)
        if frames is None or np.isfinite(frames.energy).any():
            frames = sources.load(
                [name],
                keys,
                use=_USES[used_for],
                group_key=data.group_key,
                elements=elements,
                unit_guard=data.unit_guard,
                predict=predict,
            )
        keep = largest_force(frames) <= data.max_force
        if blind is not None and used_for != "valid":
            keep &= ~matches(frames, blind)
        parts.append(frames[keep])
        found.append(_account(name, used_for, len(frames), int(keep.sum())))
    guard.same_functional({source.name: source.functional for source in found})
    joined = concatenate(parts)
    if not len(joined):
        raise ConfigError(
            f"data.{used_for}: no frame is left; all have forces above max_force = {data.max_force:g} eV/A or match "
            "data.blind."
        )
    return joined, found


def _files(name: str) -> list[Path]:
    """The files behind a path or the name of a data set."""
    if name in manifest.available() or name.endswith(".toml"):
        return manifest.locate(manifest.find_set(name))
    path = Path(name)
    return sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]


def _account(name: str, used_for: str, count: int, kept: int) -> Source:
    files = _files(name)
    known = {entry.name: entry for file in files if (entry := manifest.identify(file)) is not None}
    if name.endswith(".toml"):
        known = {entry.name: entry for entry in [manifest.find_set(name)]}

    def joined(field: str) -> str:
        return "; ".join(dict.fromkeys(text for entry in known.values() if (text := getattr(entry, field))))

    facts = (joined(field) for field in ("functional", "licence", "citation", "energy_reference"))
    return Source(Path(name).name, used_for, count, kept, *facts, {f.name: manifest.checksum(f) for f in files})


def largest_force(frames: Frames) -> np.ndarray:
    """Length of the largest labelled force of each frame (f,), eV/A; 0 without labels."""
    size = np.nan_to_num(np.linalg.norm(frames.forces, axis=1))
    largest = np.zeros(len(frames))
    np.maximum.at(largest, np.repeat(np.arange(len(frames)), frames.n_atoms), size)
    return largest


def described(found: Sequence[Source]) -> list[dict[str, Any]]:
    """The sources as JSON-like dictionaries without what is not known."""
    return [{key: value for key, value in source._asdict().items() if value != ""} for source in found]
