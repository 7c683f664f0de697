"""Barriers between two minima by ASE's nudged elastic band with one calculator for all images.

G. Henkelman, B. P. Uberuaga and H. Jonsson, J. Chem. Phys. 113, 9901 (2000).
"""

import dataclasses
import itertools
from typing import Any

import numpy as np
from ase import Atoms
from ase.mep import NEB
from ase.optimize import FIRE

from m3pot.calculator import M3PotCalculator
from m3pot.potential import Potential
from m3pot.properties.points import Model, evaluate, find, relax_all
from m3pot.relaxation import Options
from m3pot.structure import StructureError, to_atoms


@dataclasses.dataclass(frozen=True)
class Barrier:
    """The path of lowest energy; energies in eV relative to its first image."""

    images: tuple[Atoms, ...]
    energies: np.ndarray  # (images,) eV
    distances: np.ndarray  # (images,) A along the path
    converged: bool
    steps: int
    fmax: float  # eV/A, largest force across the path

    @property
    def forward(self) -> float:
        """Height seen from the first image, eV."""
        return float(self.energies.max())

    @property
    def backward(self) -> float:
        """Height seen from the last image, eV."""
        return float(self.energies.max() - self.energies[-1])

    def summary(self) -> dict[str, Any]:
        """One row of a table."""
        return {
            "formula": self.images[0].get_chemical_formula(),
            "images": len(self.images),
            "forward": self.forward,
            "backward": self.backward,
            "difference": float(self.energies[-1]),
            "length": float(self.distances[-1]),
            "fmax": self.fmax,
            "steps": self.steps,
            "status": "converged" if self.converged else "max_steps",
        }


def neb(
    start: Any,
    end: Any,
    model: Model = None,
    *,
    images: int = 7,
    relax: bool = True,
    climb: bool = True,
    fmax: float = 0.03,
    steps: int = 500,
    dtype: str = "float64",
    device: Any = None,
) -> Barrier:
    """Barrier between two structures with the same atoms in the same order and the same cell.

    Args:
        start, end: ASE Atoms or pymatgen Structures.
        model: a Potential, a name or file, or any ASE calculator; None is the shipped default.
        images: of the path, both ends included; the path starts from image-dependent pair potentials (IDPP).
        relax: first relax the positions of both ends.
        climb: let the highest image climb to the saddle point.
        fmax, steps: eV/A and moves of all relaxations.
        dtype, device: of a potential.

    Raises StructureError if the two structures do not match, or an end cannot be relaxed.
    """
    found = find(model)
    first, last = to_atoms(start).copy(), to_atoms(end).copy()
    same = len(first) == len(last) and (first.numbers == last.numbers).all()
    if not same or not np.allclose(first.cell.array, last.cell.array, atol=1e-3) or (first.pbc != last.pbc).any():
        raise StructureError(
            f"Expected two structures with the same atoms in the same order and the same cell, got {first.symbols} and "
            f"{last.symbols}; make the end from the start by moving atoms."
        )
    if images < 3:
        raise ValueError(f"Expected at least 3 images, got {images}; ask for more.")
    if relax:
        options = Options(fmax=fmax / 2, steps=steps, cell="fixed", dtype=dtype, device=device)
        ends = relax_all([first, last], found, options)
        for name, result in zip(("start", "end"), ends, strict=True):
            if not result.converged:
                raise StructureError(f"The {name} of the path cannot be relaxed ({result.status}: {result.reason}).")
        first, last = (result.atoms.copy() for result in ends)
    calculator = M3PotCalculator(found, dtype=dtype, device=device) if isinstance(found, Potential) else found
    path = [first, *(first.copy() for _ in range(images - 2)), last]
    for image in path:
        image.calc = calculator
    band = NEB(path, climb=climb, method="improvedtangent", allow_shared_calculator=True)
    band.interpolate("idpp", mic=bool(first.pbc.any()))
    optimizer = FIRE(band, logfile=None)
    converged = bool(optimizer.run(fmax=fmax, steps=steps))
    largest = float(np.linalg.norm(band.get_forces().reshape(-1, 3), axis=1).max())
    done = evaluate(path, found, dtype=dtype, device=device)
    energies = np.array([image.calc.results["energy"] for image in done])
    hops = [np.linalg.norm(b.positions - a.positions) for a, b in itertools.pairwise(done)]
    distances = np.cumsum([0.0, *hops])
    return Barrier(tuple(done), energies - energies[0], distances, converged, optimizer.nsteps, largest)
