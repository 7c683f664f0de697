"""Labelled structures from files of the field: extxyz, ASE databases, JSON of pymatgen structures, npz and HDF5."""

import contextlib
import gzip
import io
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from m3pot.data.frames import DEFAULT_KEYS, Frames, Keys, concatenate, convert_stress, make, read_hdf5, read_npz
from m3pot.data.guard import LabelError, same_functional
from m3pot.data.json_items import json_items, json_lines

if TYPE_CHECKING:
    from ase import Atoms

_GROUP_KEYS = ("group", "parent", "mp_id", "material_id", "mptrj_traj_id")  # what others call the parent crystal


class Record(NamedTuple):
    """One structure of a file and everything the file says about it."""

    numbers: np.ndarray  # (n,)
    positions: np.ndarray  # (n, 3) A
    cell: np.ndarray  # (3, 3) A
    pbc: Any
    values: Mapping[str, Any]  # labels and remarks under the file's own keys
    name: str
    group: str = ""  # parent crystal, if the layout of the file says so


def read(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    keys: Keys = DEFAULT_KEYS,
    *,
    group_key: str = "",
    labelled: bool = True,
    advance: Callable[[int], None] = lambda count: None,
) -> Frames:
    """All frames of one or more files or folders, in this order (those of a folder by name).

    Formats by ending: .extxyz .xyz .json .jsonl (each also .gz), .zip of extxyz, .db .aselmdb, .npz .h5 .hdf5.

    Args:
        paths: files or folders.
        keys: where the labels are and in what unit the stress is; a key may lead into a dictionary: outputs.energy.
        group_key: entry that names the parent crystal; "": group, parent, mp_id ... whichever is there.
        labelled: refuse files without any label.
        advance: called with the number of frames read.

    Raises:
        LabelError: no frames, no labels, a key that no frame has, a label that is not finite or of the wrong shape,
            frames of different functionals (where the file says so); one sentence with the file and the frame.
        ValueError: a file that cannot be read.
    """
    files = [file for path in ([paths] if isinstance(paths, str | os.PathLike) else paths) for file in _files(path)]
    stated: dict[str, str] = {}
    parts = []
    for file in files:
        if (whole := _WHOLE.get(_ending(file))) is not None:
            with _readable(file):
                parts.append(whole(file, keys))
            advance(len(parts[-1]))
            if labelled:
                _require_labels(parts[-1], file, keys, ())
        else:
            parts.append(_collect(file, keys, group_key, labelled, stated, advance))
    if not sum(map(len, parts)):
        raise LabelError(f"{', '.join(map(str, files))}: no frames were found; give files with at least one structure.")
    return concatenate(parts)


def _ending(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _files(path: str | os.PathLike[str]) -> list[Path]:
    path = Path(path).expanduser()
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if _ending(p) in _ENDINGS and not p.name.startswith("."))
        if not found:
            raise ValueError(f"{path} has no files ending in {' '.join(_ENDINGS)}; give the folder of the data.")
        return found
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give a file or folder of labelled structures.")
    if _ending(path) not in _ENDINGS:
        raise ValueError(f"Expected a file ending in {' '.join(_ENDINGS)}, got {path}; convert it with ASE.")
    return [path]


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what readers raise on damaged files into one sentence; errors with a sentence of ours pass."""
    try:
        yield
    except (LabelError, KeyboardInterrupt, MemoryError):
        raise
    except ImportError as error:
        raise ValueError(
            f"{path} needs the package {error.name}; install it with: pip install 'm3pot[fast-io]'."
        ) from error
    except Exception as error:
        if type(error) is ValueError and str(path) in str(error):
            raise
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ValueError(f"{path} cannot be read ({reason}); it is damaged or of another format.") from error


def _collect(
    path: Path,
    keys: Keys,
    group_key: str,
    labelled: bool,
    stated: dict[str, str],
    advance: Callable[[int], None],
) -> Frames:
    records: list[Record] = []
    labels: dict[str, list[np.ndarray]] = {"energy": [], "forces": [], "stress": []}
    groups, seen = [], set()
    with _readable(path):
        for record in _RECORDS[_ending(path)](path):
            where = f"{path}, frame {len(records)} ({record.name})"
            shapes = {"energy": ((),), "forces": ((len(record.numbers), 3),), "stress": ((3, 3), (9,), (6,))}
            for label, into in labels.items():
                into.append(_label(record.values, label, getattr(keys, label), shapes[label], where))
            if np.isfinite(labels["stress"][-1]).all():
                labels["stress"][-1] = convert_stress(labels["stress"][-1], record.cell, keys)
            functional = record.values.get("functional")
            if isinstance(functional, str):
                stated.setdefault(functional, where)
                same_functional({place: name for name, place in stated.items()})
            groups.append(_group(record, group_key))
            seen.update(record.values)
            records.append(record._replace(values={}))
            advance(1)
    if not records:
        return make([], [], np.zeros((0, 3)), np.zeros((0, 3, 3)))
    frames = make(
        [len(r.numbers) for r in records],
        np.concatenate([r.numbers for r in records]),
        np.concatenate([r.positions for r in records]),
        np.stack([r.cell for r in records]),
        pbc=np.stack([np.broadcast_to(r.pbc, 3) for r in records]),
        energy=np.stack(labels["energy"]),
        forces=np.concatenate(labels["forces"]),
        stress=np.stack([np.full((3, 3), np.nan) if s.shape != (3, 3) else s for s in labels["stress"]]),
        group=groups,
        name=[r.name for r in records],
    )
    if labelled:
        _require_labels(frames, path, keys, seen)
    return frames


def _label(
    values: Mapping[str, Any], label: str, key: str, shapes: Sequence[tuple[int, ...]], where: str
) -> np.ndarray:
    """A label as a finite array of one of the shapes, or NaN of the first shape where there is none."""
    value = _lookup(values, key)
    if value is None:
        return np.full(shapes[0], np.nan)
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise LabelError(f"{where}: the {label} under {key!r} is not numeric; repair the file.") from None
    if array.size == 1 and shapes[0] == ():
        array = array.reshape(())
    if array.shape not in shapes:
        raise LabelError(
            f"{where}: expected {label} of shape {shapes[0]} under {key!r}, got {array.shape}; repair the file."
        )
    if not np.isfinite(array).all():
        raise LabelError(f"{where}: the {label} is NaN or infinite; remove this frame or this label from the file.")
    return array


def _lookup(values: Mapping[str, Any], key: str) -> Any:
    if key in values:
        return values[key]
    node: Any = values
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _group(record: Record, group_key: str) -> str:
    if group_key:
        value = _lookup(record.values, group_key)
        return "" if value is None else str(value)
    return record.group or next((str(record.values[key]) for key in _GROUP_KEYS if key in record.values), "")


def _require_labels(frames: Frames, path: Path, keys: Keys, seen: Any) -> None:
    present = {label: bool(np.isfinite(getattr(frames, label)).any()) for label in ("energy", "forces", "stress")}
    for label, found in present.items():
        key = getattr(keys, label)
        if not found and key != getattr(DEFAULT_KEYS, label):
            raise LabelError(f"{path}: no frame has {label} under {key!r}; found {_listed(seen)}; correct {label}_key.")
    if len(frames) and not any(present.values()):
        raise LabelError(
            f"{path} has no labels: expected energy, forces or stress under {keys.energy!r}, {keys.forces!r}, "
            f"{keys.stress!r}, found {_listed(seen)}; set energy_key, forces_key and stress_key."
        )


def _listed(seen: Any) -> str:
    return ", ".join(sorted(set(map(str, seen)) - {"numbers", "positions", "structure"})[:20]) or "nothing"


def _extxyz(path: Path) -> Iterator[Record]:
    if path.name.lower().endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            for member in sorted(archive.namelist()):
                if member.lower().endswith((".extxyz", ".xyz")):
                    text = io.StringIO(archive.read(member).decode())
                    yield from (r._replace(group=Path(member).stem) for r in _frames_of(text, member))
    elif path.name.lower().endswith(".gz"):
        # ASE seeks to each frame: in a compressed file that means to decompress it from the start again.
        with gzip.open(path, "rt", encoding="utf-8") as file:
            text = io.StringIO(file.read())
        yield from _frames_of(text, path.name)
    else:
        with open(path, encoding="utf-8") as file:
            yield from _frames_of(file, path.name)


def _frames_of(file: Any, name: str) -> Iterator[Record]:
    import ase.io

    for k, atoms in enumerate(ase.io.iread(file, index=":", format="extxyz")):
        yield _from_atoms(atoms, str(atoms.info.get("name", f"{name}@{k}")), {})


def _from_atoms(atoms: "Atoms", name: str, more: Mapping[str, Any]) -> Record:
    results = {} if atoms.calc is None else atoms.calc.results
    values = {**more, **atoms.arrays, **atoms.info, **results}
    return Record(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, values, name)


def _database(path: Path) -> Iterator[Record]:
    import ase.db

    options = {"readonly": True} if _ending(path) == ".aselmdb" else {}
    database = ase.db.connect(str(path), **options)
    try:
        for row in database.select():
            yield _from_atoms(row.toatoms(), f"{path.name}@{row.id}", {**row.data, **row.key_value_pairs})
    finally:
        if hasattr(database, "close"):  # that of SQLite holds no file between queries
            database.close()


def _json(path: Path) -> Iterator[Record]:
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8") as file:
        items = json_lines if _ending(path) == ".jsonl" else json_items
        for number, (key, value) in enumerate(items(file)):
            name = key or f"{path.name}@{number}"
            if _is_record(value):
                yield _from_json(value, str(value.get("matpes_id", name)), "")
            elif isinstance(value, dict) and value and all(map(_is_record, value.values())):
                for frame, inner in value.items():
                    yield _from_json(inner, frame, key)
            else:
                raise LabelError(
                    f"{path}: expected records with a 'structure', or dictionaries of such records as in MPtrj, "
                    f"but {name} is neither; convert the file to extxyz."
                )


def _is_record(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("structure"), dict)


def _from_json(values: Mapping[str, Any], name: str, group: str) -> Record:
    from ase.data import atomic_numbers

    structure = values["structure"]
    cell = np.asarray(structure["lattice"]["matrix"], np.float64)
    numbers, positions = [], []
    for site in structure["sites"]:
        (species, *others) = site["species"]
        if others or abs(species.get("occu", 1) - 1) > 1e-3:
            raise LabelError(f"{name} has sites shared by several species; make an ordered cell first.")
        numbers.append(atomic_numbers[species["element"]])
        positions.append(site["xyz"] if "xyz" in site else np.asarray(site["abc"]) @ cell)
    pbc = structure["lattice"].get("pbc", True)
    return Record(np.array(numbers), np.array(positions, np.float64), cell, pbc, values, str(name), str(group))


_WHOLE = {".npz": read_npz, ".h5": read_hdf5, ".hdf5": read_hdf5}
_RECORDS = {
    ".extxyz": _extxyz,
    ".xyz": _extxyz,
    ".zip": _extxyz,
    ".json": _json,
    ".jsonl": _json,
    ".db": _database,
    ".aselmdb": _database,
}
_ENDINGS = (*_RECORDS, *_WHOLE)
