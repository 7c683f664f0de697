"""What a relaxation returns."""

import dataclasses
from typing import Any

import numpy as np
from ase import Atoms

from m3pot.units import GPA

STATUSES = (
    "converged",
    "max_steps",
    "nan",
    "clash",
    "exploded",
    "unsupported_element",
    "too_large",
    "failed",
)


@dataclasses.dataclass(frozen=True)
class Relaxed:
    """One structure after relaxation.

    ``atoms`` carries energy, energies, forces and stress as ASE results if there was an evaluation, and is the input
    where nothing could be done. ``status``: converged; max_steps; nan (the input or the potential gave NaN);
    clash (atoms on top of each other); exploded (the volume left its limits); unsupported_element; too_large; failed.
    """

    atoms: Atoms
    status: str
    steps: int = 0  # moves; the potential was evaluated once more
    energy: float = float("nan")  # eV
    fmax: float = float("nan")  # eV/A, largest force on an atom that may move
    smax: float = float("nan")  # eV/A^3, largest component of stress + pressure that may relax
    reason: str = ""
    index: int = 0  # in the input
    volume_change: float = float("nan")  # volume / volume at the start - 1
    displacement: float = float("nan")  # A, root mean square move of atoms at fixed cell, without a common translation
    trajectory: tuple[Atoms, ...] = ()

    @property
    def converged(self) -> bool:
        """True if forces and stress are below their limits."""
        return self.status == "converged"

    @property
    def evaluated(self) -> bool:
        """True if the potential was evaluated at ``atoms``, whose results are ours then."""
        return bool(np.isfinite(self.energy))

    @property
    def final_structure(self) -> Any:
        """The result as a pymatgen Structure, or a Molecule if nothing is periodic."""
        from pymatgen.io.ase import AseAtomsAdaptor

        bare = Atoms(self.atoms.numbers, self.atoms.positions, cell=self.atoms.cell, pbc=self.atoms.pbc)
        if not bare.pbc.any():
            return AseAtomsAdaptor.get_molecule(bare)
        return AseAtomsAdaptor.get_structure(bare)

    def summary(self) -> dict[str, Any]:
        """One row of a table; stress in GPa."""
        finite = lambda value, digits: round(value, digits) if np.isfinite(value) else None  # noqa: E731
        return {
            "formula": self.atoms.get_chemical_formula(),
            "atoms": len(self.atoms),
            "status": self.status,
            "steps": self.steps,
            "energy": finite(self.energy, 6),
            "energy_per_atom": finite(self.energy / max(len(self.atoms), 1), 6),
            "fmax": finite(self.fmax, 5),
            "smax_GPa": finite(self.smax / GPA, 4),
            "volume_change": finite(self.volume_change, 5),
            "rmsd": finite(self.displacement, 4),
            "reason": self.reason,
        }

    def __getitem__(self, key: str) -> Any:
        """The same by name, as MatGL users write it: final_structure, trajectory, energy, converged ..."""
        if key not in {field.name for field in dataclasses.fields(self)} | {"final_structure", "converged"}:
            raise KeyError(key)
        return getattr(self, key)
