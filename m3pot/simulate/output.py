"""Files written while a simulation runs. Each can say how far it has got and be cut back to that point.

A writer has ``write(frame)``, ``mark()`` (everything so far is on disk; returns a JSON value for the restart file) and
``close()``; opened with a mark it first discards what was written after it.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from m3pot.simulate.state import Observables, State
from m3pot.units import GPA

HDF5 = (".h5", ".hdf5")  # endings


class Home(NamedTuple):
    """Where the user had put the atoms: what was taken off at the start, so that float32 loses no digits."""

    translations: np.ndarray  # (n, 3) lattice translations of atoms far from the cell
    origin: np.ndarray  # (3,) A
    cell: np.ndarray  # (3, 3) A at the start, in float64


class Frame(NamedTuple):
    """State of all replicas at one step (numpy, leading axis of replicas)."""

    step: int
    time: float  # fs
    positions: np.ndarray  # (r, n, 3) A, unwrapped, float64
    momenta: np.ndarray  # (r, n, 3) sqrt(amu eV)
    cell: np.ndarray  # (r, 3, 3) A, float64
    energy: np.ndarray  # (r,) eV
    forces: np.ndarray  # (r, n, 3) eV/A
    stress: np.ndarray  # (r, 3, 3) eV/A^3, of the potential, tensile positive; zero without a cell
    disagreement: np.ndarray  # (r,) eV/A


class Writer(Protocol):
    """What every kind of output offers."""

    def write(self, frame: Frame) -> None: ...  # noqa: D102

    def mark(self) -> Any: ...  # noqa: D102

    def close(self) -> None: ...  # noqa: D102


def frame_of(state: State, home: Home, timestep: float) -> Frame:
    """Copy a state from the device, positions where the user had put them."""
    s = State(*map(np.asarray, state))
    step = int(s.step[0])
    cell = np.where(s.cell == home.cell.astype(s.cell.dtype), home.cell, s.cell)
    positions = s.positions.astype(np.float64) + home.translations @ cell + home.origin
    volume = np.abs(np.linalg.det(cell))[:, None, None]
    stress = np.divide(s.virial, volume, out=np.zeros(s.virial.shape), where=volume > 0)
    return Frame(step, step * timestep, positions, s.momenta, cell, s.energy, s.forces, stress, s.disagreement)


def atoms_of(frame: Frame, template: Any, replica: int = 0) -> Any:
    """ASE Atoms of one replica with momenta, energy, forces and stress attached, ``step`` and ``time`` (fs) in info."""
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.stress import full_3x3_to_voigt_6_stress

    atoms = template.copy()
    atoms.info |= {"step": frame.step, "time": frame.time}
    if frame.disagreement[replica] > 0:
        atoms.info["force_disagreement"] = float(frame.disagreement[replica])
    if frame.cell[replica].any():
        atoms.set_cell(frame.cell[replica].astype(np.float64))
    atoms.set_positions(frame.positions[replica].astype(np.float64), apply_constraint=False)
    atoms.set_momenta(frame.momenta[replica].astype(np.float64), apply_constraint=False)
    energy = float(frame.energy[replica])
    results = {"energy": energy, "free_energy": energy, "forces": frame.forces[replica].astype(np.float64)}
    if frame.cell[replica].any():
        results["stress"] = full_3x3_to_voigt_6_stress(frame.stress[replica].astype(np.float64))
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


class Memory:
    """Keeps the frames."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []

    def write(self, frame: Frame) -> None:
        """Append a frame."""
        self.frames.append(frame)

    def mark(self) -> None:
        """Nothing is on disk."""

    def close(self) -> None:
        """Nothing to close."""


class _Text:
    """An append-only text file."""

    def __init__(self, path: Path, mark: int | None):
        path.parent.mkdir(parents=True, exist_ok=True)
        if mark is None:
            self.stream = open(path, "w")  # noqa: SIM115
            return
        if not path.exists() or path.stat().st_size < mark:
            raise ValueError(f"{path} is shorter than when the restart file was written; start anew without resume.")
        os.truncate(path, mark)
        self.stream = open(path, "a")  # noqa: SIM115

    def mark(self) -> int:
        self.stream.flush()
        os.fsync(self.stream.fileno())
        return os.fstat(self.stream.fileno()).st_size


class Extxyz:
    """Extended XYZ, one file per replica."""

    def __init__(self, paths: Sequence[Path], template: Any, marks: Sequence[int] | None):
        self.template = template
        self.files = [_Text(path, marks and marks[k]) for k, path in enumerate(paths)]

    def write(self, frame: Frame) -> None:
        """Append a frame to each file."""
        from ase.io.extxyz import write_extxyz

        for k, file in enumerate(self.files):
            write_extxyz(file.stream, [atoms_of(frame, self.template, k)])
            file.stream.flush()

    def mark(self) -> list[int]:
        """Sizes in bytes."""
        return [file.mark() for file in self.files]

    def close(self) -> None:
        """Close the files."""
        for file in self.files:
            file.stream.close()


class Traj:
    """ASE's binary .traj, one file per replica."""

    def __init__(self, paths: Sequence[Path], template: Any, marks: Sequence[int] | None):
        from ase.io.trajectory import Trajectory

        self.template, self.paths = template, paths
        for k, path in enumerate(paths):
            path.parent.mkdir(parents=True, exist_ok=True)
            if marks:
                _cut_traj(path, marks[k])
        self.count = marks[0] if marks else 0
        self.files = [Trajectory(str(path), "a" if marks else "w") for path in paths]

    def write(self, frame: Frame) -> None:
        """Append a frame to each file."""
        for k, file in enumerate(self.files):
            file.write(atoms_of(frame, self.template, k))
        self.count += 1

    def mark(self) -> list[int]:
        """Numbers of frames."""
        for path in self.paths:
            with open(path, "rb") as stream:
                os.fsync(stream.fileno())
        return [self.count] * len(self.paths)

    def close(self) -> None:
        """Close the files."""
        for file in self.files:
            file.close()


def _cut_traj(path: Path, count: int) -> None:
    from ase.io.trajectory import Trajectory

    temporary = path.with_name(f".{path.name}.cut")
    with Trajectory(str(path)) as old, Trajectory(str(temporary), "w") as new:
        if len(old) < count:
            raise ValueError(f"{path} is shorter than when the restart file was written; start anew without resume.")
        for k in range(count):
            new.write(old[k])
    os.replace(temporary, path)


class Log:
    """Comma-separated table, one row per step and replica, pressure in GPa."""

    COLUMNS = (
        "step,replica,time_fs,temperature_K,potential_eV,kinetic_eV,total_eV,pressure_GPa,volume_A3,conserved_eV,"
        "force_disagreement_eV_A"
    )

    def __init__(self, path: Path, mark: int | None):
        self.file = _Text(path, mark)
        if mark is None:
            self.file.stream.write(self.COLUMNS + "\n")

    def write(self, row: Observables) -> None:
        """Append one row per replica."""
        for k in range(len(row.step)):
            o = Observables(*(float(x[k]) for x in row))
            values = (o.time, o.temperature, o.potential, o.kinetic, o.potential + o.kinetic, o.pressure / GPA)
            values += (o.volume, o.conserved, o.disagreement)
            self.file.stream.write(f"{int(o.step)},{k}," + ",".join(f"{x:.9g}" for x in values) + "\n")
        self.file.stream.flush()

    def mark(self) -> int:
        """Size in bytes."""
        return self.file.mark()

    def close(self) -> None:
        """Close the file."""
        self.file.stream.close()


def open_trajectory(
    path: str | os.PathLike | None, template: Any, replicas: int, dtype: str = "float32", mark: Any = None
) -> Writer:
    """Writer by suffix: .extxyz or .xyz, .traj, .h5 or .hdf5; None keeps frames in memory.

    Text and .traj hold one system: with several replicas the file names get the suffix ``-0``, ``-1`` ...
    """
    if path is None:
        return Memory()
    paths = trajectory_paths(path, replicas)
    if mark is not None and (missing := [file for file in paths if not file.exists()]):
        raise ValueError(f"{missing[0]} is gone, but not its restart file; start anew without resume.")
    if paths[0].suffix.lower() in HDF5:
        from m3pot.simulate.hdf5 import Hdf5

        return Hdf5(paths[0], template, replicas, dtype, mark)
    return (Traj if paths[0].suffix.lower() == ".traj" else Extxyz)(paths, template, mark)


def trajectory_paths(path: str | os.PathLike, replicas: int = 1) -> list[Path]:
    """Files of a trajectory: text and .traj hold one replica each. Raises ValueError for another ending."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (*HDF5, ".extxyz", ".xyz", ".traj"):
        raise ValueError(f"{path}: expected a trajectory ending in .extxyz, .traj or .h5; rename it.")
    if replicas == 1 or suffix in HDF5:
        return [path]
    return [path.with_stem(f"{path.stem}-{k}") for k in range(replicas)]
