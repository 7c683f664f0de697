"""What a trajectory says: structure, diffusion, vibrations, averages with honest errors. numpy only."""

import itertools
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from m3pot.neighbors import neighbor_list
from m3pot.simulate.output import HDF5
from m3pot.units import FEMTOSECOND


class Trajectory(NamedTuple):
    """f frames of n atoms, unwrapped."""

    time: Float[np.ndarray, " f"]  # fs
    positions: Float[np.ndarray, "f n 3"]  # A
    velocities: Float[np.ndarray, "f n 3"]  # A/fs
    cell: Float[np.ndarray, "f 3 3"]  # A
    numbers: Int[np.ndarray, " n"]
    masses: Float[np.ndarray, " n"]  # amu
    pbc: Bool[np.ndarray, "3"]


class Diffusion(NamedTuple):
    """Self-diffusion coefficient."""

    coefficient: float  # A^2/fs; 0.1 cm^2/s each
    error: float  # standard error over blocks of the trajectory
    exponent: float  # d ln msd / d ln t in the fitted window: 1 for diffusion, 0 for a solid


def read(path: str | os.PathLike, replica: int = 0) -> Trajectory:
    """Trajectory written by ``m3pot md``, or any that ASE reads with ``time`` (fs) in ``info``.

    A frame that a killed run has left incomplete at the end is dropped. Raises ValueError if no frame can be read.
    """
    if Path(path).suffix.lower() in HDF5:
        return _read_hdf5(path, replica)
    import ase.io

    frames: list[Any] = []
    try:
        frames.extend(ase.io.iread(path, ":"))
    except Exception as error:  # readers of ASE raise anything
        if not frames:
            raise ValueError(f"{path} cannot be read ({error}); give a trajectory written by `m3pot md`.") from None
    if not frames:
        raise ValueError(f"{path} holds no frame; give a trajectory written by `m3pot md`.")
    if any("time" not in frame.info for frame in frames):
        raise ValueError(f"{path} has frames without a time; give a trajectory written by `m3pot md`.")
    first = frames[0]
    return Trajectory(
        time=np.array([frame.info["time"] for frame in frames], float),
        positions=np.array([frame.positions for frame in frames]),
        velocities=np.array([frame.get_velocities() for frame in frames]) * FEMTOSECOND,
        cell=np.array([frame.cell.array for frame in frames]),
        numbers=first.numbers,
        masses=first.get_masses(),
        pbc=first.pbc,
    )


def _read_hdf5(path: str | os.PathLike, replica: int) -> Trajectory:
    from m3pot.simulate import hdf5

    about, data = hdf5.read_attributes(path), hdf5.read(path)
    fields = {name: data[name][:, replica].astype(float) for name in ("positions", "momenta", "cell")}
    return Trajectory(
        time=data["time"],
        positions=fields["positions"],
        velocities=fields["momenta"] / about["masses"][:, None] * FEMTOSECOND,
        cell=fields["cell"],
        numbers=about["numbers"],
        masses=about["masses"],
        pbc=about["pbc"],
    )


def select(trajectory: Trajectory, frames: Any) -> Trajectory:
    """Some frames, by a slice, a mask or numbers."""
    fields = {name: getattr(trajectory, name)[frames] for name in ("time", "positions", "velocities", "cell")}
    return trajectory._replace(**fields)


def after(trajectory: Trajectory, time: float) -> Trajectory:
    """The part from ``time`` (fs) on."""
    return select(trajectory, trajectory.time >= time)


def even(trajectory: Trajectory) -> Trajectory:
    """The frames up to the first that does not come at the interval of the others: a stopped run ends with one."""
    gaps = np.diff(trajectory.time)
    odd = np.flatnonzero(np.abs(gaps - gaps[:1]) > 1e-6 * np.abs(gaps[:1]))
    return select(trajectory, slice(None if not len(odd) else int(odd[0]) + 1))


def mean_error(series: Float[np.ndarray, " f"]) -> tuple[float, float, float]:
    """Mean, standard error, and correlation time in samples of a stationary series.

    The integrated correlation time sums the autocorrelation up to five of itself (A. Sokal, 1997).
    """
    series = np.asarray(series, float)
    count = len(series)
    centred = series - series.mean()
    variance = centred.var()
    if count < 4 or variance == 0:
        return float(series.mean()), 0.0 if variance == 0 else float("nan"), 1.0
    power = np.abs(np.fft.rfft(centred, 2 * count)) ** 2
    correlation = np.fft.irfft(power)[:count] / (variance * count)
    times = 1 + 2 * np.cumsum(correlation[1:])
    enough = np.flatnonzero(np.arange(1, count) >= 5 * times / 2)
    tau = max(float(times[enough[0]] if len(enough) else times[-1]), 1.0)
    return float(series.mean()), float(np.sqrt(variance * tau / count)), tau


def drift(time: Float[np.ndarray, " f"], series: Float[np.ndarray, " f"]) -> tuple[float, float]:
    """Slope of a straight line through ``series`` over ``time``, and its standard error (correlated residuals)."""
    time = np.asarray(time, float) - np.mean(time)
    spread = (time**2).sum()
    if len(time) < 4 or spread == 0:
        return float("nan"), float("nan")
    slope = (time * series).sum() / spread
    rest = series - np.mean(series) - slope * time
    return float(slope), float(np.sqrt(rest.var() * mean_error(rest)[2] / spread))


def rdf(trajectory: Trajectory, radius: float, bins: int = 200) -> tuple[np.ndarray, dict[tuple[int, int], np.ndarray]]:
    """Bin centres (A) and g(r) of every pair of elements (smaller atomic number first), up to ``radius`` A.

    Needs a volume; g goes to 1 far away, the 1/N of small cells included: images of an atom count as neighbours.
    """
    edges = np.linspace(0, radius, bins + 1)
    volumes = np.abs(np.linalg.det(trajectory.cell))
    if volumes.min() <= 0:
        raise ValueError("g(r) needs a cell with a volume; a molecule has none.")
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    kinds = np.unique(trajectory.numbers)
    table = {pair: np.zeros(bins) for pair in itertools.combinations_with_replacement(kinds.tolist(), 2)}
    for x, h, volume in zip(trajectory.positions, trajectory.cell, volumes, strict=True):
        i, j, shifts = neighbor_list(x, h, trajectory.pbc, radius)
        distances = np.linalg.norm(x[j] - x[i] + shifts @ h, axis=1)
        for a, b in table:
            chosen = (trajectory.numbers[i] == a) & (trajectory.numbers[j] == b)
            pairs = np.sum(trajectory.numbers == a) * np.sum(trajectory.numbers == b)
            table[a, b] += np.histogram(distances[chosen], edges)[0] * volume / (pairs * shells)
    return (edges[1:] + edges[:-1]) / 2, {pair: g / len(trajectory.time) for pair, g in table.items()}


def displacements(trajectory: Trajectory) -> Float[np.ndarray, "f n 3"]:
    """Positions with the motion of the centre of mass taken off."""
    weights = trajectory.masses / trajectory.masses.sum()
    return trajectory.positions - np.einsum("n,fna->fa", weights, trajectory.positions)[:, None]


def msd(trajectory: Trajectory, number: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Lag times (fs) and mean square displacement (A^2) of an element (or all), mean over all time origins.

    By Fourier transform (G. R. Kneller et al., Comput. Phys. Commun. 91, 191 (1995)); frames must be evenly spaced.
    """
    x = displacements(trajectory)
    x = x if number is None else x[:, trajectory.numbers == number]
    count = len(x)
    _spacing(trajectory)
    power = np.abs(np.fft.rfft(x, 2 * count, axis=0)) ** 2
    products = np.fft.irfft(power, axis=0)[:count].sum(-1)
    squares = np.concatenate([(x**2).sum(-1), np.zeros((1, x.shape[1]))])
    total = 2 * squares.sum(0) - np.cumsum(squares[np.r_[-1, 0 : count - 1]] + squares[count - np.arange(count)], 0)
    lags = np.arange(count)
    return trajectory.time - trajectory.time[0], ((total - 2 * products) / (count - lags)[:, None]).mean(1)


def diffusion(trajectory: Trajectory, number: int | None = None, blocks: int = 4) -> Diffusion:
    """Slope of the mean square displacement over 6, fitted between 10 % and 50 % of each of ``blocks`` parts."""
    length = len(trajectory.time) // blocks
    if length < 10:
        raise ValueError(f"Diffusion needs {10 * blocks} frames or more, got {len(trajectory.time)}; run longer.")
    slopes, exponents = [], []
    for k in range(blocks):
        lags, squares = msd(select(trajectory, slice(k * length, (k + 1) * length)), number)
        window = slice(max(1, length // 10), max(length // 2, length // 10 + 3))
        slopes.append(np.polyfit(lags[window], squares[window], 1)[0] / 6)
        exponents.append(np.polyfit(np.log(lags[window]), np.log(np.maximum(squares[window], 1e-12)), 1)[0])
    error = np.std(slopes, ddof=1) / np.sqrt(blocks)
    return Diffusion(float(np.mean(slopes)), float(error), float(np.mean(exponents)))


def vdos(trajectory: Trajectory, width: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies (THz) and vibrational density of states, normalised to 3N: the spectrum of sqrt(m) v.

    ``width`` THz: standard deviation of the Gaussian that smooths it. Frames must be closer than half the shortest
    period, so 10 fs or less for light elements.
    """
    spacing = _spacing(trajectory)
    window = np.hanning(len(trajectory.time))[:, None, None]
    weighted = np.sqrt(trajectory.masses)[:, None] * trajectory.velocities
    count = 2 * len(trajectory.time)
    spectrum = (np.abs(np.fft.rfft(weighted * window, count, axis=0)) ** 2).sum((1, 2))
    frequencies = np.fft.rfftfreq(count, spacing) * 1000
    step = frequencies[1]
    reach = np.arange(-round(4 * width / step), round(4 * width / step) + 1) * step
    kernel = np.exp(-(reach**2) / (2 * width**2))
    smooth = np.convolve(np.concatenate([spectrum[:0:-1], spectrum]), kernel / kernel.sum(), "same")[
        len(spectrum) - 1 :
    ]
    area = smooth.sum() * step
    return frequencies, smooth * 3 * len(trajectory.numbers) / (area if area > 0 else 1)


def broken_bonds(trajectory: Trajectory, stretch: float = 1.5) -> list[tuple[int, int]]:
    """Pairs bonded in the first frame whose distance in the last is more than ``stretch`` times as long.

    Bonded means nearer than 1.2 times the sum of the covalent radii.
    """
    from ase.data import covalent_radii

    radii = covalent_radii[trajectory.numbers]
    i, j, shifts = neighbor_list(trajectory.positions[0], trajectory.cell[0], trajectory.pbc, 2.4 * radii.max())

    def distances(k: int) -> np.ndarray:
        x, h = trajectory.positions[k], trajectory.cell[k]
        return np.linalg.norm(x[j] - x[i] + shifts @ h, axis=1)

    first = distances(0)
    broken = (first < 1.2 * (radii[i] + radii[j])) & (distances(-1) > stretch * first) & (i <= j)
    return sorted({(int(a), int(b)) for a, b in zip(i[broken], j[broken], strict=True)})


def _spacing(trajectory: Trajectory) -> float:
    """Time between frames in fs."""
    gaps = np.diff(trajectory.time)
    if len(gaps) < 2 or np.ptp(gaps) > 1e-6 * gaps.mean():
        raise ValueError("Expected three or more frames at even intervals; see `even`.")
    return float(gaps.mean())
