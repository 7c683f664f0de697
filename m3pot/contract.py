"""The physics contract: laws that every interatomic potential must obey, measured on a model file or a calculator."""

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols, covalent_radii

from m3pot.data.calculators import CalculatorError, compute
from m3pot.execution import numerics
from m3pot.graph import Graph, Properties, Sizes, as_dtype, batch, sizes, sizes_for
from m3pot.potential import Potential, jit_predict
from m3pot.structure import from_ase, labels_from_ase

Evaluate = Callable[[Sequence[Atoms]], list[Properties]]
_SIZE = Properties(energy=1.0, forces=0.5, stress=0.02, energies=1.0)  # below this a relative error means little
_PREFERRED = (14, 8, 3, 26, 29, 1, 6, 7, 11, 17)  # elements of the test structures, where the model has them


class Outcome(NamedTuple):
    """One law: the largest violation (None: not measured), and on which structure."""

    law: str
    meaning: str
    worst: float | None
    limit: float
    where: str
    fatal: bool  # a broken law that is not fatal is a warning: some published models break it

    @property
    def verdict(self) -> str:
        """pass, warn, fail or not measured."""
        if self.worst is None:
            return "not measured"
        if self.worst <= self.limit:
            return "pass"
        return "fail" if self.fatal else "warn"


@dataclass(frozen=True)
class Report:
    """All laws; ``print`` it for a table. ``notes`` say what was not measured, and why."""

    outcomes: tuple[Outcome, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True unless a law fails; warnings pass, and so does what was not measured."""
        return all(outcome.verdict != "fail" for outcome in self.outcomes)

    def __str__(self) -> str:
        lines = [f"{'law':14} {'verdict':13} {'worst':>9} {'limit':>9}  {'structure':12} meaning"]
        for o in self.outcomes:
            worst = "-" if o.worst is None else f"{o.worst:.1e}"
            lines.append(f"{o.law:14} {o.verdict:13} {worst:>9} {o.limit:9.1e}  {o.where:12} {o.meaning}")
        counts = Counter(o.verdict for o in self.outcomes)
        lines.append(f"{len(self.outcomes)} laws: " + ", ".join(f"{n} {verdict}" for verdict, n in counts.items()))
        return "\n".join([*lines, *self.notes])


def doctor(potential: Any = None, *, elements: Sequence[str] | None = None) -> Report:
    """Check a potential or any ASE calculator against the laws.

    A Potential is examined in float64, to 1e-6 or better, and its batches, padding, skin, float32 and cutoff too. A
    calculator, whose precision is not known, is examined to 1e-3. Errors are relative to the size of the quantity.
    Laws and structures that a calculator fails for are not measured, as the report says.

    Args:
        potential: a Potential, a name or file (None: the shipped one), or any object that works as ``atoms.calc``.
        elements: symbols for the test structures; None: common ones that the model knows, Si, O, Li, Fe otherwise.

    Raises ValueError for elements that do not exist, StructureError for those that a Potential does not know, and
    CalculatorError for a calculator that fails for the crystals.
    """
    numbers = None if elements is None else _numbers(elements)
    if hasattr(potential, "get_potential_energy"):
        return _examine_calculator(potential, structures(numbers or range(1, 95)))
    if not isinstance(potential, Potential):
        from m3pot.io.registry import load

        potential = load(potential)
    return _examine_potential(potential, structures(numbers or potential.elements))


def _numbers(elements: Sequence[str]) -> list[int]:
    found = [atomic_numbers.get(symbol, 0) for symbol in elements]
    if not found or not all(found):
        raise ValueError(f"Expected symbols of elements, got {', '.join(elements) or 'none'}; write them as Cu,Ag.")
    return found


def _examine_potential(potential: Potential, table: Mapping[str, Atoms]) -> Report:
    cutoff, known = potential.cutoff + _SKIN, potential.elements
    need = [sizes(from_ase(atoms, cutoff, elements=known)) for atoms in table.values()]
    capacity = sizes_for(1, *(4 * sum(column) for column in list(zip(*need, strict=True))[1:]))._replace(structures=65)
    evaluate = _batched(potential, "float64", capacity)
    reference = dict(zip(table, evaluate([*table.values()]), strict=True))
    offset = float(potential.offset)
    outcomes = [
        *_laws(evaluate, table, reference, steps=[1e-3], exact=1e-8, differences=1e-6, offset=offset, notes=[]),
        *_laws_of_batches(potential, table, capacity),
        Outcome("extensivity", "no constant per structure in the energy (eV)", abs(offset), 0.0, "all", False),
        _cutoff(evaluate, potential),
        _repulsion(evaluate, sorted(known)),
    ]
    return Report(tuple(outcomes))


def _examine_calculator(calculator: Any, table: dict[str, Atoms]) -> Report:
    evaluate, reference, notes = _through_ase(calculator), {}, []
    for name, atoms in table.items():
        try:
            (reference[name],) = evaluate([atoms])
        except CalculatorError as error:
            if atoms.pbc.all():
                raise CalculatorError(
                    f"The calculator fails for the {name} of {atoms.get_chemical_formula()} ({error}); "
                    "if it does not know these elements, choose others, as in --elements Cu,Ag."
                ) from error
            notes.append(f"{name} left out: {error}")
    has_stress = not np.isnan(reference["crystal"].stress).all()
    limits = {"steps": [1e-2, 2e-3], "exact": 1e-4, "differences": 1e-3}
    outcomes = [*_laws(evaluate, table, reference, **limits, has_stress=has_stress, notes=notes)]
    try:
        outcomes.append(_repulsion(evaluate, sorted({int(z) for atoms in table.values() for z in atoms.numbers})))
    except CalculatorError as error:
        outcomes.append(Outcome("repulsion", "atoms repel at 55 % of the bond length", None, 0.0, "-", False))
        notes.append(f"repulsion not measured on dimers: {error}")
    return Report(tuple(outcomes), tuple(notes))


def structures(elements: Any) -> dict[str, Atoms]:
    """A skewed crystal, one atom with many images, a slab and a molecule, of elements that the model knows."""
    known = set(elements)
    order = [z for z in _PREFERRED if z in known] + sorted(known - set(_PREFERRED))
    numbers = [order[k % len(order)] for k in range(4)]
    cell = [[4.3, 0.1, 0], [3.1, 3.6, 0], [-2.4, 1.5, 4.1]]
    crystal = Atoms(numbers[:3], scaled_positions=[[0, 0, 0], [0.52, 0.47, 0.2], [0.1, 0.4, 0.62]], cell=cell, pbc=True)
    single = Atoms(numbers[:1], cell=[[0, 1.9, 2.0], [2.1, 0, 1.9], [1.8, 2.0, 0]], pbc=True)
    slab = Atoms(
        numbers[1:4], [[0, 0, 0], [1.6, 1.3, 1.2], [0.3, 0.1, 2.3]], cell=[[3.1, 0, 0], [0.4, 3.2, 0], [0] * 3]
    )
    slab.pbc = (True, True, False)
    molecule = Atoms(numbers, [[0, 0, 0], [1.8, 0.2, 0], [-0.4, 1.9, 0.3], [0.5, 0.6, 2.1]])
    return {"crystal": crystal, "one atom": single, "slab": slab, "molecule": molecule}


def deviation(a: Properties, b: Properties) -> float:
    """Largest difference relative to the size of each quantity (per atom for the energy); inf where NaNs differ."""
    worst, n = 0.0, len(b.forces)
    for x, y, size in zip(a, b, _SIZE, strict=True):
        x, y = np.asarray(x, float), np.asarray(y, float)
        if (np.isnan(x) != np.isnan(y)).any():
            return np.inf
        x, y = np.nan_to_num(x), np.nan_to_num(y)
        scale = n if x.size == 1 and y.size == 1 and n > 1 else 1
        worst = max(worst, np.abs(x - y).max(initial=0) / (size + np.abs(y).max(initial=0)) / scale)
    return float(worst)


def _laws(
    evaluate: Evaluate,
    table: Mapping[str, Atoms],
    reference: Mapping[str, Properties],
    *,
    steps: Sequence[float],
    exact: float,
    differences: float,
    notes: list[str],
    has_stress: bool = True,
    offset: float = 0.0,
) -> Iterator[Outcome]:
    """The laws of every potential, on the structures of ``reference``; ``notes`` grow by what cannot be measured."""

    def law(
        name: str, meaning: str, limit: float, violation: Callable[[str], float], keys: Iterable[str] = tuple(reference)
    ) -> Outcome:
        violations, before = {}, len(notes)
        for key in keys:
            try:
                violations[key] = violation(key)
            except CalculatorError as error:
                notes.append(f"{name} not measured on {key}: {error}")
        outcome = _outcome(name, meaning, limit, violations)
        # What some structures obey is no law yet.
        return outcome._replace(worst=None, where="-") if len(notes) > before and outcome.verdict == "pass" else outcome

    def compare(
        change: Callable[[Atoms], Atoms], back: Callable[[Properties, Atoms], Properties] = lambda result, atoms: result
    ) -> Callable[[str], float]:
        return lambda key: deviation(back(evaluate([change(table[key])])[0], table[key]), reference[key])

    def net(key: str) -> float:
        forces = reference[key].forces
        return np.abs(forces.sum(axis=0)).max() / (0.5 + np.abs(forces).max())

    @functools.cache
    def slopes(key: str) -> np.ndarray:
        best = np.full(2, np.nan)
        for step in steps:  # single precision wants a long one, a rough energy a short one
            best = np.fmin(best, _slope_errors(evaluate, table[key], reference[key], step))
            if (best <= differences).all():
                break
        return best

    yield law("forces", "F = -dE/dx", differences, lambda key: slopes(key)[0])
    solid = [key for key in reference if has_stress and table[key].cell.rank == 3]
    yield law("stress", "stress = dE/d(strain)/V", differences, lambda key: slopes(key)[1], solid)
    if not has_stress:
        notes.append("stress not measured: the calculator gives none")
    yield law("momentum", "forces add up to zero", exact, net)
    yield law("translation", "moving everything changes nothing", exact, compare(_translated))
    yield law("wrapping", "atoms may sit in any cell", exact, compare(_unwrapped))
    yield law("lattice", "other vectors of the same lattice, left-handed ones too", exact, compare(_respanned))
    yield law("rotation", "forces and stress turn along, mirrors too", exact, compare(_rotated, _turned_back))
    yield law("permutation", "the order of atoms is free", exact, compare(lambda a: a[::-1], _reversed))
    halved = functools.partial(_halved, offset)
    yield law("supercell", "two cells have twice the energy of the atoms", exact, compare(_doubled, halved))


def _outcome(name: str, meaning: str, limit: float, violations: Mapping[str, float]) -> Outcome:
    """The worst violation of a law that must hold, NaN being worse than any."""
    if not violations:
        return Outcome(name, meaning, None, limit, "-", True)
    where = max(violations, key=lambda key: np.nan_to_num(violations[key], nan=np.inf))
    return Outcome(name, meaning, float(violations[where]), limit, where, True)


def _translated(atoms: Atoms) -> Atoms:
    new = atoms.copy()
    new.positions += (7.31, -11.17, 3.93)
    return new


def _unwrapped(atoms: Atoms) -> Atoms:
    new = atoms.copy()
    jumps = np.resize([[3, -2, 1], [0, 1, -4], [-1, 0, 2]], (len(atoms), 3))
    new.positions += (jumps * atoms.pbc) @ atoms.cell.array
    return new


def _respanned(atoms: Atoms) -> Atoms:
    new = atoms.copy()
    if atoms.pbc[:2].all():
        a, b, c = atoms.cell.array
        new.set_cell([b - a, b, c])
    return new


_TURN = np.linalg.qr([[0.3, -1.2, 0.5], [1.1, 0.4, -0.7], [-0.2, 0.9, 1.6]])[0]
_TURN = _TURN * -np.sign(np.linalg.det(_TURN))  # a rotation with reflection


def _rotated(atoms: Atoms) -> Atoms:
    new = atoms.copy()
    new.set_cell(-atoms.cell.array @ _TURN)  # the same lattice, and a right-handed cell remains one
    new.positions = atoms.positions @ _TURN
    return new


def _turned_back(result: Properties, atoms: Atoms) -> Properties:
    return result._replace(forces=result.forces @ _TURN.T, stress=_TURN @ result.stress @ _TURN.T)


def _reversed(result: Properties, atoms: Atoms) -> Properties:
    return result._replace(forces=result.forces[::-1], energies=result.energies[::-1])


def _doubled(atoms: Atoms) -> Atoms:
    return atoms * (2, 1, 1) if atoms.pbc[0] else atoms


def _halved(offset: float, result: Properties, atoms: Atoms) -> Properties:
    n = len(atoms)
    forces, energies = result.forces.reshape(-1, n, 3), result.energies.reshape(-1, n)
    spread = np.abs(forces - forces[0]).max()
    energy = (result.energy - offset) / len(forces) + offset + spread  # copies that differ count as an error
    return Properties(energy, forces[0], result.stress, energies.mean(axis=0))


def _slope_errors(evaluate: Evaluate, atoms: Atoms, result: Properties, step: float) -> tuple[float, float]:
    """Forces and stress against central differences of fourth order, along random directions."""
    rng = np.random.default_rng(0)
    moves = rng.normal(size=(3, len(atoms), 3))
    moves /= np.linalg.norm(moves, axis=(1, 2))[:, None, None]
    strains = rng.normal(size=(3, 3, 3))
    strains = (strains + strains.transpose(0, 2, 1)) / np.linalg.norm(strains, axis=(1, 2))[:, None, None] / 2
    strains *= np.outer(atoms.pbc, atoms.pbc) if atoms.cell.rank < 3 else 1
    at, weights = np.array([-2, -1, 1, 2]) * step, np.array([1, -8, 8, -1]) / (12 * step)
    cases = [_shifted(atoms, move * h) for move in moves for h in at]
    cases += [_strained(atoms, np.eye(3) + strain * h) for strain in strains for h in at]
    energies = np.array([r.energy for r in evaluate(cases)]).reshape(6, 4) @ weights
    expected = -np.einsum("kna,na->k", moves, result.forces)
    forces = np.abs(energies[:3] - expected).max() / (0.5 + np.linalg.norm(result.forces))
    if atoms.cell.rank < 3:
        return float(forces), 0.0
    expected = np.einsum("kab,ab->k", strains, result.stress)
    stress = np.abs(energies[3:] / atoms.get_volume() - expected).max() / (0.02 + np.linalg.norm(result.stress))
    return float(forces), float(stress)


def _shifted(atoms: Atoms, move: np.ndarray) -> Atoms:
    new = atoms.copy()
    new.positions += move
    return new


def _strained(atoms: Atoms, deformation: np.ndarray) -> Atoms:
    new = atoms.copy()
    new.set_cell(atoms.cell.array @ deformation)
    new.positions = atoms.positions @ deformation
    return new


_SKIN = 0.8  # A


def _laws_of_batches(potential: Potential, table: Mapping[str, Atoms], capacity: Sizes) -> Iterator[Outcome]:
    """Nothing of how structures are packed for the device may be seen in the results."""
    atoms = [*table.values()]
    each = _batched(potential, "float64", capacity, together=False)(atoms)
    wider = sizes_for(1, capacity.atoms, capacity.edges)._replace(structures=capacity.structures)

    def law(name: str, meaning: str, limit: float, results: list[Properties]) -> Outcome:
        violations = {key: deviation(a, b) for key, a, b in zip(table, results, each, strict=True)}
        return _outcome(name, meaning, limit, violations)

    together = _batched(potential, "float64", capacity)(atoms)
    yield law("batch", "neighbours in a batch change nothing", 1e-10, together)
    yield law("padding", "the size of the padding changes nothing", 1e-10, _batched(potential, "float64", wider)(atoms))
    skin = _batched(potential, "float64", capacity, skin=_SKIN)(atoms)
    yield law("skin", "edges beyond the cutoff change nothing", 1e-10, skin)
    yield law("float32", "single precision is close to double", 1e-4, _batched(potential, "float32", capacity)(atoms))


def _cutoff(evaluate: Evaluate, potential: Potential) -> Outcome:
    """Pairs end smoothly at the cutoff."""
    pair = [k for k in _PREFERRED if k in potential.elements] or sorted(potential.elements)
    ends = [Atoms([pair[0], pair[-1]], [[0, 0, 0], [0, 0, potential.cutoff - gap]]) for gap in (1e-3, -1e-3)]
    inside, outside = evaluate(ends)
    jump = float(max(abs(inside.energy - outside.energy), np.abs(inside.forces - outside.forces).max()))
    return Outcome("cutoff", "energy and force end without a jump (MD conserves energy)", jump, 1e-4, "dimer", False)


def _repulsion(evaluate: Evaluate, elements: Sequence[int]) -> Outcome:
    """Pairs repel each other when they overlap."""
    pairs = [Atoms([z, z], [[0, 0, 0], [0, 0, 1.1 * covalent_radii[z]]]) for z in elements]
    pull = {chemical_symbols[z]: result.forces[0, 2] for z, result in zip(elements, evaluate(pairs), strict=True)}
    worst = max(pull, key=lambda symbol: pull[symbol])
    count = sum(force > 0 for force in pull.values())
    meaning = f"atoms repel at 55 % of the bond length ({count} of {len(pull)} elements attract)"
    return Outcome("repulsion", meaning, float(pull[worst]), 0.0, worst, False)


def _batched(
    potential: Potential, dtype: str, capacity: Sizes, *, skin: float = 0.0, together: bool = True
) -> Evaluate:
    """Evaluate in batches of one static shape, so that everything shares one compilation."""
    cast = potential.astype(dtype)

    def run(graphs: list[Graph]) -> list[Properties]:
        with numerics(dtype):
            energy, forces, stress, energies = (
                np.asarray(x) for x in jit_predict(cast, as_dtype(batch(graphs, capacity), dtype))
            )
        ends = np.cumsum([len(graph.species) for graph in graphs])
        slices = [slice(end - len(graph.species), end) for graph, end in zip(graphs, ends, strict=True)]
        return [Properties(energy[k], forces[s], stress[k], energies[s]) for k, s in enumerate(slices)]

    def evaluate(structures: Sequence[Atoms]) -> list[Properties]:
        results, group, used = [], [], np.zeros(3, int)
        for atoms in structures:
            graph = from_ase(atoms, potential.cutoff + skin)
            need = np.array(sizes(graph))
            if group and (not together or ((used + need) >= capacity).any()):
                results += run(group)
                group, used = [], np.zeros(3, int)
            group.append(graph)
            used = used + need
        return results + (run(group) if group else [])

    return evaluate


def _through_ase(calculator: Any) -> Evaluate:
    """Evaluate one by one; raises CalculatorError with the reason of the first structure that fails."""

    def one(atoms: Atoms) -> Properties:
        done = compute(atoms, calculator)
        if done.calc is None:
            raise CalculatorError(done.info["reason"])
        labels = labels_from_ase(done)
        return Properties(labels.energy[0], labels.forces, labels.stress[0], labels.energies)

    return lambda structures: [one(atoms) for atoms in structures]
