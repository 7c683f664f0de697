"""Runs of ``m3pot md`` as they lie on disk: trajectories of all replicas, log and settings, also of a killed run."""

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from m3pot.simulate import analysis, hdf5, restart
from m3pot.simulate.analysis import Trajectory
from m3pot.simulate.output import HDF5
from m3pot.units import BOLTZMANN, FEMTOSECOND


class Run(NamedTuple):
    """What is on disk, one entry for each replica."""

    name: str
    trajectories: list[Trajectory]
    logs: list[dict[str, np.ndarray]]  # columns of the log; temperature and volume of the frames where there is none
    settings: dict[str, Any]  # of the restart file; empty where there is none


def load(path: str | os.PathLike) -> Run:
    """Read a trajectory (.extxyz, .traj, .h5) with the log and the restart file beside it, if they are there.

    ``path`` is what was given to ``m3pot md --output``, or one of the files of its replicas.
    Raises FileNotFoundError or ValueError.
    """
    path = Path(path)
    if path.suffix.lower() in HDF5 and path.exists():
        files = [(path, k) for k in range(int(hdf5.read_attributes(path)["replicas"]))]
    else:
        found = [path] if path.exists() else path.parent.glob(f"{path.stem}-*{path.suffix}")
        numbers = {file: re.fullmatch(r".*-(\d+)", file.stem) for file in found}
        files = sorted(((file, int(match[1])) for file, match in numbers.items() if match), key=lambda item: item[1])
        files = files or [(file, 0) for file in numbers if file == path]
    if not files:
        raise FileNotFoundError(f"{path} does not exist; give a trajectory written by `m3pot md`.")
    whole = re.sub(r"-\d+$", "", path.stem)
    root = path if path.with_suffix(".csv").exists() else path.with_stem(whole)
    log, kept = root.with_suffix(".csv"), root.with_suffix(".restart.npz")
    replicas = [(analysis.read(file, number), number) for file, number in files]
    if log.exists():
        if root == path and len(files) == 1 and path.suffix.lower() not in HDF5:
            replicas = [(replicas[0][0], 0)]
        table = _read_log(log)
        logs = [{key: column[table["replica"] == number] for key, column in table.items()} for _, number in replicas]
    else:
        logs = [_log_of(trajectory) for trajectory, _ in replicas]
    settings = restart.load(kept, {}).identity if kept.exists() else {}
    return Run(str(path), [trajectory for trajectory, _ in replicas], logs, settings)


def _read_log(path: Path) -> dict[str, np.ndarray]:
    """Columns of a log, without the line that a killed run has left incomplete."""
    text = path.read_text()
    head, *lines = text[: text.rfind("\n") + 1].splitlines() or [""]
    names = head.split(",")
    if not {"step", "replica", "time_fs"} <= set(names) or not lines:
        raise ValueError(f"{path} is not the log of a run of `m3pot md`, or has no line yet; move it away.")
    table = np.array([[float(value) for value in line.split(",")] for line in lines])
    return dict(zip(names, table.T, strict=True))


def _log_of(trajectory: Trajectory) -> dict[str, np.ndarray]:
    n = len(trajectory.numbers)
    momenta_squares = (trajectory.masses[:, None] * trajectory.velocities**2).sum((1, 2)) / FEMTOSECOND**2
    return {
        "time_fs": trajectory.time,
        "temperature_K": momenta_squares / (BOLTZMANN * max(3 * n - 3, 3)),
        "volume_A3": np.abs(np.linalg.det(trajectory.cell)),
    }
