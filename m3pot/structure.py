"""ASE Atoms and pymatgen Structure <-> Graph. With calculator.py the only reader of ASE objects."""

from typing import TYPE_CHECKING, Any

import numpy as np

from m3pot.graph import Graph, Properties
from m3pot.neighbors import neighbor_list

if TYPE_CHECKING:
    from ase import Atoms

MAX_ATOMIC_NUMBER = 94  # the embedding tables of all dialects end at Pu
CLASH_DISTANCE = 0.1  # A; closer atoms are an error of the input, not a state of matter


class StructureError(ValueError):
    """A structure that no potential can evaluate; the message says why and what to do."""


def to_atoms(structure: Any) -> "Atoms":
    """ASE Atoms from ASE Atoms or a pymatgen Structure, Molecule or IStructure (ordered sites only)."""
    from ase import Atoms

    if isinstance(structure, Atoms):
        return structure
    if not hasattr(structure, "sites"):
        kind = type(structure).__name__
        raise StructureError(f"Expected ASE Atoms or a pymatgen Structure, got {kind}; convert it first.")
    if not structure.is_ordered:
        raise StructureError(
            f"{structure.composition.reduced_formula} has sites shared by several species; "
            "make an ordered cell first (pymatgen: OrderDisorderedStructureTransformation)."
        )
    from pymatgen.io.ase import AseAtomsAdaptor

    return AseAtomsAdaptor.get_atoms(structure, msonable=False)


def check(atoms: "Atoms", elements: frozenset[int] | None = None) -> None:
    """Raise StructureError unless the structure can be evaluated (``elements``: atomic numbers of the model)."""
    from ase.data import chemical_symbols

    real = len(atoms) and atoms.numbers.min() >= 0 and atoms.numbers.max() < len(chemical_symbols)
    name = atoms.get_chemical_formula() if real else "The structure"
    if len(atoms) == 0:
        raise StructureError("The structure has no atoms; give at least one.")
    if not np.isfinite(atoms.positions).all() or not np.isfinite(atoms.cell.array).all():
        raise StructureError(f"{name} has NaN or infinite positions or cell vectors; repair the input file.")
    unknown = sorted(set(atoms.numbers.tolist()) - set(elements or range(1, MAX_ATOMIC_NUMBER + 1)))
    if unknown:
        listed = ", ".join(chemical_symbols[z] if 0 < z < len(chemical_symbols) else f"Z={z}" for z in unknown)
        raise StructureError(f"{name} has elements that the model does not know: {listed}; choose another model.")
    periodic = atoms.cell.array[atoms.pbc]
    if len(periodic):
        lengths = np.linalg.norm(periodic, axis=1)
        spanned = np.sqrt(max(np.linalg.det(periodic @ periodic.T), 0.0))
        if lengths.min() < CLASH_DISTANCE or spanned < 1e-6 * np.prod(lengths):
            raise StructureError(
                f"{name} is periodic but its lattice vectors span no volume; set a cell or switch pbc off."
            )


def from_ase(
    atoms: "Atoms", cutoff: float, *, elements: frozenset[int] | None = None, dtype: Any = np.float64
) -> Graph:
    """Graph of one structure with exact size (numpy); edges up to ``cutoff`` A.

    Raises StructureError for input that cannot be evaluated, atoms closer than 0.1 A included.
    """
    check(atoms, elements)
    positions = np.array(atoms.positions, np.float64)
    cell = np.array(atoms.cell.array, np.float64)
    receivers, senders, shifts = neighbor_list(positions, cell, atoms.pbc, cutoff)
    if len(receivers):
        vectors = positions[senders] - positions[receivers] + shifts @ cell
        squares = np.einsum("ea,ea->e", vectors, vectors)
        k = squares.argmin()
        if squares[k] < CLASH_DISTANCE**2:
            raise StructureError(
                f"{atoms.get_chemical_formula()}: atoms {receivers[k]} and {senders[k]} are only "
                f"{np.sqrt(squares[k]):.3f} A apart; remove duplicate or overlapping atoms."
            )
    return Graph(
        species=atoms.numbers.astype(np.int32),
        positions=positions.astype(dtype),
        cell=cell[None].astype(dtype),
        owner=np.zeros(len(atoms), np.int32),
        receivers=receivers,
        senders=senders,
        shifts=shifts,
    )


def ase_results(energies: np.ndarray, forces: np.ndarray, stress: np.ndarray, offset: float) -> dict[str, Any] | None:
    """What ASE calls results, of one structure; None if energy or forces are not finite.

    Args:
        energies: (n,) eV, share of each atom; summed in float64.
        forces: (n, 3) eV/A.
        stress: (3, 3) eV/A^3; left out where it is NaN.
        offset: eV, added to the energy of the structure.
    """
    energies, forces, stress = (np.array(x, np.float64) for x in (energies, forces, stress))
    energy = float(energies.sum() + offset)
    if not np.isfinite(energy) or not np.isfinite(forces).all():
        return None
    results = {"energy": energy, "free_energy": energy, "energies": energies, "forces": forces}
    if np.isfinite(stress).all():
        results["stress"] = stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]  # Voigt order xx yy zz yz xz xy
    return results


def labels_from_ase(atoms: "Atoms") -> Properties:
    """Energy, forces and stress that a calculator has attached to ``atoms``; NaN where there is none."""
    results = {} if atoms.calc is None else atoms.calc.results
    n = len(atoms)
    stress = results.get("stress")
    if stress is not None and np.shape(stress) == (6,):
        from ase.stress import voigt_6_to_full_3x3_stress

        stress = voigt_6_to_full_3x3_stress(stress)
    return Properties(
        energy=np.array([results.get("energy", np.nan)], np.float64),
        forces=np.asarray(results.get("forces", np.full((n, 3), np.nan)), np.float64),
        stress=np.full((1, 3, 3), np.nan) if stress is None else np.asarray(stress, np.float64)[None],
        energies=np.asarray(results.get("energies", np.full(n, np.nan)), np.float64),
    )
