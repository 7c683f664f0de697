"""Labels from any ASE calculator, named as ``module:factory``; in this process or in several."""

import contextlib
import importlib
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ase import Atoms


class CalculatorError(ValueError):
    """There is no calculator; the message says why and what to do."""


def make_calculator(factory: str, arguments: str = "{}") -> Any:
    """The ASE calculator that ``module:factory`` returns when it is called with these keyword arguments.

    Args:
        factory: import path of a class or function; the working folder is searched too.
        arguments: a JSON object; "{process}" in it becomes the number of the process, for folders of their own.

    Raises CalculatorError.
    """
    module, _, name = factory.partition(":")
    if not module or not name:
        raise CalculatorError(
            f"Expected a calculator as module:factory, got {factory!r}; as in ase.calculators.emt:EMT."
        )
    try:
        keywords = json.loads(arguments.replace("{process}", str(os.getpid())))
    except json.JSONDecodeError as error:
        raise CalculatorError(
            f"The calculator's arguments are not JSON ({error}); quote them for the shell."
        ) from error
    if not isinstance(keywords, dict):
        raise CalculatorError(
            f'Expected the calculator\'s arguments as a JSON object, got {arguments}; write {{"a": 1}}.'
        )
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        made: Any = importlib.import_module(module)
        for part in name.split("."):
            made = getattr(made, part)
        made = made(**keywords)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise CalculatorError(f"{factory} gives no calculator ({reason}); check its name and arguments.") from error
    if not hasattr(made, "get_potential_energy"):
        raise CalculatorError(f"Expected {factory} to return an ASE calculator, got {type(made).__name__}.")
    return made


def gpaw(ecut: float = 500.0, density: float = 3.5, txt: str | None = None, **more: Any) -> Any:
    """GPAW with PBE in plane waves, as a factory for :func:`make_calculator`: ``m3pot.data.calculators:gpaw``.

    Fermi-Dirac occupations of width 0.1 eV, atoms not polarised. Equations of state want a higher cutoff and a fixed
    grid (``ecut=800, kpts=(6, 6, 6)``). Needs the extra ``dft``, which compiles GPAW against libxc and a BLAS
    (J. J. Mortensen et al., J. Chem. Phys. 160, 092503 (2024)).

    Args:
        ecut: cutoff energy of the plane waves, eV.
        density: k points for each 1/A of a reciprocal vector (2 pi included), Gamma among them.
        txt: file for GPAW's own report.
        more: further arguments of ``gpaw.GPAW``; they have the last word.

    Raises ModuleNotFoundError without GPAW.
    """
    try:
        from gpaw import GPAW  # ty: ignore[import-not-found]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}; pip install 'm3pot[dft]'") from error
    settings: dict[str, Any] = {
        "mode": {"name": "pw", "ecut": ecut},
        "xc": "PBE",
        "kpts": {"density": density, "gamma": True},
        "occupations": {"name": "fermi-dirac", "width": 0.1},
        "txt": txt,
    }
    return GPAW(**settings | more)


def compute(atoms: "Atoms", calculator: Any) -> "Atoms":
    """A copy with energy, forces and, where there are a cell and a stress, stress; else with ``info["reason"]``."""
    from ase.calculators.singlepoint import SinglePointCalculator

    copy = atoms.copy()
    copy.set_constraint()
    copy.calc = calculator
    try:
        results: dict[str, Any] = {"energy": float(copy.get_potential_energy()), "forces": copy.get_forces().copy()}
        if copy.cell.rank == 3 and copy.pbc.any():
            with contextlib.suppress(NotImplementedError):  # ASE's own error is a subclass
                results["stress"] = copy.get_stress().copy()
    except (Exception, SystemExit) as error:
        copy.calc = None
        copy.info["reason"] = f"{type(error).__name__}: {error}"
        return copy
    copy.calc = SinglePointCalculator(copy, **results)
    return copy


_calculator: Any = None  # that of a worker process


def _compute_in_worker(atoms: "Atoms", factory: str, arguments: str) -> "Atoms":
    global _calculator
    if _calculator is None:
        _calculator = make_calculator(factory, arguments)
    return compute(atoms, _calculator)


class Calculators:
    """Calls a calculator for a list of structures, lazily and in order; a structure that kills its process is failed.

    Use it as a context manager. ``processes = 1`` computes in this process.
    """

    def __init__(self, factory: str, arguments: str = "{}", processes: int = 1):
        if processes < 1:
            raise CalculatorError(f"Expected at least 1 process, got {processes}; give a positive number.")
        self._task = factory, arguments
        self._processes = processes
        self._own = make_calculator(*self._task) if processes == 1 else None
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Calculators":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def __call__(self, structures: Sequence["Atoms"]) -> Iterator["Atoms"]:
        """Copies of the structures as :func:`compute` returns them."""
        if self._own is not None:
            yield from (compute(atoms, self._own) for atoms in structures)
            return
        done = 0
        try:
            for result in self._submit(structures):
                yield result
                done += 1
        except BrokenProcessPool:
            self._close()
            yield from map(self._alone, structures[done:])

    def _alone(self, atoms: "Atoms") -> "Atoms":
        """One structure at a time: now it is known which one kills its process."""
        try:
            (result,) = self._submit([atoms])
        except BrokenProcessPool:
            self._close()
            result = atoms.copy()
            result.info["reason"] = "the calculator's process died"
        return result

    def _submit(self, structures: Sequence["Atoms"]) -> Iterator["Atoms"]:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self._processes, multiprocessing.get_context("spawn"))
        factory, arguments = self._task
        count = len(structures)
        return self._pool.map(_compute_in_worker, structures, [factory] * count, [arguments] * count)

    def _close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
