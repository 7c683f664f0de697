"""One structure through ASE's own optimisers, for constraints that the batched loop does not know."""

from typing import Any

import ase.optimize
import numpy as np
from ase import Atoms
from ase.calculators.calculator import CalculationFailed
from ase.filters import FrechetCellFilter
from ase.stress import voigt_6_to_full_3x3_stress

from m3pot.data.calculators import compute
from m3pot.relaxation.cell import strain_projector
from m3pot.relaxation.options import Options
from m3pot.relaxation.results import Relaxed
from m3pot.relaxation.screening import Refused, part, screen
from m3pot.structure import StructureError

OPTIMIZERS = {"fire": ase.optimize.FIRE, "lbfgs": ase.optimize.LBFGS}


def relax_with_ase(
    structure: Atoms, calculator: Any, options: Options, *, index: int = 0, elements: frozenset[int] | None = None
) -> Relaxed:
    """Relax a copy of ``structure`` with any of ASE's constraints; stops by the same limits on forces and stress.

    ``options`` as for the batched loop: fmax, smax, steps, cell, mask, pressure, minimizer "fire" or "lbfgs",
    fix_symmetry, repair. ``calculator`` is any ASE calculator with stress.
    """
    atoms, note = structure.copy(), ""
    try:
        screen(atoms, elements or frozenset(range(1, 119)), options.max_atoms)
        if options.repair:
            atoms, note = part(atoms, np.ones((len(atoms), 3)))
    except Refused as error:
        return Relaxed(structure, error.status, reason=str(error), index=index)
    if options.fix_symmetry:
        from ase.constraints import FixSymmetry

        atoms.set_constraint([*atoms.constraints, FixSymmetry(atoms, symprec=options.symprec)])
    atoms.calc = calculator
    start = atoms.copy()
    projector = strain_projector(options.cell, atoms.cell.array, atoms.pbc, options.mask)
    optimizer = OPTIMIZERS[str(options.minimizer).lower()](_filtered(atoms, options, projector), logfile=None)
    steps, state = 0, (float("nan"), float("nan"))
    try:
        for _ in optimizer.irun(fmax=0.0, steps=options.steps):
            steps, state = optimizer.nsteps, _residuals(atoms, projector, options.pressure)
            if state[0] < options.fmax and state[1] < options.smax:
                break
    except (CalculationFailed, StructureError, np.linalg.LinAlgError) as error:
        return Relaxed(start, "nan", steps, reason=str(error), index=index)
    atoms.calc = compute(atoms, calculator).calc  # results of its own: the calculator goes on to other structures
    done = state[0] < options.fmax and state[1] < options.smax
    reason = "" if done else f"not converged in {steps} steps: fmax {state[0]:.3g} eV/A, smax {state[1]:.3g} eV/A^3"
    move = atoms.positions - start.positions
    if atoms.cell.rank == 3:
        scaled = (a.get_scaled_positions(wrap=False) for a in (atoms, start))
        move = np.subtract(*scaled) @ start.cell.array
    return Relaxed(
        atoms=atoms,
        status="converged" if done else "max_steps",
        steps=steps,
        energy=float(atoms.get_potential_energy()),
        fmax=state[0],
        smax=state[1],
        reason="; ".join(filter(None, [reason, note])),
        index=index,
        volume_change=atoms.cell.volume / start.cell.volume - 1 if atoms.cell.rank == 3 else 0.0,
        displacement=_root_mean_square(move),
    )


def _filtered(atoms: Atoms, options: Options, projector: np.ndarray) -> Any:
    if not projector.any():
        return atoms
    if options.cell == "volume":
        raise ValueError("ASE's filters cannot change the volume alone; use the batched relaxation for cell='volume'.")
    mask = np.ones(6, bool) if options.mask is None else np.asarray(options.mask, bool)
    active = projector.reshape(3, 3, 9).any(axis=2)
    mask &= np.array([active[0, 0], active[1, 1], active[2, 2], active[1, 2], active[0, 2], active[0, 1]])
    return FrechetCellFilter(
        atoms,
        mask=None if options.cell == "isotropic" else mask,
        hydrostatic_strain=options.cell == "isotropic",
        constant_volume=options.cell == "shape",
        scalar_pressure=options.pressure,
    )


def _residuals(atoms: Atoms, projector: np.ndarray, pressure: float) -> tuple[float, float]:
    """Largest force (constraints applied) and largest component of the stress that may relax."""
    fmax = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
    if not projector.any():
        return fmax, 0.0
    excess = voigt_6_to_full_3x3_stress(atoms.get_stress()) + pressure * np.eye(3)
    return fmax, float(np.abs(projector @ excess.reshape(9)).max())


def _root_mean_square(move: np.ndarray) -> float:
    move = move - move.mean(axis=0)
    return float(np.sqrt((move**2).sum(axis=1).mean()))
