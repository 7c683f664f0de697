"""Two atoms in vacuum: energy and force along their distance, and whether the curve makes sense."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii

from m3pot.properties.points import Model, evaluator, find


@dataclasses.dataclass(frozen=True)
class Dimer:
    """One curve; energies relative to the largest distance."""

    pair: str  # as in "Li-F"
    distances: np.ndarray  # (p,) A, ascending
    energies: np.ndarray  # (p,) eV; NaN where the model failed
    forces: np.ndarray  # (p,) eV/A along the bond, positive: repulsion
    reason: str = ""

    @property
    def bond(self) -> float:
        """Distance of the lowest point in A; NaN if that is the first or last one."""
        k = int(np.argmin(np.where(np.isfinite(self.energies), self.energies, np.inf)))
        return float(self.distances[k]) if 0 < k < len(self.distances) - 1 else float("nan")

    @property
    def depth(self) -> float:
        """Energy of the lowest point in eV."""
        return float(np.nanmin(self.energies)) if np.isfinite(self.energies).any() else float("nan")

    @property
    def minima(self) -> int:
        """Number of minima: changes from repulsion to attraction with growing distance."""
        signs = np.sign(self.forces[np.abs(self.forces) > 1e-3])
        return int(((signs[:-1] > 0) & (signs[1:] < 0)).sum())

    @property
    def hole(self) -> float:
        """Largest distance in A, below 0.8 of the sum of covalent radii, where the atoms attract; 0 if nowhere."""
        first, second = (covalent_radii[atomic_numbers[symbol]] for symbol in self.pair.split("-"))
        holes = self.distances[(self.forces < -1e-3) & (self.distances < 0.8 * (first + second))]
        return float(holes.max(initial=0.0))

    @property
    def consistency(self) -> float:
        """Largest difference of the force and the slope of the energy, relative to the largest force below 20 eV/A."""
        small = np.abs(self.forces) < 20
        if small.sum() < 5:
            return float("nan")
        slope = -np.gradient(self.energies, self.distances, edge_order=2)
        inner = small.copy()
        inner[[0, -1]] = False
        return float(np.abs(slope - self.forces)[inner].max() / max(np.abs(self.forces[small]).max(), 1e-3))

    def summary(self) -> dict[str, Any]:
        """One row of a table."""
        if self.reason:
            return {"pair": self.pair, "status": "failed", "reason": self.reason}
        names = ("bond", "depth", "minima", "hole", "consistency")
        return {"pair": self.pair, "status": "done", **{name: getattr(self, name) for name in names}, "reason": ""}


def pair_of(text: str) -> tuple[str, str]:
    """Two symbols of "Li-F" or "Li" (both the same); raises ValueError for anything else."""
    symbols = text.split("-")
    if len(symbols) > 2 or not all(symbol in atomic_numbers and symbol != "X" for symbol in symbols):
        raise ValueError(f"Expected a pair of elements as Li-F, or one element, got {text!r}.")
    return symbols[0], symbols[-1]


def default_distances(first: str, second: str, points: int = 100, longest: float = 6.0) -> np.ndarray:
    """(points,) A from half the sum of the covalent radii to ``longest``, in equal ratios."""
    shortest = 0.5 * (covalent_radii[atomic_numbers[first]] + covalent_radii[atomic_numbers[second]])
    return np.geomspace(shortest, longest, points)


def dimers(
    pairs: Sequence[str],
    model: Model = None,
    *,
    distances: Sequence[Any] | None = None,
    dtype: str = "float64",
    device: Any = None,
    progress: Callable[[int], None] = lambda count: None,
) -> list[Dimer]:
    """Curves of pairs such as "Li-F" or "Li" (homonuclear), all points in the same batches.

    Args:
        pairs: elements.
        model: a Potential, a name or file, or any ASE calculator; None is the shipped default.
        distances: A, for each pair; None is :func:`default_distances`.
        dtype, device: of a potential.
        progress: called with the number of points just finished.
    """
    symbols = [pair_of(pair) for pair in pairs]
    grid = [default_distances(*pair) for pair in symbols] if distances is None else [np.sort(d) for d in distances]
    structures = [Atoms(pair, [[0, 0, 0], [0, 0, r]]) for pair, row in zip(symbols, grid, strict=True) for r in row]
    done = evaluator(find(model), dtype=dtype, device=device, progress=progress)(structures)
    curves, first = [], 0
    for pair, row in zip(symbols, grid, strict=True):
        points, first = done[first : first + len(row)], first + len(row)
        results = [{} if atoms.calc is None else atoms.calc.results for atoms in points]
        energies = np.array([r.get("energy", np.nan) for r in results])
        forces = np.array([r["forces"][1, 2] if r else np.nan for r in results])
        reason = next((atoms.info.get("reason", "") for atoms in points if atoms.calc is None), "")
        curves.append(Dimer("-".join(pair), np.asarray(row), energies - energies[-1], forces, reason))
    return curves
