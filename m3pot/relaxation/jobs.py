"""One structure on its way through the engine, as the host sees it: prepared, followed, and turned into a result."""

import dataclasses
from typing import Any

import numpy as np
import scipy.linalg
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian

from m3pot.neighbors import neighbor_list
from m3pot.potential import Potential
from m3pot.relaxation import slots as code
from m3pot.relaxation.cell import strain_projector
from m3pot.relaxation.coordinates import Vector
from m3pot.relaxation.options import Options
from m3pot.relaxation.results import Relaxed
from m3pot.relaxation.screening import Refused, part, screen
from m3pot.relaxation.slots import AtomSlots, Slots
from m3pot.relaxation.symmetry import OPERATIONS, Operations, find_operations
from m3pot.structure import StructureError, ase_results, to_atoms


@dataclasses.dataclass(eq=False)
class Job:
    """Mutable: where one structure stands."""

    index: int
    atoms: Atoms  # as given
    note: str  # what was repaired
    offset: np.ndarray  # (n, 3) A, taken off the positions in the frame of the starting cell
    slots: Slots  # numpy; out of date while the structure sits in a batch
    positions: np.ndarray  # (n, 3) A, without the offset, where the next evaluation happens
    cell: np.ndarray  # (3, 3) A
    edges: tuple[np.ndarray, np.ndarray, np.ndarray]
    frames: list[Atoms] = dataclasses.field(default_factory=list)

    @property
    def load(self) -> int:
        """Number of edges."""
        return len(self.edges[0])

    def move(self, positions: np.ndarray, cell: np.ndarray) -> None:
        """Note a new geometry."""
        self.positions, self.cell = positions, cell

    def make_edges(self, reach: float) -> None:
        """Edges of the present geometry up to ``reach`` A."""
        if np.isfinite(self.positions).all() and np.isfinite(self.cell).all():
            self.edges = neighbor_list(self.positions, self.cell, self.atoms.pbc, reach)

    def record(self, slots: Slots, offset: float) -> None:
        """Keep the geometry of the last evaluation with its results; ``slots`` of this structure alone."""
        old, new = self.atoms.cell.array[self.atoms.pbc], self.cell[self.atoms.pbc]
        deformation = np.eye(3) + np.linalg.pinv(old) @ (new - old)  # leaves directions without period alone
        positions = self.positions + self.offset @ deformation
        self.frames.append(_with_results(self.atoms, positions, self.cell, slots, offset))


def prepare(index: int, structure: Any, potential: Potential, options: Options, reach: float) -> Job:
    """Check, repair and translate a structure. Raises Refused or StructureError for one that cannot be relaxed."""
    atoms = to_atoms(structure)
    screen(atoms, potential.elements, options.max_atoms)
    movable = _movable(atoms)
    start, note = part(atoms, movable) if options.repair else (atoms, "")
    if options.cell == "volume":
        movable = np.zeros_like(movable)
    operations = find_operations(start, options.symprec) if options.fix_symmetry else None
    positions = start.positions if operations is None else operations.positions
    offset = _offset(positions, start)
    slots = _slots(start, positions - offset, movable, operations, options)
    job = Job(index, atoms, note, offset, slots, positions - offset, start.cell.array.copy(), _NO_EDGES)
    job.make_edges(reach)
    return job


_NO_EDGES = np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros((0, 3), np.int32)


def _movable(atoms: Atoms) -> np.ndarray:
    movable = np.ones((len(atoms), 3))
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            movable[constraint.index] = 0
        elif isinstance(constraint, FixCartesian):
            movable[np.asarray(constraint.index)] *= ~np.asarray(constraint.mask, bool)
        else:
            raise Refused(
                "failed",
                f"the batched relaxation knows FixAtoms and FixCartesian, not {type(constraint).__name__}; "
                "use an ASE optimiser with M3PotCalculator (m3pot relax --engine ase).",
            )
    return movable


def _offset(positions: np.ndarray, atoms: Atoms) -> np.ndarray:
    """Lattice translations and the centre: coordinates stay small, so that float32 loses no digits."""
    cell, pbc = atoms.cell.array, atoms.pbc
    home = np.zeros_like(positions)
    if pbc.any():
        home[:, pbc] = np.floor(positions @ np.linalg.pinv(cell[pbc]) + 1e-9)
    translation = home @ cell
    return translation + (positions - translation).mean(axis=0)


def _slots(
    atoms: Atoms, positions: np.ndarray, movable: np.ndarray, operations: Operations | None, options: Options
) -> Slots:
    n, g, kind = len(atoms), OPERATIONS if options.fix_symmetry else 0, np.dtype(options.dtype)
    images, rotations, weights = np.zeros((n, g), np.int32), np.zeros((1, g, 3, 3), kind), np.zeros((1, g), kind)
    point_group = None
    if operations is not None:
        order = len(operations.rotations)
        images[:, :order], weights[0, :order] = operations.images.T, 1 / order
        rotations[0, :order] = operations.rotations
        point_group = operations.rotations
    method = options.method()
    projector = strain_projector(
        options.cell, atoms.cell.array, atoms.pbc, options.mask, point_group, turning=method.turning
    )
    x = Vector(positions.astype(kind), np.zeros((1, 3, 3), kind))
    return Slots(
        atoms=AtomSlots(
            species=atoms.numbers.astype(np.int32),
            movable=movable.astype(kind),
            images=images,
            forces=np.full((n, 3), np.nan, kind),
            energies=np.zeros(n, kind),
        ),
        start=atoms.cell.array[None].astype(kind),
        projector=projector[None].astype(kind),
        rotations=rotations,
        weights=weights,
        x=x,
        state=method.init(x),
        reference=x,
        status=np.array([code.RUNNING], np.int32),
        stale=np.array([True]),
        steps=np.zeros(1, np.int32),
        stress=np.full((1, 3, 3), np.nan, kind),
        fmax=np.full(1, np.nan, kind),
        smax=np.full(1, np.nan, kind),
    )


def refuse(index: int, structure: Any, error: Exception) -> Relaxed:
    """The result for a structure that :func:`prepare` would not take."""
    try:
        atoms = to_atoms(structure).copy()
    except StructureError:
        atoms = Atoms()
    if isinstance(error, Refused):
        return Relaxed(atoms, error.status, reason=str(error), index=index)
    reason = str(error) if isinstance(error, StructureError) else f"{type(error).__name__}: {error}"
    return Relaxed(atoms, "failed", reason=reason, index=index)


def finish(job: Job, options: Options, offset: float) -> Relaxed:
    """The result of a job whose slots are up to date; ``offset`` of the potential, eV per structure."""
    slots = job.slots
    logarithm = np.asarray(slots.x.cell[0], np.float64)
    deformation = scipy.linalg.expm(logarithm) if np.isfinite(logarithm).all() else logarithm
    positions = (slots.x.atoms + job.offset) @ deformation
    status, reason = _verdict(job, options)
    if not np.isfinite(positions).all():
        return Relaxed(job.atoms, status, int(slots.steps[0]), reason=reason, index=job.index)
    cell = job.atoms.cell.array @ deformation
    atoms = _with_results(job.atoms, positions, cell, slots, offset)
    move = slots.x.atoms + job.offset - job.atoms.positions
    move = move - move.mean(axis=0)
    return Relaxed(
        atoms=atoms,
        status=status,
        steps=int(slots.steps[0]),
        energy=float(atoms.calc.results["energy"]) if atoms.calc else float("nan"),
        fmax=float(slots.fmax[0]),
        smax=float(slots.smax[0]),
        reason="; ".join(filter(None, [reason, job.note])),
        index=job.index,
        volume_change=float(np.linalg.det(deformation)) - 1,
        displacement=float(np.sqrt((move**2).sum(axis=1).mean())),
        trajectory=tuple(job.frames),
    )


def _with_results(template: Atoms, positions: np.ndarray, cell: np.ndarray, slots: Slots, offset: float) -> Atoms:
    atoms = template.copy()
    atoms.set_cell(cell)
    atoms.set_positions(positions, apply_constraint=False)
    results = ase_results(slots.atoms.energies, slots.atoms.forces, slots.stress[0], offset)
    if results is not None:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def _verdict(job: Job, options: Options) -> tuple[str, str]:
    status, steps = int(job.slots.status[0]), int(job.slots.steps[0])
    fmax, smax = float(job.slots.fmax[0]), float(job.slots.smax[0])
    if status == code.CONVERGED:
        return "converged", ""
    if status == code.MAX_STEPS:
        return "max_steps", f"not converged in {steps} steps: fmax {fmax:.3g} eV/A, smax {smax:.3g} eV/A^3"
    if status == code.NAN:
        return "nan", f"the potential gave NaN or infinity after {steps} steps; check the starting geometry"
    if status == code.CLASH:
        return "clash", f"atoms fell onto each other after {steps} steps: the potential has a hole there"
    factor = float(np.exp(np.trace(job.slots.x.cell[0])))
    limit = options.max_volume_factor
    return "exploded", f"the volume changed by a factor of {factor:.3g} in {steps} steps; the limit is {limit:g}"
