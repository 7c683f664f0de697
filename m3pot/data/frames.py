"""Labelled structures as ragged arrays: one container from every file format to the trainer.

Units: A, eV, eV/A, eV/A^3 (tensile positive). A label that is not there is NaN.
The npz and HDF5 layouts are the same named arrays: ``n_atoms (f,)``, ``numbers (n,)``, ``positions (n, 3)``,
``cell (f, 3, 3)`` and, each optional, ``pbc (f, 3)``, ``energy (f,)``, ``forces (n, 3)``, ``stress (f, 3, 3)``,
``group (f,)``, ``name (f,)``.
"""

import dataclasses
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from m3pot.units import GPA

if TYPE_CHECKING:
    from ase import Atoms


@dataclasses.dataclass(frozen=True, eq=False)
class Frames:
    """f structures with n atoms in all. ``len``, integer, slice, mask and index-array access are by structure."""

    ptr: np.ndarray  # (f + 1,) int64; atoms of frame k are ptr[k]:ptr[k+1]
    numbers: np.ndarray  # (n,) uint8, atomic numbers
    positions: np.ndarray  # (n, 3) float64, A
    cell: np.ndarray  # (f, 3, 3) float64, rows are lattice vectors, A
    pbc: np.ndarray  # (f, 3) bool
    energy: np.ndarray  # (f,) float64, eV, total
    forces: np.ndarray  # (n, 3) float64, eV/A
    stress: np.ndarray  # (f, 3, 3) float64, eV/A^3, tensile positive
    group: np.ndarray  # (f,) str, parent crystal; "" where it is not known
    name: np.ndarray  # (f,) str, for messages and tables

    def __len__(self) -> int:
        return len(self.ptr) - 1

    def __getitem__(self, key: Any) -> "Frames":
        if isinstance(key, int | np.integer):
            key = [key]
        return take(self, np.arange(len(self))[key])

    @property
    def n_atoms(self) -> np.ndarray:
        """Atoms of each frame (f,)."""
        return np.diff(self.ptr)


_PER_FRAME = ("cell", "pbc", "energy", "stress", "group", "name")
_PER_ATOM = ("numbers", "positions", "forces")


def make(
    n_atoms: Any,
    numbers: Any,
    positions: Any,
    cell: Any,
    pbc: Any = None,
    energy: Any = None,
    forces: Any = None,
    stress: Any = None,
    group: Any = None,
    name: Any = None,
) -> Frames:
    """Frames from arrays of any number type; what is None becomes periodic, NaN or "".

    Raises ValueError where shapes do not belong together or an atomic number is outside 1..118.
    """
    n_atoms = np.asarray(n_atoms, np.int64).reshape(-1)
    f, n = len(n_atoms), int(n_atoms.sum())
    numbers = np.asarray(numbers)
    if numbers.size and not (numbers.min() >= 1 and numbers.max() <= 118):
        raise ValueError(
            f"Expected atomic numbers from 1 to 118, got {numbers.min()} to {numbers.max()}; repair the data."
        )

    def array(what: str, value: Any, shape: tuple[int, ...], dtype: Any, missing: Any) -> np.ndarray:
        value = np.full(shape, missing, dtype) if value is None else np.asarray(value, dtype)
        if value.shape != shape:
            raise ValueError(f"{what}: expected shape {shape} for {f} frames of {n} atoms, got {value.shape}.")
        return value

    return Frames(
        ptr=np.concatenate([[0], np.cumsum(n_atoms)]).astype(np.int64),
        numbers=array("numbers", numbers, (n,), np.uint8, 0),
        positions=array("positions", positions, (n, 3), np.float64, np.nan),
        cell=array("cell", cell, (f, 3, 3), np.float64, 0),
        pbc=array("pbc", pbc, (f, 3), bool, True),
        energy=array("energy", energy, (f,), np.float64, np.nan),
        forces=array("forces", forces, (n, 3), np.float64, np.nan),
        stress=array("stress", stress, (f, 3, 3), np.float64, np.nan),
        group=array("group", group, (f,), np.str_, ""),
        name=array("name", name, (f,), np.str_, ""),
    )


def ragged(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Indices of the concatenated ranges starts[k] .. starts[k] + counts[k]."""
    counts = np.asarray(counts, np.int64)
    ends = np.cumsum(counts)
    return np.repeat(np.asarray(starts, np.int64) - ends + counts, counts) + np.arange(ends[-1] if len(ends) else 0)


def take(frames: Frames, indices: Any) -> Frames:
    """The frames with these indices (k,), in this order."""
    indices = np.asarray(indices, np.int64)
    counts = frames.n_atoms[indices]
    atoms = ragged(frames.ptr[indices], counts)
    return Frames(
        ptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        **{field: getattr(frames, field)[indices] for field in _PER_FRAME},
        **{field: getattr(frames, field)[atoms] for field in _PER_ATOM},
    )


def concatenate(parts: Sequence[Frames]) -> Frames:
    """All frames of all parts in order."""
    if not parts:
        raise ValueError("Expected at least one set of frames to join, got none.")
    counts = np.concatenate([part.n_atoms for part in parts])
    return Frames(
        ptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        **{field: np.concatenate([getattr(part, field) for part in parts]) for field in _PER_FRAME + _PER_ATOM},
    )


class Keys(NamedTuple):
    """Where labels are found in a file, and in what unit and sign its stress is."""

    energy: str = "energy"  # total energy in eV
    forces: str = "forces"  # eV/A
    stress: str = "stress"
    stress_unit: str = "eV/A^3"  # eV/A^3, GPa, kbar, or eV for a virial (divided by the volume)
    stress_sign: int = 1  # 1 where tension is positive (ASE), -1 where compression is (VASP files, most virials)


DEFAULT_KEYS = Keys()
_STRESS_UNITS = {"eV/A^3": 1.0, "GPa": GPA, "kbar": GPA / 10, "eV": 1.0}


def convert_stress(stress: Any, cell: np.ndarray, keys: Keys) -> np.ndarray:
    """Stress of a file, (..., 3, 3), (..., 9) or (..., 6: xx yy zz yz xz xy), as (..., 3, 3) in eV/A^3, tensile > 0."""
    if keys.stress_unit not in _STRESS_UNITS or keys.stress_sign not in (1, -1):
        raise ValueError(
            f"Expected stress_unit eV/A^3, GPa, kbar or eV (virial) and stress_sign 1 or -1, "
            f"got {keys.stress_unit!r} and {keys.stress_sign!r}."
        )
    stress = np.asarray(stress, np.float64)
    if stress.shape[-2:] != (3, 3):
        if stress.shape[-1:] == (6,):
            stress = stress[..., [0, 5, 4, 5, 1, 3, 4, 3, 2]]
        if stress.shape[-1:] != (9,):
            raise ValueError(f"Expected a stress of 3x3, 9 or 6 numbers, got shape {stress.shape}.")
        stress = stress.reshape(*stress.shape[:-1], 3, 3)
    stress = stress * (keys.stress_sign * _STRESS_UNITS[keys.stress_unit])
    if keys.stress_unit == "eV":
        stress = stress / np.abs(np.linalg.det(cell))[..., None, None]
    return stress


def read_npz(path: str | os.PathLike[str], keys: Keys = DEFAULT_KEYS) -> Frames:
    """Frames of an npz file in the layout of this module (also shards of teacher labels).

    Raises ValueError where the structure arrays or all labels are missing.
    """
    with np.load(path, allow_pickle=False) as arrays:
        return _from_arrays(path, arrays, keys)


def read_hdf5(path: str | os.PathLike[str], keys: Keys = DEFAULT_KEYS) -> Frames:
    """Frames of an HDF5 file in the layout of this module."""
    import h5py

    with h5py.File(path, "r") as file:
        arrays = {
            key: data.asstr()[:] if h5py.check_string_dtype(data.dtype) else data[:] for key, data in file.items()
        }
    return _from_arrays(path, arrays, keys)


def _from_arrays(path: Any, arrays: Mapping[str, np.ndarray], keys: Keys) -> Frames:
    missing = [key for key in ("n_atoms", "numbers", "positions", "cell") if key not in arrays]
    if missing:
        raise ValueError(f"{path}: expected the arrays {', '.join(missing)}, found {', '.join(arrays)}.")
    labels = {}
    for label in ("energy", "forces", "stress"):
        key = getattr(keys, label)
        if key in arrays:
            labels[label] = arrays[key]
        elif key != label:
            raise ValueError(f"{path}: expected the {label} under {key!r}, found {', '.join(arrays)}.")
    cell = np.asarray(arrays["cell"], np.float64)
    if "stress" in labels:
        labels["stress"] = convert_stress(labels["stress"], cell, keys)
    optional = {key: arrays[key] for key in ("pbc", "group", "name") if key in arrays}
    if "parent" in arrays:  # a shard that records the number of the parent, -1 for none; its group is something else
        optional["group"] = np.where(arrays["parent"] >= 0, arrays["parent"].astype(str), "")
    if "name" not in optional:
        optional["name"] = _names(arrays, len(cell))
    return make(arrays["n_atoms"], arrays["numbers"], arrays["positions"], cell, **labels, **optional)


def _names(arrays: Mapping[str, np.ndarray], count: int) -> np.ndarray:
    """Running numbers, with the source and kind of perturbation in front where a shard records them."""
    parts = []
    if "source" in arrays and "source_names" in arrays:
        parts.append(arrays["source_names"][arrays["source"]])
    if "kind" in arrays:
        parts.append(arrays["kind"].astype(str))
    parts.append(np.arange(count).astype(str))
    name = parts[0]
    for part in parts[1:]:
        name = np.strings.add(np.strings.add(name, "/"), part)
    return name


def _arrays(frames: Frames) -> dict[str, np.ndarray]:
    fields = {field: getattr(frames, field) for field in _PER_FRAME + _PER_ATOM}
    return {"n_atoms": frames.n_atoms.astype(np.int32), **fields}


def write_npz(frames: Frames, path: str | os.PathLike[str], more: Mapping[str, np.ndarray] | None = None) -> None:
    """Save to a compressed npz, atomically; ``more`` are further arrays, which :func:`read_npz` passes over."""
    arrays = {**_arrays(frames), **(more or {})}
    write_atomically(path, lambda temporary: np.savez_compressed(temporary, **arrays))


def write_hdf5(frames: Frames, path: str | os.PathLike[str]) -> None:
    """Save to an HDF5 file, atomically."""
    import h5py

    def write(temporary: Path) -> None:
        with h5py.File(temporary, "w") as file:
            for key, array in _arrays(frames).items():
                text = array.dtype.kind == "U"
                data, dtype = (array.astype(object), h5py.string_dtype()) if text else (array, None)
                file.create_dataset(key, data=data, dtype=dtype)

    write_atomically(path, write)


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], Any]) -> None:
    """Call ``write`` with a temporary path in the same folder, then move it into place."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(suffix=path.suffix, prefix=f".{path.stem}-", dir=path.parent)
    os.close(handle)
    try:
        write(Path(temporary))
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def to_atoms(frames: Frames, index: int) -> "Atoms":
    """One frame as ASE Atoms with its labels attached."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    frame = frames[index]
    atoms = Atoms(frame.numbers, frame.positions, cell=frame.cell[0], pbc=frame.pbc[0])
    labels = {"energy": frame.energy[0], "forces": frame.forces, "stress": frame.stress[0]}
    labels = {key: value for key, value in labels.items() if np.isfinite(value).all()}
    if "stress" in labels:
        labels["stress"] = labels["stress"].reshape(9)[[0, 4, 8, 5, 2, 1]]
    atoms.calc = SinglePointCalculator(atoms, **labels) if labels else None
    return atoms
