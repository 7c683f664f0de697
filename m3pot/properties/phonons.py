"""Phonons by finite displacements through phonopy (A. Togo, J. Phys. Soc. Jpn. 92, 012001 (2023)), all in one batch.

``method="hessian"`` takes the force constants from the analytic second derivatives of the potential instead.
"""

import dataclasses
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ase import Atoms

from m3pot.potential import Potential
from m3pot.properties.points import Model, evaluator, find, relax_all
from m3pot.relaxation import Options
from m3pot.structure import StructureError, to_atoms
from m3pot.units import GPA

_ACOUSTIC = 1e-3  # THz; modes below, the translations at Gamma, have no part in the thermal sums
_IMAGINARY = -0.1  # THz; below it a mode is unstable, above it the noise of acoustic modes close to Gamma


@dataclasses.dataclass(frozen=True)
class Phonons:
    """Frequencies in THz, imaginary ones negative. q points in fractions of the reciprocal primitive cell."""

    atoms: Atoms  # the unit cell, after relaxation if there was one
    supercell: np.ndarray  # (3, 3) integers
    primitive_atoms: int  # in the primitive cell, to which the thermal properties refer
    force_constants: np.ndarray  # (supercell atoms, supercell atoms, 3, 3) eV/A^2
    frequencies: np.ndarray  # (q, bands) on the mesh
    weights: np.ndarray  # (q,) of the mesh
    band_distances: tuple[np.ndarray, ...]  # of each segment of the path
    band_frequencies: tuple[np.ndarray, ...]  # (points, bands) of each segment
    band_labels: tuple[tuple[str, str], ...]  # of the two ends of each segment
    dos_frequencies: np.ndarray
    dos: np.ndarray  # states per THz and primitive cell
    temperatures: np.ndarray  # K
    heat_capacity: np.ndarray  # J/K/mol of primitive cells, at constant volume
    entropy: np.ndarray  # J/K/mol
    free_energy: np.ndarray  # kJ/mol
    residual: float  # eV/A, largest force on the undisplaced crystal
    evaluations: int  # displaced supercells (0 for the analytic Hessian)

    @property
    def lowest(self) -> float:
        """Lowest frequency on mesh and bands, THz."""
        return float(min(f.min() for f in (self.frequencies, *self.band_frequencies)))

    @property
    def highest(self) -> float:
        """Highest frequency on mesh and bands, THz."""
        return float(max(f.max() for f in (self.frequencies, *self.band_frequencies)))

    @property
    def imaginary(self) -> float:
        """Share of unstable modes (below -0.1 THz) on the mesh."""
        return float(np.average((self.frequencies < _IMAGINARY).mean(axis=1), weights=self.weights))

    @property
    def stable(self) -> bool:
        """No mode below -0.1 THz on mesh or bands."""
        return self.lowest > _IMAGINARY

    @property
    def mean(self) -> float:
        """Mean frequency on the mesh, THz."""
        return float(np.average(self.frequencies.mean(axis=1), weights=self.weights))

    def at_point(self, name: str) -> np.ndarray | None:
        """(bands,) THz at a labelled end of the path, as "Gamma" or "X"; None where the path has no such point."""
        for ends, frequencies in zip(self.band_labels, self.band_frequencies, strict=True):
            for label, found in zip(ends, (frequencies[0], frequencies[-1]), strict=True):
                if re.sub(r"mathrm|[^A-Za-z0-9_]", "", label) == name:
                    return found
        return None

    def at(self, quantity: np.ndarray, temperature: float) -> float:
        """A thermal property at some temperature in K, between the points of the table."""
        return float(np.interp(temperature, self.temperatures, quantity))

    def summary(self) -> dict[str, Any]:
        """One row of a table."""
        return {
            "formula": self.atoms.get_chemical_formula(),
            "supercell": self.supercell.tolist(),
            "supercell_atoms": len(self.force_constants),
            "evaluations": self.evaluations,
            "lowest_THz": self.lowest,
            "highest_THz": self.highest,
            "mean_THz": self.mean,
            "imaginary": self.imaginary,
            "stable": self.stable,
            "heat_capacity_300K": self.at(self.heat_capacity, 300) / self.primitive_atoms,
            "entropy_300K": self.at(self.entropy, 300) / self.primitive_atoms,
            "free_energy_300K": self.at(self.free_energy, 300) / self.primitive_atoms,
            "residual_force": self.residual,
        }


def phonons(
    structure: Any,
    model: Model = None,
    *,
    supercell: Sequence[int] | np.ndarray | None = None,
    min_length: float = 12.0,
    displacement: float = 0.01,
    relax: bool = True,
    method: str = "displacements",
    mesh: float | Sequence[int] = 60.0,
    band_points: int = 51,
    temperatures: Sequence[float] = tuple(range(0, 1001, 10)),
    symprec: float = 1e-4,
    fmax: float = 0.0005,
    steps: int = 500,
    dtype: str = "float64",
    device: Any = None,
    progress: Callable[[int], None] = lambda count: None,
) -> Phonons:
    """Phonon bands, density of states and harmonic thermal properties of a crystal.

    Args:
        structure: ASE Atoms or a pymatgen Structure, periodic in three directions.
        model: a Potential, a name or file, or any ASE calculator; None is the shipped default.
        supercell: repeats of the cell (3,) or matrix (3, 3); None makes each direction at least ``min_length`` A.
            Models with message passing see atoms further than their cutoff: check that longer cells change nothing.
        displacement: A.
        relax: first relax cell and positions within the space group, to ``fmax`` eV/A and 0.01 GPa.
        method: "displacements", or "hessian": analytic second derivatives of a potential.
        mesh: of q points, as in phonopy: a length in A or three numbers.
        band_points: on each segment of the path of seekpath.
        temperatures: K.
        symprec: A, tolerance of the space group.
        fmax, steps: of the relaxation.
        dtype, device: of a potential.
        progress: called with the number of displaced supercells just finished.

    Raises StructureError for a crystal that cannot be evaluated, ModuleNotFoundError without phonopy and seekpath.
    """
    _require()
    if method not in ("displacements", "hessian"):
        raise ValueError(f"Expected method 'displacements' or 'hessian', got {method!r}; choose one of them.")
    found, atoms = find(model), to_atoms(structure).copy()
    atoms.set_constraint()
    if atoms.cell.rank < 3 or not atoms.pbc.all():
        raise StructureError(f"{atoms.symbols} is not periodic in three directions; phonons here need a crystal.")
    if relax:
        options = Options(fmax=fmax, smax=0.01 * GPA, steps=steps, fix_symmetry=True, dtype=dtype, device=device)
        (done,) = relax_all([atoms], found, options)
        if not done.converged:
            raise StructureError(
                f"{atoms.symbols} cannot be relaxed to {fmax} eV/A ({done.status}: {done.reason}); relax it first."
            )
        atoms = done.atoms.copy()
        atoms.set_constraint()
    matrix = _supercell(atoms, supercell, min_length)
    work = _phonopy(atoms, matrix, symprec)
    evaluate = evaluator(found, dtype=dtype, device=device, progress=progress)
    if method == "hessian":
        if not isinstance(found, Potential):
            raise ValueError("The analytic Hessian needs a potential of this package; use method='displacements'.")
        residual, count = _largest(_forces(evaluate([_ase(work.supercell)]))), 0
        work.force_constants = hessian_force_constants(found, _ase(work.supercell), dtype=dtype, device=device)
    else:
        work.generate_displacements(distance=displacement)
        cells = [_ase(cell) for cell in (work.supercell, *work.supercells_with_displacements)]
        forces = _forces(evaluate(cells))
        residual, count = _largest(forces[:1]), len(cells) - 1
        # Forces that remain on the undisplaced crystal are no answer to a displacement.
        work.forces = [force - forces[0] for force in forces[1:]]
        work.produce_force_constants(show_drift=False)
    work.symmetrize_force_constants(show_drift=False)
    return _analyse(work, atoms, matrix, mesh, band_points, temperatures, residual, count)


def hessian_force_constants(
    potential: Potential, atoms: Atoms, *, dtype: str = "float64", device: Any = None
) -> np.ndarray:
    """Analytic second derivatives (n, n, 3, 3) in eV/A^2 of all atoms of a periodic cell."""
    import jax

    from m3pot.execution import find_device, numerics
    from m3pot.graph import as_dtype
    from m3pot.potential import jit_hessian
    from m3pot.structure import from_ase

    graph = from_ase(atoms, potential.cutoff, elements=potential.elements)
    with numerics(dtype):
        placed = jax.device_put(potential.astype(dtype), find_device(device))
        matrix = np.asarray(jit_hessian(placed, as_dtype(graph, dtype)), np.float64)
    return np.ascontiguousarray(matrix.transpose(0, 2, 1, 3))


def _require() -> None:
    import importlib.util

    for name in ("phonopy", "seekpath"):
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(
                f"Phonons need {name}, which is not installed; pip install 'm3pot[phonons]'.", name=name
            )


def _supercell(atoms: Atoms, supercell: Sequence[int] | np.ndarray | None, min_length: float) -> np.ndarray:
    if supercell is None:
        heights = atoms.cell.volume / np.linalg.norm(np.cross(atoms.cell[[1, 2, 0]], atoms.cell[[2, 0, 1]]), axis=1)
        return np.diag(np.maximum(1, np.ceil(min_length / heights - 1e-6)).astype(int))
    matrix = np.asarray(supercell)
    if matrix.shape == (3,):
        matrix = np.diag(matrix)
    if matrix.shape != (3, 3) or (matrix != np.round(matrix)).any() or round(np.linalg.det(matrix)) < 1:
        raise ValueError(f"Expected a supercell of 3 or 3 x 3 integers, got {np.asarray(supercell).tolist()}.")
    return matrix.astype(int)


def _phonopy(atoms: Atoms, matrix: np.ndarray, symprec: float) -> Any:
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    cell = PhonopyAtoms(
        symbols=atoms.get_chemical_symbols(), cell=atoms.cell.array, scaled_positions=atoms.get_scaled_positions()
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # version 4 warns that "auto" has become the default
        return Phonopy(cell, supercell_matrix=matrix, primitive_matrix="auto", symprec=symprec)


def _ase(cell: Any) -> Atoms:
    return Atoms(cell.symbols, cell=cell.cell, scaled_positions=cell.scaled_positions, pbc=True)


def _forces(points: Sequence[Atoms]) -> list[np.ndarray]:
    for point in points:
        if point.calc is None:
            raise StructureError(f"{point.symbols}, a displaced supercell: {point.info['reason']}")
    return [point.calc.results["forces"] for point in points]


def _largest(forces: Sequence[np.ndarray]) -> float:
    return float(np.linalg.norm(np.concatenate(forces), axis=1).max())


def _analyse(
    work: Any,
    atoms: Atoms,
    matrix: np.ndarray,
    mesh: float | Sequence[int],
    band_points: int,
    temperatures: Sequence[float],
    residual: float,
    count: int,
) -> Phonons:
    from phonopy.phonon.band_structure import get_band_qpoints_by_seekpath

    paths, labels, connections = get_band_qpoints_by_seekpath(work.primitive, band_points)
    work.run_band_structure(paths, path_connections=connections, labels=labels)
    bands = work.get_band_structure_dict()
    work.run_mesh(mesh)
    grid = work.get_mesh_dict()
    work.run_total_dos()
    density = work.get_total_dos_dict()
    work.run_thermal_properties(temperatures=temperatures, cutoff_frequency=_ACOUSTIC)
    thermal = work.get_thermal_properties_dict()
    return Phonons(
        atoms=atoms,
        supercell=matrix,
        primitive_atoms=len(work.primitive),
        force_constants=np.asarray(work.force_constants),
        frequencies=np.asarray(grid["frequencies"]),
        weights=np.asarray(grid["weights"]),
        band_distances=tuple(np.asarray(x) for x in bands["distances"]),
        band_frequencies=tuple(np.asarray(x) for x in bands["frequencies"]),
        band_labels=_ends(labels, connections),
        dos_frequencies=np.asarray(density["frequency_points"]),
        dos=np.asarray(density["total_dos"]),
        temperatures=np.asarray(thermal["temperatures"]),
        heat_capacity=np.asarray(thermal["heat_capacity"]),
        entropy=np.asarray(thermal["entropy"]),
        free_energy=np.asarray(thermal["free_energy"]),
        residual=residual,
        evaluations=count,
    )


def _ends(labels: Sequence[str], connections: Sequence[bool]) -> tuple[tuple[str, str], ...]:
    """Labels of both ends of each segment: connected segments share one label in phonopy's list."""
    ends, k = [], 0
    for connected in connections:
        ends.append((labels[k], labels[k + 1]))
        k += 1 if connected else 2
    return tuple(ends)
