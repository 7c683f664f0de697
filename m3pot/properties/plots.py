"""Figures of the property commands."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np

from m3pot.properties.dimer import Dimer
from m3pot.properties.eos import EquationOfState
from m3pot.properties.neb import Barrier
from m3pot.properties.phonons import Phonons
from m3pot.train.plots import save
from m3pot.units import GPA


def plot_eos(curves: Sequence[EquationOfState], path: str | PathLike) -> None:
    """Energy per atom against volume per atom: points and fits."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes: Any = figure.subplots()
    for curve in curves:
        if curve.fit is None:
            continue
        n = len(curve.atoms)
        text = f"{curve.atoms.get_chemical_formula()}: V0 {curve.fit.volume / n:.3f} Å³, "
        text += f"B0 {curve.fit.bulk_modulus / GPA:.1f} GPa, B1 {curve.fit.derivative:.2f}"
        (line,) = axes.plot(curve.volumes / n, (curve.energies - curve.fit.energy) / n, "o")
        fine = np.linspace(curve.volumes.min(), curve.volumes.max(), 200)
        label = text if len(curves) <= 8 else None
        axes.plot(fine / n, (curve.fit.energies(fine) - curve.fit.energy) / n, color=line.get_color(), label=label)
    axes.set(xlabel="volume / Å³/atom", ylabel="energy - E0 / eV/atom")
    if axes.lines and len(curves) <= 8:
        axes.legend(fontsize="small")
    save(figure, path)


def plot_dimers(curves: Sequence[Dimer], path: str | PathLike, reference: dict[str, Any] | None = None) -> None:
    """Energy and force of each pair; ``reference``: (distances, energies) by pair, drawn dashed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for curve in curves:
        (line,) = left.plot(curve.distances, curve.energies, label=curve.pair)
        right.plot(curve.distances, curve.forces, color=line.get_color())
        if reference and curve.pair in reference:
            left.plot(*reference[curve.pair], "--", color=line.get_color())
    depth = min([-1.0, *(curve.depth for curve in curves if np.isfinite(curve.depth))])
    left.set(xlabel="distance / Å", ylabel="energy / eV", ylim=(1.2 * depth, -2 * depth))
    right.set(xlabel="distance / Å", ylabel="force / eV/Å (repulsion positive)", ylim=(4 * depth, -8 * depth))
    left.legend(fontsize="small")
    right.axhline(0, color="0.5", linewidth=0.6)
    save(figure, path)


def plot_phonons(found: Phonons, path: str | PathLike) -> None:
    """Bands and density of states."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    ticks, labels = [], []
    for x, bands, ends in zip(found.band_distances, found.band_frequencies, found.band_labels, strict=True):
        left.plot(x, bands, "C0-", linewidth=1)
        for position, label in zip((x[0], x[-1]), ends, strict=True):
            if ticks and abs(ticks[-1] - position) < 1e-9:
                labels[-1] = labels[-1] if labels[-1] == label else f"{labels[-1]}|{label}"
            else:
                ticks.append(position)
                labels.append(label)
    for position in ticks:
        left.axvline(position, color="0.8", linewidth=0.6)
    left.set_xticks(ticks, labels)
    left.set(ylabel="frequency / THz", xlim=(ticks[0], ticks[-1]), title=found.atoms.get_chemical_formula())
    right.fill_betweenx(found.dos_frequencies, found.dos, alpha=0.4)
    right.set(xlabel="states / THz", xlim=(0, None))
    for axes in (left, right):
        axes.axhline(0, color="0.5", linewidth=0.6)
    save(figure, path)


def plot_thermal(found: Phonons, path: str | PathLike) -> None:
    """Heat capacity and entropy against temperature, for each mole of atoms."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes: Any = figure.subplots()
    axes.plot(found.temperatures, found.heat_capacity / found.primitive_atoms, label="heat capacity")
    axes.plot(found.temperatures, found.entropy / found.primitive_atoms, label="entropy")
    axes.axhline(3 * 8.314462618, color="0.6", linestyle=":", label="3 R")
    axes.set(xlabel="temperature / K", ylabel="J/K/mol of atoms")
    axes.legend(fontsize="small")
    save(figure, path)


def plot_tensor(tensor: np.ndarray, title: str, path: str | PathLike) -> None:
    """A (6, 6) elastic tensor in GPa as a coloured matrix."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes: Any = figure.subplots()
    top = float(np.abs(tensor).max())
    axes.imshow(tensor, cmap="RdBu_r", vmin=-top, vmax=top)
    for (i, j), value in np.ndenumerate(tensor):
        if abs(value) > 0.05:
            ink = "white" if abs(value) > 0.7 * top else "black"
            axes.text(j, i, f"{value:.1f}", ha="center", va="center", size=8, color=ink)
    names = ("xx", "yy", "zz", "yz", "xz", "xy")
    axes.set_xticks(range(6), names)
    axes.set_yticks(range(6), names)
    axes.set_title(f"{title}: elastic constants / GPa", fontsize="medium")
    save(figure, path)


def plot_barrier(found: Barrier, path: str | PathLike) -> None:
    """Energy along the path."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes: Any = figure.subplots()
    axes.plot(found.distances, found.energies, "o-")
    axes.set(xlabel="path / Å", ylabel="energy / eV", title=f"barrier {found.forward:.3f} eV")
    save(figure, path)
