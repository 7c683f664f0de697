"""What a run of ``m3pot md`` amounts to: averages with errors, structure, diffusion, vibrations, and what is wrong.

Several replicas count as independent runs of one system: means are taken over all, errors fall with their number.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from ase.data import chemical_symbols
from ase.formula import Formula

from m3pot.simulate import analysis
from m3pot.simulate.analysis import Trajectory
from m3pot.simulate.stored import Run

_DENSITY = 1.66053906660  # g/cm^3 per amu/A^3
_DIFFUSION = 0.1  # cm^2/s per A^2/fs
_SIGMAS = 4.0  # standard errors beyond which a deviation is flagged
_PEAK = 8.0  # standard deviations of the canonical temperature, likewise
_TOLERANCE = 0.02  # of the temperature, below which it is not
_DIFFUSIVE = 0.5  # exponent of the mean square displacement over time, from which on atoms do more than vibrate
_FRAMES = 200  # of which g(r) is the mean, at most
_LONGEST_INTERVAL = 20.0  # fs between frames for a spectrum: up to 25 THz; with hydrogen a fifth, up to 125 THz


class Value(NamedTuple):
    """A mean with its standard error."""

    mean: float
    error: float


@dataclasses.dataclass(frozen=True)
class Measured:
    """Numbers of a run; ``x, {name: y}`` for every curve."""

    name: str
    about: dict[str, Any]  # formula, atoms, replicas, ensemble, frames, time_ps, skipped_ps
    averages: dict[str, Value]  # temperature_K, pressure_GPa, density_g_cm3 ...
    drift: Value | None  # of the conserved quantity, meV/atom/ps
    diffusion: dict[str, dict[str, float]]  # by element: coefficient and error in cm^2/s, exponent
    series: tuple[np.ndarray, dict[str, np.ndarray]]  # ps; quantities of the log (rows, replicas)
    rdf: tuple[np.ndarray, dict[str, np.ndarray]]  # A; pairs of elements
    msd: tuple[np.ndarray, dict[str, np.ndarray]]  # ps; elements, A^2
    vdos: tuple[np.ndarray, dict[str, np.ndarray]]  # THz; states per THz
    flags: list[str]  # signs that the run is not sound
    notes: list[str]  # what could not be measured, and why

    def summary(self) -> dict[str, Any]:
        """Everything but the curves, JSON-like."""
        names = ("name", "about", "averages", "drift", "diffusion", "flags", "notes")
        found = {name: getattr(self, name) for name in names}
        found["averages"] = {name: value._asdict() for name, value in self.averages.items()}
        found["drift"] = self.drift and self.drift._asdict()
        return found

    def curves(self) -> dict[str, dict[str, Any]]:
        """g(r), mean square displacement and density of states, JSON-like."""
        axes = {"rdf": "r_A", "msd": "lag_ps", "vdos": "frequency_THz"}
        return {name: {axis: getattr(self, name)[0], **getattr(self, name)[1]} for name, axis in axes.items()}


def measure(run: Run, *, skip: float | None = None, radius: float = 6.0, max_drift: float = 1.0) -> Measured:
    """Analyse a run from ``skip`` fs on (default: without its first tenth).

    Args:
        run: see :func:`m3pot.simulate.stored.load`.
        skip: fs.
        radius: up to which g(r) is taken, A.
        max_drift: of the conserved quantity in meV/atom/ps, beyond which the run is flagged.

    Raises ValueError if nothing is left after ``skip``.
    """
    last = min(trajectory.time[-1] for trajectory in run.trajectories)
    skip = last / 10 if skip is None else skip
    parts = [analysis.even(analysis.after(trajectory, skip)) for trajectory in run.trajectories]
    if any(len(part.time) < 2 for part in parts):
        raise ValueError(f"{run.name} has no two frames after {skip:g} fs; skip less or run longer.")
    frames = min(len(part.time) for part in parts)
    parts = [analysis.select(part, slice(frames)) for part in parts]
    notes: list[str] = (
        [] if "conserved_eV" in run.logs[0] else ["There is no log: energy, pressure and drift are lost."]
    )
    first, n = parts[0], len(parts[0].numbers)
    series = _series(run.logs, n)
    late = series[0] >= skip / 1000
    if late.sum() < 2:
        raise ValueError(f"The log of {run.name} has no two lines after {skip:g} fs; skip less or run longer.")
    kept = {name: values[late] for name, values in series[1].items()}
    averages = {name: _mean(values) for name, values in kept.items() if name != "conserved_eV"}
    if first.pbc.all():
        density = first.masses.sum() * _DENSITY / kept["volume_A3"]
        averages["density_g_cm3"] = _mean(density)
    drift = _drift(series[0][late], kept.get("conserved_eV"), n)
    elements = {chemical_symbols[z]: int(z) for z in np.unique(first.numbers)}
    about = {
        "formula": Formula.from_list([chemical_symbols[z] for z in first.numbers]).format("metal"),
        "atoms": n,
        "replicas": len(parts),
        "ensemble": run.settings.get("ensemble"),
        "frames": frames,
        "time_ps": last / 1000,
        "skipped_ps": skip / 1000,
    }
    return Measured(
        name=run.name,
        about=about,
        averages=averages,
        drift=drift,
        diffusion=_diffusion(parts, elements, notes),
        series=series,
        rdf=_rdf(parts, radius, notes),
        msd=_msd(parts, elements, notes),
        vdos=_vdos(parts, notes),
        flags=_flags(run, series[1]["temperature_K"], kept["temperature_K"], n, drift, max_drift),
        notes=list(dict.fromkeys(notes)),
    )


def _series(logs: Sequence[dict[str, np.ndarray]], n: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    rows = min(len(log["time_fs"]) for log in logs)
    columns = {name: np.stack([log[name][:rows] for log in logs], axis=1) for name in logs[0] if name != "time_fs"}
    table = {name: columns[name] for name in ("temperature_K", "pressure_GPa", "volume_A3") if name in columns}
    table |= {f"{name}_per_atom": columns[name] / n for name in ("potential_eV", "total_eV") if name in columns}
    table |= {name: columns[name] for name in ("conserved_eV",) if name in columns}
    if columns.get("force_disagreement_eV_A", np.zeros(1)).any():
        table["force_disagreement_eV_A"] = columns["force_disagreement_eV_A"]
    table = {name: values for name, values in table.items() if np.isfinite(values).all()}  # no pressure without a cell
    if not table["volume_A3"].any():
        del table["volume_A3"]
    return logs[0]["time_fs"][:rows] / 1000, table


def _mean(values: np.ndarray) -> Value:
    """Mean over rows and replicas (rows, replicas), and its error."""
    found = [analysis.mean_error(column)[:2] for column in values.T]
    means, errors = np.array(found).T
    return Value(float(means.mean()), float(np.sqrt((errors**2).sum()) / len(errors)))


def _drift(time: np.ndarray, conserved: np.ndarray | None, n: int) -> Value | None:
    if conserved is None or len(time) < 4:
        return None
    slopes, errors = np.array([analysis.drift(time, column) for column in conserved.T]).T * 1000 / n
    return Value(float(slopes.mean()), float(np.sqrt((errors**2).sum()) / len(errors)))


def _rdf(parts: Sequence[Trajectory], radius: float, notes: list[str]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    if not np.abs(np.linalg.det(parts[0].cell[0])) > 0:
        notes.append("g(r) needs a cell with a volume.")
        return np.zeros(0), {}
    stride = -(-len(parts[0].time) // _FRAMES)
    found = [analysis.rdf(analysis.select(part, slice(None, None, stride)), radius) for part in parts]
    names = {pair: f"{chemical_symbols[pair[0]]}-{chemical_symbols[pair[1]]}" for pair in found[0][1]}
    return found[0][0], {name: np.mean([table[pair] for _, table in found], axis=0) for pair, name in names.items()}


def _msd(
    parts: Sequence[Trajectory], elements: dict[str, int], notes: list[str]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    half = len(parts[0].time) // 2 + 1
    if half < 3:
        notes.append("Mean square displacements need four frames or more.")
        return np.zeros(0), {}
    curves = {name: [analysis.msd(part, z) for part in parts] for name, z in elements.items()}
    lags = next(iter(curves.values()))[0][0][:half] / 1000
    return lags, {name: np.mean([square for _, square in found], axis=0)[:half] for name, found in curves.items()}


def _diffusion(parts: Sequence[Trajectory], elements: dict[str, int], notes: list[str]) -> dict[str, dict[str, float]]:
    table = {}
    for name, z in elements.items():
        try:
            found = [analysis.diffusion(part, z) for part in parts]
        except ValueError as error:
            notes.append(str(error))
            break
        errors = np.array([one.error for one in found])
        table[name] = {
            "coefficient_cm2_s": _DIFFUSION * float(np.mean([one.coefficient for one in found])),
            "error_cm2_s": _DIFFUSION * float(np.sqrt((errors**2).sum()) / len(errors)),
            "exponent": float(np.mean([one.exponent for one in found])),
        }
        if table[name]["exponent"] < _DIFFUSIVE:
            notes.append(f"{name} does not diffuse in the time of this run: its coefficient means nothing.")
    return table


def _vdos(parts: Sequence[Trajectory], notes: list[str]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    first = parts[0]
    longest = _LONGEST_INTERVAL / (5 if 1 in first.numbers else 1)
    interval = first.time[1] - first.time[0]
    if not any(part.velocities.any() for part in parts):
        notes.append("No velocities are stored: no vibrations.")
    elif interval > longest or len(first.time) < 50:
        notes.append(
            f"Vibrations need 50 frames, {longest:g} fs apart at most, got {len(first.time)} at {interval:g} fs."
        )
    else:
        found = [analysis.vdos(part) for part in parts]
        return found[0][0], {"all": np.mean([states for _, states in found], axis=0)}
    return np.zeros(0), {}


def _flags(run: Run, hot: np.ndarray, kept: np.ndarray, n: int, drift: Value | None, max_drift: float) -> list[str]:
    """Signs of an unsound run; ``hot`` and ``kept`` are temperatures of the whole and of the analysed part."""
    flags = []
    if drift is not None and abs(drift.mean) > max(max_drift, 3 * drift.error):
        flags.append(f"drift: the conserved quantity changes by {drift.mean:.3g} meV/atom/ps; shorten the timestep.")
    broken = [pair for trajectory in run.trajectories for pair in analysis.broken_bonds(trajectory)]
    if broken:
        pairs = ", ".join(f"{i}-{j}" for i, j in broken[:5]) + (" ..." if len(broken) > 5 else "")
        flags.append(f"bonds: {len(broken)} bonds of the start are broken at the end ({pairs}).")
    first, last = run.settings.get("temperature", (np.nan, np.nan))
    if run.settings and first != last:
        return flags  # a ramp
    if hot.max() > (1 + _PEAK * np.sqrt(2 / max(3 * n - 3, 1))) * np.median(hot):
        flags.append(f"temperature: it rises to {hot.max():.4g} K; relax first or shorten the timestep.")
    if run.settings and run.settings["ensemble"] != "nve":
        value = _mean(kept)
        gap, error, what = value.mean - first, value.error, f"the mean is off the thermostat's {first:g} K"
    else:
        early, late = _mean(kept[: len(kept) // 2]), _mean(kept[len(kept) // 2 :])
        gap, error, what = late.mean - early.mean, float(np.hypot(early.error, late.error)), "the second half is off"
    if abs(gap) > max(_SIGMAS * error, _TOLERANCE * kept.mean()):
        flags.append(
            f"temperature: {what} by {gap:+.3g} K, above {_SIGMAS:g} standard errors; skip more or run longer."
        )
    return flags
