"""What to sample, in which order: item n of a recipe depends on the parents, the seed and n, and on nothing else."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from m3pot.data import generate, molecular, sample
from m3pot.data.crystal import ELEMENTS, NOBLE, Crystal, Rejected, is_binary_oxide, similar
from m3pot.data.sample import Range
from m3pot.data.split import reduced_formula

# Elements that the parents of the shipped models have too rarely, and how often to bring them in.
_SCARCE = (*NOBLE, 43, 61, 89, 90, 91, 93, 94, 92, 59, 63, 69, 76, 75, 4, 21, 80, 81, 35, 37, 70, 71, 44, 64)
_SCARCE_WEIGHTS = np.array([1, 1, 1, 1, 2, 4, 4, 3, 2, 3, 3, 3, 1] + [1] * 15, float)
_NOBLE_SITES = (9, 17, 35, 53, 8, 16, 3, 11, 19, 37, 55)  # where a noble gas is put instead


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """Parents and settings of a recipe."""

    crystals: Sequence[Crystal] = ()
    names: Sequence[str] = ()  # of the parents, for splits by parent
    excluded: frozenset[str] = frozenset()  # reduced formulas that must not be made
    seed: int = 0
    max_atoms: int | None = None  # of parents; None is no limit
    max_changed: int | None = None  # of parents of changed frames
    displacement: Range = (0.02, 0.2)  # A, standard deviation of rattle
    strain: float = 0.05  # largest component of strain
    pressure: Range = (0.0, 100.0)  # GPa, of compress

    @functools.cached_property
    def formulas(self) -> list[str]:
        """Of each parent, reduced."""
        return [reduced_formula(crystal.numbers) for crystal in self.crystals]

    @functools.cached_property
    def usable(self) -> np.ndarray:
        """Parents within ``max_atoms``."""
        return self._within(self.max_atoms)

    @functools.cached_property
    def changed(self) -> np.ndarray:
        """Parents within ``max_changed`` whose formula is not excluded."""
        return np.array([k for k in self._within(self.max_changed) if self.formulas[k] not in self.excluded], int)

    @functools.cached_property
    def binaries(self) -> np.ndarray:
        """Parents for changes that have two elements."""
        return np.array([k for k in self.changed if len(np.unique(self.crystals[k].numbers)) == 2], int)

    @functools.cached_property
    def order(self) -> np.ndarray:
        """The usable parents shuffled, small ones first on average."""
        sizes = np.array([len(self.crystals[k].numbers) for k in self.usable], float)
        keys = np.random.default_rng([self.seed, 0]).random(len(sizes)) * np.sqrt(sizes + 4)
        return self.usable[np.argsort(keys)]

    @functools.cached_property
    def by_element(self) -> dict[int, list[int]]:
        """Parents for changes that contain an element."""
        found: dict[int, list[int]] = {}
        for k in self.changed.tolist():
            for number in np.unique(self.crystals[k].numbers).tolist():
                found.setdefault(number, []).append(k)
        return found

    @functools.cached_property
    def prototypes(self) -> list[tuple[int, str]]:
        """Every element in every lattice three times, shuffled."""
        every = [(int(z), lattice) for z in ELEMENTS for lattice in generate.LATTICES for _ in range(3)]
        return [every[k] for k in np.random.default_rng([self.seed, 2]).permutation(len(every))]

    def _within(self, limit: int | None) -> np.ndarray:
        sizes = [len(crystal.numbers) for crystal in self.crystals]
        return np.array([k for k, size in enumerate(sizes) if limit is None or size <= limit], int)


class Drawn(NamedTuple):
    """Item n of a recipe, or the reason why there is none."""

    kind: str
    group: str  # parent crystal, or the formula if it was made from nothing: never split frames of one group
    crystal: Crystal | None
    reason: str = ""


Maker = Callable[[Source, int, np.random.Generator], tuple[int, Crystal]]  # (source, k, rng) -> parent or -1, crystal


def _pool(source: Source, k: int, rng: np.random.Generator) -> tuple[int, Crystal]:
    if k >= len(source.order):
        raise Rejected("no parents left")
    parent = int(source.order[k])
    return parent, source.crystals[parent]


def _choose(source: Source, candidates: np.ndarray | Sequence[int], rng: np.random.Generator) -> tuple[int, Crystal]:
    if not len(candidates):
        raise Rejected("no parent")
    parent = int(rng.choice(candidates))
    return parent, source.crystals[parent]


def _in_turn(source: Source, k: int) -> tuple[int, Crystal]:
    if not len(source.changed):
        raise Rejected("no parent")
    parent = int(source.changed[k % len(source.changed)])
    return parent, source.crystals[parent]


def _rattle(source: Source, k: int, rng: np.random.Generator) -> tuple[int, Crystal]:
    parent, crystal = _in_turn(source, k)
    return parent, sample.rattle(crystal, rng, source.displacement)


def _near(source: Source, k: int, rng: np.random.Generator) -> tuple[int, Crystal]:
    parent, crystal = _in_turn(source, k)
    return parent, sample.disturb(crystal, rng)


def _strain(source: Source, k: int, rng: np.random.Generator) -> tuple[int, Crystal]:
    parent, crystal = _in_turn(source, k)
    return parent, sample.strain(crystal, rng, source.strain)


def _compress(source: Source, k: int, rng: np.random.Generator) -> tuple[int, Crystal]:
    parent, crystal = _in_turn(source, k)
    return parent, sample.compress(crystal, rng.uniform(*source.pressure))


def _substitute(source: Source, k: int, rng: np.random.Generator) -> tuple[int, Crystal]:
    parent, crystal = _choose(source, source.changed if rng.random() < 0.85 else source.usable, rng)
    return parent, sample.substitute(crystal, rng)


def _decorate(source: Source, k: int, rng: np.random.Generator) -> tuple[int, Crystal]:
    return -1, sample.decorate(_choose(source, source.changed, rng)[1], rng)


def _compound(source: Source, k: int, rng: np.random.Generator) -> tuple[int, Crystal]:
    return -1, sample.compound(_choose(source, source.binaries, rng)[1], rng)


def _ions(source: Source, k: int, rng: np.random.Generator) -> tuple[int, Crystal]:
    """Molecular ions where an element of like charge was; in a third, and where there is none, molecules in holes."""
    _, crystal = _choose(source, source.changed, rng)
    change = molecular.exchange if k % 3 and molecular.exchangeable(crystal.numbers) else molecular.insert
    return -1, change(crystal, rng)


def _disorder(source: Source, k: int, rng: np.random.Generator) -> tuple[int, Crystal]:
    parent, crystal = _choose(source, source.changed, rng)
    return parent, sample.disorder(crystal, rng)


def _hot(source: Source, k: int, rng: np.random.Generator) -> tuple[int, Crystal]:
    parent, crystal = _choose(source, source.changed, rng)
    return parent, sample.heat(crystal, rng)


def _pair(source: Source, k: int, rng: np.random.Generator) -> tuple[int, Crystal]:
    parent, crystal = _choose(source, source.changed, rng)
    return parent, sample.push_pair(crystal, rng)


def _element(source: Source, k: int, rng: np.random.Generator) -> tuple[int, Crystal]:
    return -1, generate.element(*source.prototypes[k % len(source.prototypes)], rng)


def _scarce(source: Source, rng: np.random.Generator) -> tuple[int, Crystal]:
    new = int(rng.choice(_SCARCE, p=_SCARCE_WEIGHTS / _SCARCE_WEIGHTS.sum()))
    old = int(rng.choice(_NOBLE_SITES if new in NOBLE else similar(new)))
    parent, crystal = _choose(source, source.by_element.get(old, ()), rng)
    if new in crystal.numbers:
        raise Rejected("element is there")
    return parent, sample.substitute(crystal, rng, old=old, new=new, jitter=0.06)


def _rare(source: Source, k: int, rng: np.random.Generator) -> tuple[int, Crystal]:
    """Elements, binary prototypes and scarce elements in turn, a third of each rattled, a third strained."""
    if k % 3 == 0 and k // 3 < len(source.prototypes):
        parent, crystal = _element(source, k // 3, rng)
    else:
        parent, crystal = (-1, generate.binary(rng)) if k % 3 == 1 else _scarce(source, rng)
    if rng.random() < 0.35 and len(crystal.numbers) > 1:
        crystal = sample.rattle(crystal, rng, (0.02, 0.15))
    if rng.random() < 0.35:
        crystal = sample.strain(crystal, rng, 0.05)
    return parent, crystal


def _dimer(source: Source, k: int, rng: np.random.Generator) -> tuple[int, Crystal]:
    first = int(ELEMENTS[k % len(ELEMENTS)])
    return -1, generate.dimer(first, first if rng.random() < 0.6 else int(rng.choice(ELEMENTS)), rng)


def _short(source: Source, k: int, rng: np.random.Generator) -> tuple[int, Crystal]:
    """Dimers of each element in turn, of two elements at random, a pair in a crystal, dense atoms."""
    match k % 4:
        case 0:
            return _dimer(source, k // 2, rng)
        case 1:
            return -1, generate.dimer(int(rng.choice(ELEMENTS)), int(rng.choice(ELEMENTS)), rng)
        case 2:
            return _pair(source, k, rng)
        case _:
            return -1, generate.dense(rng)


KINDS: Mapping[str, Maker] = {
    "pool": _pool,
    "near": _near,
    "rattle": _rattle,
    "strain": _strain,
    "compress": _compress,
    "subst": _substitute,
    "decorate": _decorate,
    "compound": _compound,
    "ions": _ions,
    "disorder": _disorder,
    "hot": _hot,
    "rare": _rare,
    "short": _short,
    "element": _element,
    "binary": lambda source, k, rng: (-1, generate.binary(rng)),
    "dimer": _dimer,
    "pair": _pair,
    "dense": lambda source, k, rng: (-1, generate.dense(rng)),
    "molecules": lambda source, k, rng: (-1, molecular.pack(rng)),
    "random": lambda source, k, rng: (-1, generate.symmetric(rng)),
}
FROM_NOTHING = frozenset({"element", "binary", "dimer", "dense", "molecules", "random"})  # kinds that need no parents
_HALF = (
    *("pool", "hot", "pool", "subst", "pool", "rare", "hot", "pool", "short", "pool"),
    *("hot", "subst", "pool", "rare", "hot", "pool", "subst", "pool", "hot"),
)
UNIVERSAL = (*_HALF, "rare", *_HALF, "short")  # the cycle of the shipped models


def place(n: int, cycle: Sequence[str]) -> tuple[str, int]:
    """Kind of item n of an endlessly repeated cycle of kinds, and how many items of this kind came before."""
    rounds, rest = divmod(n, len(cycle))
    kind = cycle[rest]
    return kind, rounds * cycle.count(kind) + cycle[:rest].count(kind)


def draw(source: Source, cycle: Sequence[str], n: int, kinds: Mapping[str, Maker] = KINDS) -> Drawn:
    """Item n. No formula is in ``source.excluded``, and but for those of "compound" no new one is a binary oxide.

    Dimers are exempt.

    Args:
        source: parents and settings.
        cycle: kinds, repeated without end; the same kind may occur several times.
        n: number of the item.
        kinds: what a kind does.
    """
    kind, k = place(n, cycle)
    try:
        parent, crystal = kinds[kind](source, k, np.random.default_rng([source.seed, 1, n]))
    except Rejected as reason:
        return Drawn(kind, "", None, str(reason))
    composition = reduced_formula(crystal.numbers)
    group = source.names[parent] if parent >= 0 else composition
    if not _is_dimer(crystal):
        if composition in source.excluded:
            return Drawn(kind, group, None, "excluded formula")
        new = kind != "compound" and (parent < 0 or composition != source.formulas[parent])
        if new and is_binary_oxide(crystal.numbers):
            return Drawn(kind, group, None, "binary oxide")
    return Drawn(kind, group, crystal)


def _is_dimer(crystal: Crystal) -> bool:
    """Two atoms in the box of :func:`generate.dimer`: a molecule, whatever crystal has the same formula."""
    return len(crystal.numbers) == 2 and np.array_equal(crystal.cell, np.eye(3) * generate.BOX)
