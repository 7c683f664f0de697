"""Labelled frames by name or path: what a training configuration or ``m3pot evaluate`` gives as its data."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from m3pot.data.frames import DEFAULT_KEYS, Frames, Keys, concatenate
from m3pot.data.guard import LabelError, check, same_functional
from m3pot.data.manifest import DataError, DataSet, available, find_set, identify, locate, require_use
from m3pot.data.readers import read


def load(
    sources: Sequence[str | os.PathLike[str]],
    keys: Keys = DEFAULT_KEYS,
    *,
    use: str | None = "train",
    group_key: str = "",
    elements: frozenset[int] | None = None,
    unit_guard: bool = True,
    predict: Callable[[Frames], Frames] | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> Frames:
    """All frames of data sets (a name of ``m3pot data list`` or a manifest) and of files or folders, checked.

    Args:
        sources: names and paths.
        keys, group_key: as for :func:`m3pot.data.readers.read`, for files and folders; a manifest says its own.
        use: what the frames are for. A file of a known data set is recognised by its sha256, and refused where the
            manifest does not allow this use. None: any use.
        elements, unit_guard, predict: as for :func:`m3pot.data.guard.check`, applied to each source by itself.
        advance: called with the number of frames read.

    Raises:
        LabelError, DataError, ValueError: with one sentence that begins with the source.
    """
    if not sources:
        raise LabelError("Expected at least one data set, file or folder, got none; name the data.")
    parts, functionals = [], {}
    names = available()
    for source in sources:
        text = os.fspath(source)
        if text in names or text.endswith(".toml"):
            dataset = find_set(source)
            _permit(dataset, use)
            if not dataset.labels:
                raise DataError(f"{dataset.name} holds {dataset.format}, not labelled frames; choose another data set.")
            group = dataset.labels.get("group_key", "")
            frames = read(locate(dataset), dataset.keys, group_key=group, advance=advance)
            functionals[text] = dataset.functional
        else:
            for dataset in _known(Path(source)):
                _permit(dataset, use)
                functionals[text] = dataset.functional
            frames = read(source, keys, group_key=group_key, advance=advance)
        same_functional(functionals)
        try:
            check(frames, elements=elements, units=unit_guard, predict=predict)
        except LabelError as error:
            raise LabelError(f"{text}: {error}") from error
        parts.append(frames)
    return concatenate(parts)


def _permit(dataset: DataSet, use: str | None) -> None:
    if use is not None:
        require_use(dataset, use)


def _known(path: Path) -> list[DataSet]:
    files = [path] if path.is_file() else sorted(p for p in path.glob("*") if p.is_file())
    return [dataset for file in files if (dataset := identify(file)) is not None]
