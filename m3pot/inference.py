"""Energies, forces and stresses of many structures: batches of similar cost through one compiled function."""

from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from typing import Any, NamedTuple

import jax
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from m3pot.execution import find_device, numerics
from m3pot.graph import Graph, Properties, as_dtype, batch, sizes, sizes_for
from m3pot.potential import Potential, jit_predict
from m3pot.structure import StructureError, ase_results, from_ase, to_atoms
from m3pot.verlet import near_origin

_STRUCTURES = 64  # per batch; part of the static shape, so always the same
_EDGES = {"cpu": 2**14, "gpu": 2**18, "tpu": 2**18}  # per batch: enough to keep the device busy


class _Item(NamedTuple):
    index: int
    atoms: Atoms
    graph: Graph


def predict(
    structures: Any,
    potential: Potential | str | PathLike | None = None,
    *,
    dtype: str = "float32",
    device: Any = None,
    precision: str = "highest",
    max_edges: int | None = None,
    errors: str = "raise",
    progress: Callable[[int], None] = lambda count: None,
) -> list[Atoms]:
    """Copies of the structures with energy, energies (eV), forces (eV/A) and stress (eV/A^3) attached.

    Args:
        structures: ASE Atoms or pymatgen Structures, mixed as you like; one alone counts as a list of one.
        potential: a Potential, a name from ``m3pot models list`` or a file; None is the shipped default.
        dtype: "float32" or "float64".
        device: "cpu", "gpu", "gpu:1" ... or a jax.Device; None is JAX's default.
        precision: of float32 products on GPUs and TPUs: "highest", "high" or "default" (TF32, bfloat16).
        max_edges: neighbours per batch, which decide the memory; a larger structure is evaluated alone.
        errors: "raise" stops at a structure that cannot be evaluated; "keep" returns it without results and with
            the reason in ``info["reason"]``.
        progress: called with the number of structures that have just been finished.

    Returns:
        ASE Atoms in the order of the input, with a SinglePointCalculator; stress only where the cell has a volume.

    Raises:
        StructureError: for the first structure that cannot be evaluated, unless ``errors="keep"``.
    """
    if errors not in ("raise", "keep"):
        raise ValueError(f"Expected errors 'raise' or 'keep', got {errors!r}; choose one of them.")
    if not isinstance(potential, Potential):
        from m3pot.io.registry import load

        potential = load(potential)
    if isinstance(structures, Atoms) or hasattr(structures, "sites"):
        structures = [structures]
    with numerics(dtype, precision):
        placed = jax.device_put(potential.astype(dtype), find_device(device))
    usual = _EDGES[next(iter(placed.scale.devices())).platform] // potential.appetite
    budget = max_edges or usual
    done: dict[int, Atoms] = {}

    def items() -> Iterator[_Item]:
        for index, structure in enumerate(structures):
            try:
                atoms = to_atoms(structure)
                graph = from_ase(atoms, potential.cutoff, elements=potential.elements)
                yield _Item(index, atoms, near_origin(graph, atoms.pbc)[0])
            except StructureError as error:
                if errors == "raise":
                    raise StructureError(f"structure {index}: {error}") from error
                done[index] = _failed(structure, str(error))
                progress(1)

    def start(group: list[_Item]) -> Properties:
        total = (sum(column) for column in zip(*(sizes(item.graph) for item in group), strict=True))
        capacity = sizes_for(*total)._replace(structures=_STRUCTURES + 1)
        with numerics(dtype, precision):
            return jit_predict(placed, as_dtype(batch([item.graph for item in group], capacity), dtype))

    def collect(group: list[_Item], result: Properties) -> None:
        for item, values in zip(group, _split(jax.device_get(result), group), strict=True):
            results = ase_results(*values, float(potential.offset))
            if results is None and errors == "raise":
                raise StructureError(f"structure {item.index}: {_NAN}")
            done[item.index] = _failed(item.atoms, _NAN) if results is None else _finished(item.atoms, results)
        progress(len(group))

    running = None
    for group in _groups(items(), sizes_for(1, 0, budget).edges):
        result = start(group)  # the device works while the host collects, and prepares the next batch
        if running:
            collect(*running)
        running = group, result
    if running:
        collect(*running)
    return [done[index] for index in sorted(done)]


_NAN = "the potential gave NaN or infinity; check for atoms that are too close, or try dtype float64."


def _groups(items: Iterable[_Item], budget: int) -> Iterator[list[_Item]]:
    """Consecutive items with at most ``budget`` edges together, or one item alone."""
    group: list[_Item] = []
    edges = atoms = 0
    for item in items:
        _, more_atoms, more_edges = sizes(item.graph)
        full = sizes_for(1, atoms + more_atoms, edges + more_edges).edges > budget
        if group and (full or len(group) == _STRUCTURES):
            yield group
            group, edges, atoms = [], 0, 0
        group.append(item)
        edges, atoms = edges + more_edges, atoms + more_atoms
    if group:
        yield group


def _split(result: Properties, group: list[_Item]) -> Iterator[tuple[Any, Any, Any]]:
    """Energies, forces and stress of each structure of a batch."""
    first = 0
    for k, item in enumerate(group):
        atoms = slice(first, first + len(item.atoms))
        first = atoms.stop
        yield result.energies[atoms], result.forces[atoms], result.stress[k]


def _finished(atoms: Atoms, results: dict[str, Any]) -> Atoms:
    copy = atoms.copy()
    copy.calc = SinglePointCalculator(copy, **results)
    return copy


def _failed(structure: Any, reason: str) -> Atoms:
    copy = structure.copy() if isinstance(structure, Atoms) else Atoms()
    copy.info["reason"] = reason
    return copy
