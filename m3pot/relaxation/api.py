"""The functions and the class that users call."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from os import PathLike
from typing import Any

from ase import Atoms

from m3pot.potential import Potential
from m3pot.relaxation.engine import relax_unordered
from m3pot.relaxation.minimizers import Minimizer
from m3pot.relaxation.options import Options
from m3pot.relaxation.results import Relaxed
from m3pot.units import GPA


def relax(
    structures: Any,
    potential: Potential | str | PathLike | None = None,
    *,
    fmax: float = 0.05,
    smax: float = 0.1 * GPA,
    steps: int = 500,
    cell: str = "free",
    mask: Sequence[bool] | None = None,
    pressure: float = 0.0,
    minimizer: str | Minimizer = "lbfgs",
    dtype: str = "float32",
    device: Any = None,
    precision: str = "highest",
    fix_symmetry: bool = False,
    symprec: float = 0.01,
    repair: bool = True,
    trajectory: bool = False,
    max_atoms: int = 1000,
    max_edges: int | None = None,
    progress: Callable[[Relaxed], None] = lambda result: None,
) -> list[Relaxed]:
    """Relax many structures together on the device, each as if it were alone.

    Args:
        structures: ASE Atoms or pymatgen Structures, mixed as you like; one alone counts as a list of one.
        potential: a Potential, a name from ``m3pot models list`` or a file; None is the shipped default.
        fmax: eV/A; a structure is done when the force on every atom is smaller,
        smax: eV/A^3, and so is every component of stress + pressure that may relax (default 0.1 GPa = 0.000624 eV/A^3).
        steps: most moves of one structure.
        cell: "free"; "fixed"; "isotropic", all lengths by one factor; "shape" at constant volume; "volume",
            isotropic with fixed fractional coordinates. Directions without period are never strained.
        mask: strains xx, yy, zz, yz, xz, xy that may change, as in ASE's FrechetCellFilter.
        pressure: eV/A^3, external.
        minimizer: "lbfgs"; "fire", whose steps are those of ASE's FIRE with FrechetCellFilter; or a
            :class:`m3pot.relaxation.Minimizer`.
        dtype: "float32", or "float64" for tight limits.
        device: "cpu", "gpu", "gpu:1" ... or a jax.Device; None is JAX's default.
        precision: of float32 products on GPUs and TPUs: "highest", "high" or "default" (TF32, bfloat16).
        fix_symmetry: keep the space group that spglib finds at ``symprec`` A.
        repair: push atoms that are much too close apart before the start; ``reason`` reports it.
        trajectory: keep every evaluated geometry with its results.
        max_atoms: a structure with more is refused as too_large.
        max_edges: neighbours in a batch, which decide the memory; None is what suits the device.
        progress: called with each result as soon as it is there.

    ASE constraints FixAtoms and FixCartesian are honoured. One structure that fails stops no other: see ``status`` and
    ``reason`` of :class:`m3pot.relaxation.Relaxed`. Returns one result for each structure, in the order of the input.
    """
    options = Options(
        fmax=fmax,
        smax=smax,
        steps=steps,
        cell=cell,
        mask=mask,
        pressure=pressure,
        minimizer=minimizer,
        dtype=dtype,
        device=device,
        precision=precision,
        fix_symmetry=fix_symmetry,
        symprec=symprec,
        repair=repair,
        trajectory=trajectory,
        max_atoms=max_atoms,
        max_edges=max_edges,
    )
    if isinstance(structures, Atoms) or hasattr(structures, "sites"):
        structures = [structures]
    done = []
    for result in iter_relax(enumerate(structures), potential, options):
        done.append(result)
        progress(result)
    return sorted(done, key=lambda result: result.index)


def iter_relax(
    structures: Iterable[tuple[int, Any]],
    potential: Potential | str | PathLike | None = None,
    options: Options | None = None,
) -> Iterator[Relaxed]:
    """Relax a stream of (index, structure), as long as you like, and yield each result when it is done, in any order.

    Structures are read a little ahead of need. See :func:`relax` for the rest.
    """
    if not isinstance(potential, Potential):
        from m3pot.io.registry import load

        potential = load(potential)
    return relax_unordered(structures, potential, options or Options())


class Relaxer:
    """One structure at a time with the habits of MatGL and MatterSim users.

    ``Relaxer(potential, optimizer="FIRE", relax_cell=True).relax(structure, fmax=0.1)`` returns a
    :class:`~m3pot.relaxation.Relaxed`, which answers ``["final_structure"]``, ``["trajectory"]``, ``["energy"]`` and
    ``["converged"]`` as well.
    """

    def __init__(
        self,
        potential: Potential | str | PathLike | None = None,
        optimizer: str = "lbfgs",
        relax_cell: bool = True,
        *,
        fmax: float = 0.05,
        smax: float = 0.1 * GPA,
        steps: int = 500,
        constrain_symmetry: bool = False,
        dtype: str = "float32",
        device: Any = None,
    ):
        self.potential = potential
        self.fmax, self.steps = fmax, steps
        self._more = dict(
            smax=smax,
            cell="free" if relax_cell else "fixed",
            minimizer=optimizer,
            dtype=dtype,
            device=device,
            fix_symmetry=constrain_symmetry,
            trajectory=True,
        )

    def relax(self, structure: Any, fmax: float | None = None, steps: int | None = None) -> Relaxed:
        """Relax ASE Atoms or a pymatgen Structure; ``fmax`` and ``steps`` take precedence over those of the class."""
        fmax, steps = self.fmax if fmax is None else fmax, self.steps if steps is None else steps
        (result,) = relax([structure], self.potential, fmax=fmax, steps=steps, **self._more)
        return result
