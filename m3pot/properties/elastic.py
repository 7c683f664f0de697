"""Elastic constants by stress against strain, with the symmetry of the crystal, and what follows from them.

Averages: R. Hill, Proc. Phys. Soc. A 65, 349 (1952); stability: F. Mouhat and F.-X. Coudert, Phys. Rev. B 90, 224104
(2014); anisotropy: S. I. Ranganathan and M. Ostoja-Starzewski, Phys. Rev. Lett. 101, 055504 (2008).
"""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress

from m3pot.properties.points import Model, evaluate, find, relax_all
from m3pot.relaxation import Options
from m3pot.structure import StructureError, to_atoms
from m3pot.units import GPA

_VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
_STEPS = np.array([-2, -1, 1, 2])
_WEIGHTS = np.array([1, -8, 8, -1]) / 12  # central difference of fourth order


@dataclasses.dataclass(frozen=True)
class Elasticity:
    """Elastic tensor of one crystal in its own Cartesian frame."""

    atoms: Atoms  # the undeformed crystal, after relaxation if there was one
    tensor: np.ndarray  # (6, 6) eV/A^3, Voigt order xx yy zz yz xz xy, engineering shear strains
    spacegroup: str
    asymmetry: float  # largest part that symmetry forbids, relative to the largest constant: the numerical noise
    residual: float  # eV/A^3, largest stress of the undeformed crystal
    reason: str = ""  # a warning, if any

    @property
    def compliance(self) -> np.ndarray:
        """(6, 6) A^3/eV."""
        return np.linalg.inv(self.tensor)

    @property
    def eigenvalues(self) -> np.ndarray:
        """(6,) eV/A^3, ascending, in the orthonormal (Mandel) basis of strains."""
        weight = np.sqrt([1, 1, 1, 2, 2, 2])
        return np.linalg.eigvalsh(self.tensor * np.outer(weight, weight))

    @property
    def stable(self) -> bool:
        """Born's criterion: every strain costs energy."""
        return bool(self.eigenvalues[0] > 0)

    @property
    def bulk_voigt(self) -> float:
        """K of uniform strain, eV/A^3."""
        return float(self.tensor[:3, :3].sum() / 9)

    @property
    def bulk_reuss(self) -> float:
        """K of uniform stress, eV/A^3."""
        return float(1 / self.compliance[:3, :3].sum())

    @property
    def bulk(self) -> float:
        """K after Hill, eV/A^3."""
        return (self.bulk_voigt + self.bulk_reuss) / 2

    @property
    def shear_voigt(self) -> float:
        """G of uniform strain, eV/A^3."""
        c = self.tensor
        return float((np.trace(c[:3, :3]) - c[0, 1] - c[1, 2] - c[0, 2] + 3 * np.trace(c[3:, 3:])) / 15)

    @property
    def shear_reuss(self) -> float:
        """G of uniform stress, eV/A^3."""
        s = self.compliance
        return float(15 / (4 * (np.trace(s[:3, :3]) - s[0, 1] - s[1, 2] - s[0, 2]) + 3 * np.trace(s[3:, 3:])))

    @property
    def shear(self) -> float:
        """G after Hill, eV/A^3."""
        return (self.shear_voigt + self.shear_reuss) / 2

    @property
    def young(self) -> float:
        """E of the isotropic average, eV/A^3."""
        return 9 * self.bulk * self.shear / (3 * self.bulk + self.shear)

    @property
    def poisson(self) -> float:
        """Poisson's ratio of the isotropic average."""
        return (3 * self.bulk - 2 * self.shear) / (2 * (3 * self.bulk + self.shear))

    @property
    def anisotropy(self) -> float:
        """Universal anisotropy index, 0 for an isotropic solid."""
        return 5 * self.shear_voigt / self.shear_reuss + self.bulk_voigt / self.bulk_reuss - 6

    def summary(self) -> dict[str, Any]:
        """One row of a table, moduli in GPa; the tensor (GPa) under "tensor_GPa"."""
        moduli = ("bulk", "bulk_voigt", "bulk_reuss", "shear", "shear_voigt", "shear_reuss", "young")
        return {
            "formula": self.atoms.get_chemical_formula(),
            "spacegroup": self.spacegroup,
            **{f"{name}_GPa": getattr(self, name) / GPA for name in moduli},
            "poisson": self.poisson,
            "anisotropy": self.anisotropy,
            "stable": self.stable,
            "asymmetry": self.asymmetry,
            "residual_GPa": self.residual / GPA,
            "tensor_GPa": (self.tensor / GPA).tolist(),
            "reason": self.reason,
        }


def elastic(
    structure: Any,
    model: Model = None,
    *,
    strain: float = 0.005,
    relax: bool = True,
    relax_ions: bool = True,
    symprec: float = 0.01,
    fmax: float = 0.001,
    steps: int = 500,
    dtype: str = "float64",
    device: Any = None,
    progress: Callable[[int], None] = lambda count: None,
) -> Elasticity:
    """Elastic tensor from 24 strained cells in the same batches.

    Args:
        structure: ASE Atoms or a pymatgen Structure, periodic in three directions.
        model: a Potential, a name or file, or any ASE calculator; None is the shipped default.
        strain: each of the six strains takes the values -2, -1, 1 and 2 times this.
        relax: first relax cell and positions within the space group, to ``fmax`` eV/A and 0.01 GPa.
        relax_ions: let the atoms follow each strain; False: clamped ions.
        symprec: A, tolerance of the space group.
        fmax, steps: of all relaxations.
        dtype, device: of a potential.
        progress: called with 24 once the strained cells are done.

    Raises StructureError if the crystal or a strained cell cannot be evaluated.
    """
    found, atoms = find(model), to_atoms(structure).copy()
    atoms.set_constraint()
    if atoms.cell.rank < 3 or not atoms.pbc.all():
        raise StructureError(f"{atoms.symbols} is not periodic in three directions; elastic constants need a crystal.")
    notes = []
    if relax:
        options = Options(
            fmax=fmax, smax=0.01 * GPA, steps=steps, fix_symmetry=True, symprec=symprec, dtype=dtype, device=device
        )
        (done,) = relax_all([atoms], found, options)
        if not done.evaluated or done.status not in ("converged", "max_steps"):
            raise StructureError(f"{atoms.symbols} cannot be relaxed ({done.status}: {done.reason}); relax it first.")
        if not done.converged:
            notes.append(f"the crystal is not relaxed: {done.reason}")
        atoms = done.atoms.copy()
        atoms.set_constraint()
    (still,) = evaluate([atoms], found, dtype=dtype, device=device)
    residual = float(np.abs(_stress(still)).max())
    strained = [deformed(atoms, k, factor * strain) for k in range(6) for factor in _STEPS]
    if relax_ions and len(atoms) > 1:
        options = Options(fmax=fmax, steps=steps, cell="fixed", dtype=dtype, device=device, repair=False)
        results = relax_all(strained, found, options)
        bad = [result for result in results if not result.converged]
        if any(not result.evaluated or result.status != "max_steps" for result in bad):
            raise StructureError(f"{atoms.symbols}, strained: {bad[0].status} ({bad[0].reason}); use a smaller strain.")
        if bad:
            notes.append(f"{len(bad)} of 24 strained cells are not relaxed to {fmax} eV/A")
        points = [result.atoms for result in results]
    else:
        points = evaluate(strained, found, dtype=dtype, device=device)
    progress(len(strained))
    stress = np.array([_stress(point) for point in points]).reshape(6, len(_STEPS), 6)
    raw = np.einsum("s,ksi->ik", _WEIGHTS, stress) / strain
    if not np.isfinite(raw).all():
        raise StructureError(f"The model gives no stress for {atoms.symbols}; elastic constants need it.")
    rotations, spacegroup = point_group(atoms, symprec)
    tensor = symmetrised(raw, rotations)
    asymmetry = float(np.abs(raw - tensor).max() / np.abs(tensor).max())
    if residual > 0.5 * GPA:
        notes.append(f"the undeformed crystal is under stress ({residual / GPA:.2f} GPa); relax it first")
    return Elasticity(atoms, tensor, spacegroup, asymmetry, residual, "; ".join(notes))


def deformed(atoms: Atoms, component: int, amount: float) -> Atoms:
    """A copy under one engineering strain (Voigt component 0 to 5), atoms following."""
    i, j = _VOIGT[component]
    strain = np.zeros((3, 3))
    strain[i, j] += amount / 2
    strain[j, i] += amount / 2
    copy = atoms.copy()
    copy.calc = None
    copy.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return copy


def point_group(atoms: Atoms, symprec: float = 0.01) -> tuple[np.ndarray, str]:
    """Cartesian rotations (k, 3, 3) of the crystal, and the name of its space group."""
    import spglib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # on how errors will be raised in later versions
        cell = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
        data = spglib.get_symmetry_dataset(cell, symprec=symprec)
    if data is None:
        return np.eye(3)[None], "P1"
    columns = atoms.cell.array.T
    rotations = columns @ np.unique(data.rotations, axis=0) @ np.linalg.inv(columns)
    return rotations, f"{data.international} ({data.number})"


def symmetrised(tensor: np.ndarray, rotations: np.ndarray) -> np.ndarray:
    """A (6, 6) Voigt tensor with its index symmetry, averaged over the rotations (k, 3, 3)."""
    index = np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]])
    full = ((tensor + tensor.T) / 2)[index[:, :, None, None], index[None, None]]
    turned = np.einsum("kai,kbj,kcm,kdn,ijmn->abcd", *[rotations] * 4, full, optimize=True) / len(rotations)
    rows, columns = np.array(_VOIGT).T
    return turned[rows[:, None], columns[:, None], rows[None], columns[None]]


def _stress(atoms: Atoms) -> np.ndarray:
    """(6,) eV/A^3, NaN without."""
    stress = atoms.calc.results.get("stress", np.full(6, np.nan))
    return full_3x3_to_voigt_6_stress(stress) if np.shape(stress) == (3, 3) else np.asarray(stress)
