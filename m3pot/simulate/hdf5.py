"""Trajectories of long runs: one HDF5 file, all replicas, frames along the first axis.

Written in HDF5's single-writer mode, so that a file is readable while it grows and after the process was killed.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from m3pot.simulate.output import Frame

FORMAT = "m3pot-md-1"
_FIELDS = ("positions", "momenta", "cell", "energy", "forces", "stress", "disagreement")
_CHUNK_BYTES = 1 << 18


class Hdf5:
    """Datasets ``step`` (f,), ``time`` (f,) fs and the fields of a frame (f, replicas, ...); atoms as attributes."""

    def __init__(self, path: Path, template: Any, replicas: int, dtype: str, mark: int | None):
        import h5py

        path.parent.mkdir(parents=True, exist_ok=True)
        old = None if mark is None else read(path, stop=mark)
        if old is not None and len(old["step"]) < mark:
            raise ValueError(f"{path} is shorter than when the restart file was written; start anew without resume.")
        temporary = path.with_name(f".{path.name}.new")
        self.file = h5py.File(temporary, "w", libver="latest")
        attributes = {"numbers": template.numbers, "masses": template.get_masses(), "pbc": template.pbc}
        self.file.attrs.update({"format": FORMAT, "replicas": replicas} | attributes)
        self.count = 0
        n = len(template)
        shapes = {"step": (), "time": (), "energy": (replicas,), "disagreement": (replicas,)}
        shapes |= {name: (replicas, n, 3) for name in ("positions", "momenta", "forces")}
        shapes |= {name: (replicas, 3, 3) for name in ("cell", "stress")}
        for name, shape in shapes.items():
            kind = "i8" if name == "step" else "f8" if name in ("time", "energy") else dtype
            rows = max(1, min(256, _CHUNK_BYTES // (8 * max(1, int(np.prod(shape))))))
            self.file.create_dataset(name, (0, *shape), kind, maxshape=(None, *shape), chunks=(rows, *shape))
        self.file.swmr_mode = True
        if old is not None:
            for name, values in old.items():
                self._append(name, values, 0)
            self.count = mark
        self.file.flush()
        os.replace(temporary, path)  # the open file keeps its inode

    def _append(self, name: str, values: np.ndarray, first: int) -> None:
        dataset = self.file[name]
        dataset.resize(first + len(values), axis=0)
        dataset[first:] = values

    def write(self, frame: Frame) -> None:
        """Append a frame."""
        for name in _FIELDS:
            self._append(name, np.asarray(getattr(frame, name))[None], self.count)
        self._append("time", np.array([frame.time]), self.count)
        self._append("step", np.array([frame.step]), self.count)  # last: its length counts complete frames
        self.count += 1

    def mark(self) -> int:
        """Number of frames."""
        self.file.flush()
        return self.count

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def read(path: str | os.PathLike, start: int = 0, stop: int | None = None, step: int = 1) -> dict[str, np.ndarray]:
    """Arrays of the frames [start:stop:step], also of a file that is being written or was left by a killed run."""
    with _opened(path) as file:
        last = len(file["step"]) if stop is None else min(stop, len(file["step"]))
        return {name: file[name][start:last:step] for name in ("step", "time", *_FIELDS)}


def read_attributes(path: str | os.PathLike) -> dict[str, Any]:
    """``numbers``, ``masses`` (amu), ``pbc`` and the number of ``replicas``."""
    with _opened(path) as file:
        return dict(file.attrs)


def read_atoms(path: str | os.PathLike, replica: int = 0, step: int = 1) -> list[Any]:
    """The same as ASE Atoms."""
    from ase import Atoms

    from m3pot.simulate.output import atoms_of

    attributes = read_attributes(path)
    template = Atoms(attributes["numbers"], pbc=attributes["pbc"])
    template.set_masses(attributes["masses"])
    data = read(path, step=step)
    frames = (Frame(**{name: data[name][k] for name in data}) for k in range(len(data["step"])))
    return [atoms_of(frame, template, replica) for frame in frames]


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[Any]:
    import h5py

    with h5py.File(path, "r", libver="latest", swmr=True) as file:
        if file.attrs.get("format") != FORMAT:
            raise ValueError(f"{path} is an HDF5 file but not a trajectory of m3pot; read it with its own program.")
        yield file
