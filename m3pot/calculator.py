"""The ASE calculator: translates between ASE and :func:`m3pot.potential.predict`. No physics."""

import threading
from collections.abc import Sequence
from os import PathLike
from typing import Any

import jax
import numpy as np
from ase import Atoms
from ase.calculators.calculator import CalculationFailed, Calculator, all_changes

from m3pot import verlet
from m3pot.execution import find_device, numerics
from m3pot.graph import Graph, Sizes, as_dtype, batch, sizes, sizes_for
from m3pot.potential import Potential, jit_predict
from m3pot.structure import ase_results, from_ase


class M3PotCalculator(Calculator):
    """Energy, free_energy, energies (eV), forces (eV/A) and stress (eV/A^3, Voigt, tensile positive).

    Args:
        potential: a Potential, a name from ``m3pot models list`` or a file; None is the shipped default.
        dtype: "float32" or "float64", whatever the JAX settings of the rest of the program.
        skin: A; the neighbour list is made anew only when atoms or cell have moved by about half of it.
        device: "cpu", "gpu", "gpu:1" ... or a jax.Device; None is JAX's default.
        precision: of float32 products on GPUs and TPUs: "highest", "high" or "default" (TF32, bfloat16).

    Calculators share the compiled functions, and one calculator serves any number of different structures: shapes
    are padded to a ladder of sizes. Threads may share it; copies and pickles start with an empty neighbour list.
    Raises StructureError for atoms that cannot be evaluated and CalculationFailed for results that are not finite.
    """

    name = "m3pot"
    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]

    def __init__(
        self,
        potential: Potential | str | PathLike | None = None,
        *,
        dtype: str = "float32",
        skin: float = 0.5,
        device: Any = None,
        precision: str = "highest",
    ):
        super().__init__()
        if not isinstance(potential, Potential):
            from m3pot.io.registry import load

            potential = load(potential)
        if not skin >= 0:
            raise ValueError(f"Expected a skin of 0 A or more, got {skin}.")
        self.potential, self.dtype, self.skin, self.device, self.precision = potential, dtype, skin, device, precision
        self._start()

    def _start(self) -> None:
        self._lock = threading.RLock()
        self._list: verlet.VerletList | None = None
        self._capacity = Sizes(0, 0, 0)
        self._padded: Graph | None = None  # on accelerators: the list with its skin, which stays there
        with numerics(self.dtype, self.precision):
            self._placed = jax.device_put(self.potential.astype(self.dtype), find_device(self.device))
        self._trims = next(iter(self._placed.scale.devices())).platform == "cpu"

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_lock", "_list", "_capacity", "_padded", "_placed")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._start()

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """As in ASE; one thread at a time."""
        with self._lock:
            return super().get_property(name, atoms, allow_calculation)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fill ``results`` with all properties at once."""
        with self._lock, numerics(self.dtype, self.precision):
            super().calculate(atoms, properties, system_changes)  # sets self.atoms
            current: Any = self.atoms
            n = len(current)
            result = jax.device_get(jit_predict(self._placed, self._graph(current)))
            results = ase_results(
                result.energies[:n], result.forces[:n], result.stress[0], float(self.potential.offset)
            )
            if results is None:
                raise CalculationFailed(
                    f"The potential gave NaN or infinity for {current.symbols}; "
                    "check for atoms that are too close, or try dtype='float64'."
                )
            self.results = results

    def _graph(self, atoms: Atoms) -> Graph:
        cutoff, cell = self.potential.cutoff, atoms.cell.array
        known: Any = self._list
        same = known and np.array_equal(atoms.numbers, known.reference.species) and np.array_equal(atoms.pbc, known.pbc)
        if not same or not verlet.holds(known, verlet.place(known, atoms.positions, cell), cell, cutoff, self.skin):
            new = from_ase(atoms, cutoff + self.skin, elements=self.potential.elements)
            self._list = known = verlet.make(new, atoms.pbc)
            self._padded, self._capacity = None, self._capacity if same else Sizes(0, 0, 0)
        positions = verlet.place(known, atoms.positions, cell)
        if self._trims:
            return self._pad(verlet.trim(known, positions, cell, cutoff))
        if self._padded is None:
            self._padded = jax.device_put(self._pad(known.reference), find_device(self.device))
        capacity = self._capacity
        moved = np.zeros((capacity.atoms, 3), self.dtype), np.zeros((capacity.structures, 3, 3), self.dtype)
        moved[0][: len(positions)], moved[1][0] = positions, cell
        return self._padded._replace(positions=moved[0], cell=moved[1])

    def _pad(self, graph: Graph) -> Graph:
        """Pad to the rung of the ladder in use, unless it is too small or by more than one rung too large."""
        need = sizes(graph)
        if not _fits(need, self._capacity) or self._capacity.edges > sizes_for(*need).edges * 1.7:
            self._capacity = sizes_for(*need)
        return as_dtype(batch([graph], self._capacity), self.dtype)


def _fits(need: Sizes, capacity: Sizes) -> bool:
    return need.structures < capacity.structures and need.atoms < capacity.atoms and need.edges <= capacity.edges
