"""Equations of state: energy against volume, and the fit of Birch and Murnaghan.

F. Birch, Phys. Rev. 71, 809 (1947); the fit is linear in powers of V^(-2/3), as in K. Lejaeghere et al.,
Science 351, aad3000 (2016).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms

from m3pot.properties.points import Model, evaluator, find, relax_all
from m3pot.relaxation import Options
from m3pot.structure import to_atoms
from m3pot.units import GPA


class BirchMurnaghan(NamedTuple):
    """Third-order Birch-Murnaghan equation of state."""

    volume: float  # V0, A^3
    energy: float  # eV at V0
    bulk_modulus: float  # B0, eV/A^3
    derivative: float  # B1 = dB/dp at V0

    def energies(self, volumes: Any) -> np.ndarray:
        """E(V) in eV = E0 + 9/16 V0 B0 ((x - 1)^3 B1 + (x - 1)^2 (6 - 4 x)) with x = (V0/V)^(2/3)."""
        x = (self.volume / np.asarray(volumes, np.float64)) ** (2 / 3)
        bracket = (x - 1) ** 3 * self.derivative + (x - 1) ** 2 * (6 - 4 * x)
        return self.energy + 9 / 16 * self.volume * self.bulk_modulus * bracket


def fit_birch_murnaghan(volumes: Any, energies: Any) -> BirchMurnaghan:
    """Least squares through (p,) volumes in A^3 and energies in eV; raises ValueError where there is no minimum."""
    volumes, energies = np.asarray(volumes, np.float64), np.asarray(energies, np.float64)
    if len(volumes) < 4:
        raise ValueError(f"Expected at least 4 volumes for an equation of state, got {len(volumes)}; add points.")
    middle = volumes.mean()  # scaled, so that the powers are of order 1
    curve = np.polynomial.Polynomial.fit((volumes / middle) ** (-2 / 3), energies, 3).convert()
    slope, second, third = curve.deriv(1), curve.deriv(2), curve.deriv(3)
    minima = [x.real for x in slope.roots() if abs(x.imag) < 1e-12 and x.real > 0 and second(x.real) > 0]
    if not minima:
        raise ValueError("The energy has no minimum in the volume; scan other volumes, or the crystal is not bound.")
    x = min(minima, key=lambda x: abs(x - 1))
    # In units of the middle volume: x = V^(-2/3), dx/dV = -2/3 x^(5/2).
    second_v = 4 / 9 * x**5 * second(x)
    third_v = -20 / 9 * x**6.5 * second(x) - 8 / 27 * x**7.5 * third(x)
    volume = x**-1.5
    return BirchMurnaghan(
        volume=float(volume * middle),
        energy=float(curve(x)),
        bulk_modulus=float(volume * second_v / middle),
        derivative=float(-1 - volume * third_v / second_v),
    )


@dataclasses.dataclass(frozen=True)
class EquationOfState:
    """One crystal. ``fit`` is None where ``reason`` says why."""

    atoms: Atoms  # at the reference volume
    volumes: np.ndarray  # (p,) A^3
    energies: np.ndarray  # (p,) eV; NaN where the model failed
    pressures: np.ndarray  # (p,) eV/A^3, from the stress; NaN where the model has none
    fit: BirchMurnaghan | None
    reason: str = ""

    @property
    def inside(self) -> bool:
        """True if the minimum lies within the volumes of the scan."""
        return self.fit is not None and bool(self.volumes.min() <= self.fit.volume <= self.volumes.max())

    @property
    def residual(self) -> float:
        """Root mean square distance of the points from the fit, eV per atom."""
        if self.fit is None:
            return float("nan")
        return float(np.sqrt(np.mean((self.fit.energies(self.volumes) - self.energies) ** 2)) / len(self.atoms))

    def summary(self) -> dict[str, Any]:
        """One row of a table: per-atom volume and energy, modulus in GPa."""
        n, fit = len(self.atoms), self.fit
        row = {"formula": self.atoms.get_chemical_formula(), "atoms": n, "status": "done" if fit else "failed"}
        if fit is not None:
            row |= {
                "V0": fit.volume,
                "V0_per_atom": fit.volume / n,
                "E0_per_atom": fit.energy / n,
                "B0_GPa": fit.bulk_modulus / GPA,
                "B1": fit.derivative,
                "residual_meV": self.residual * 1000,
                "inside": self.inside,
            }
        return row | {"reason": self.reason}


def scaled(atoms: Atoms, volume: float) -> Atoms:
    """A copy with the volume in A^3, isotropic, at fixed fractional coordinates."""
    copy = atoms.copy()
    copy.calc = None
    copy.set_constraint()
    copy.set_cell(atoms.cell.array * (volume / atoms.cell.volume) ** (1 / 3), scale_atoms=True)
    return copy


def eos(
    structures: Any,
    model: Model = None,
    *,
    strain: float = 0.06,
    points: int = 7,
    volumes: Sequence[Sequence[float]] | None = None,
    relax: str = "none",
    fmax: float = 0.005,
    steps: int = 300,
    dtype: str = "float64",
    device: Any = None,
    progress: Callable[[int], None] = lambda count: None,
) -> list[EquationOfState]:
    """Energy against volume of crystals, all volumes of all crystals in the same batches, and V0, B0, B1.

    Args:
        structures: ASE Atoms or pymatgen Structures with a cell; one alone counts as a list of one.
        model: a Potential, a name or file, or any ASE calculator; None is the shipped default.
        strain: the scan goes from 1 - strain to 1 + strain of the volume given,
        points: in so many equal steps.
        volumes: A^3, of each structure instead.
        relax: at each volume: "none" scales all positions, "ions" relaxes the positions, "shape" the cell too.
        fmax, steps: of these relaxations, eV/A.
        dtype, device: of a potential.
        progress: called with the number of volumes just finished.

    Raises ValueError for impossible choices and for structures without volume. A crystal that fails stops no other.
    """
    if relax not in ("none", "ions", "shape"):
        raise ValueError(f"Expected relax 'none', 'ions' or 'shape', got {relax!r}; choose one of them.")
    if points < 4 or not 0 < strain < 0.9:
        raise ValueError(f"Expected 4 points or more and a strain of 0 to 0.9, got {points} and {strain}.")
    if isinstance(structures, Atoms) or hasattr(structures, "sites"):
        structures = [structures]
    crystals = [to_atoms(structure) for structure in structures]
    for atoms in crystals:
        if atoms.cell.rank < 3 or not atoms.pbc.all():
            raise ValueError(
                f"{atoms.get_chemical_formula()} is not periodic in three directions; "
                "an equation of state needs a crystal."
            )
    if volumes is None:
        factors = np.linspace(1 - strain, 1 + strain, points)
        volumes = [factors * atoms.cell.volume for atoms in crystals]
    grid = [np.asarray(row, np.float64) for row in volumes]
    cells = [scaled(atoms, volume) for atoms, row in zip(crystals, grid, strict=True) for volume in row]
    found = find(model)
    if relax == "none":
        done = evaluator(found, dtype=dtype, device=device, progress=progress)(cells)
    else:
        mode = "fixed" if relax == "ions" else "shape"
        options = Options(fmax=fmax, steps=steps, cell=mode, dtype=dtype, device=device, repair=False)
        done = [_checked(result, progress) for result in relax_all(cells, found, options)]
    results, first = [], 0
    for atoms, row in zip(crystals, grid, strict=True):
        results.append(_equation(atoms, row, done[first : first + len(row)]))
        first += len(row)
    return results


def _checked(result: Any, progress: Callable[[int], None]) -> Atoms:
    progress(1)
    if result.converged:
        return result.atoms
    failed = result.atoms.copy()  # without results
    failed.info["reason"] = f"{result.status}: {result.reason}"
    return failed


def _equation(atoms: Atoms, volumes: np.ndarray, points: Sequence[Atoms]) -> EquationOfState:
    results = [{} if point.calc is None else point.calc.results for point in points]
    energies = np.array([r.get("energy", np.nan) for r in results])
    pressures = np.array([-np.mean(r["stress"][:3]) if "stress" in r else np.nan for r in results])
    fit, reason = None, next((point.info.get("reason", "") for point in points if point.calc is None), "")
    if not reason:
        try:
            fit = fit_birch_murnaghan(volumes, energies)
        except ValueError as error:
            reason = str(error)
    return EquationOfState(atoms, volumes, energies, pressures, fit, reason)
