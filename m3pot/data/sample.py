"""Changes of a given crystal, to be labelled: rattle, strain, compression, heat, substitution, a pair pushed together.

Pure functions of a crystal and a numpy Generator, in A, K and GPa. The order of the draws is part of the recipe of the
shipped models: keep it.
"""

from collections.abc import Sequence

import numpy as np
from ase.data import covalent_radii

from m3pot.data.crystal import ELEMENTS, NOBLE, TRANSITION_METALS, Crystal, Rejected, closest, is_cubic, similar
from m3pot.units import BOLTZMANN

Range = tuple[float, float]


def rattle(crystal: Crystal, rng: np.random.Generator, displacement: float | Range) -> Crystal:
    """Gaussian displacements of this standard deviation in A, drawn uniformly if it is a range."""
    noise = rng.normal(size=crystal.positions.shape)
    if isinstance(displacement, tuple):
        displacement = rng.uniform(*displacement)
    return crystal._replace(positions=crystal.positions + noise * displacement)


def strain(crystal: Crystal, rng: np.random.Generator, amplitude: float | Sequence[float]) -> Crystal:
    """A symmetric strain with components up to ``amplitude``; of several amplitudes one is chosen."""
    tensor = rng.uniform(-1, 1, (3, 3))
    tensor *= rng.choice(amplitude) if np.ndim(amplitude) else amplitude
    return _deform(crystal, np.eye(3) + (tensor + tensor.T) / 2)


def disturb(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """What a relaxation meets on its way: strained by up to 0.5 to 5 %, displaced by 0.006 to 0.15 A (log-uniform)."""
    crystal = strain(crystal, rng, (0.005, 0.015, 0.03, 0.05))
    return rattle(crystal, rng, float(np.exp(rng.uniform(np.log(0.006), np.log(0.15)))))


def compress(crystal: Crystal, pressure: float) -> Crystal:
    """Scale to the volume that a Murnaghan equation with a guessed bulk modulus gives at ``pressure`` in GPa."""
    return _deform(crystal, np.eye(3) * volume_ratio(crystal, pressure) ** (1 / 3))


def volume_ratio(crystal: Crystal, pressure: float) -> float:
    """V/V0 = (1 + B' P / B)^(-1/B') within 0.5 to 1.2, B' = 4, B = 120 GPa (11.8 A^3 / volume per atom)^2.2.

    The guess of B is a fit by eye to elements and oxides, within 15 to 400 GPa. Murnaghan, PNAS 30, 244 (1944).
    """
    modulus = np.clip(120 * (11.8 / volume_per_atom(crystal)) ** 2.2, 15, 400)
    return float(np.clip((1 + 4 * max(pressure, -0.2 * modulus) / modulus) ** -0.25, 0.5, 1.2))


def volume_per_atom(crystal: Crystal) -> float:
    """In A^3. Raises Rejected for what is not periodic in three directions."""
    volume = abs(np.linalg.det(crystal.cell))
    if not all(crystal.pbc) or volume < 1e-6:
        raise Rejected("not periodic in three directions")
    return float(volume / len(crystal.numbers))


def heat(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """A crystal of 5 atoms or more at -10 to 150 GPa and, as independent oscillators, at 300 to 3000 K; strained a bit.

    Raises Rejected if atoms come closer than 0.55 of the sum of covalent radii.
    """
    crystal = enlarge(crystal, rng)
    draw = rng.random()
    pressure = rng.uniform(-10, 0) if draw < 0.2 else rng.uniform(0, 30) if draw < 0.65 else rng.uniform(30, 150)
    if volume_per_atom(crystal) > 35:  # layers and molecules with empty space between them
        pressure = min(pressure, 20.0)
    ratio = volume_ratio(crystal, pressure)
    crystal = strain(compress(crystal, pressure), rng, (0.01, 0.03, 0.08))
    temperature = np.exp(rng.uniform(np.log(300), np.log(3000)))
    spring = np.exp(rng.uniform(np.log(3), np.log(12)))  # eV/A^2, of an atom in its cage
    crystal = rattle(crystal, rng, float(np.sqrt(BOLTZMANN * temperature / spring) * ratio ** (1 / 3)))
    if closest(crystal) < 0.55:
        raise Rejected("close")
    return crystal


def enlarge(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """Repeat a cell of up to 4 atoms along its shortest vectors to about 5 to 12, so that atoms move independently."""
    count, repeats = len(crystal.numbers), np.ones(3, int)
    if count <= 4:
        while count * repeats.prod() < rng.integers(5, 13):
            repeats[np.argmin(np.linalg.norm(crystal.cell, axis=1) * repeats)] += 1
    return repeat(crystal, repeats)


def repeat(crystal: Crystal, repeats: Sequence[int]) -> Crystal:
    """Supercell of ``repeats`` cells along each lattice vector."""
    steps = np.stack(np.meshgrid(*map(np.arange, repeats), indexing="ij"), axis=-1).reshape(-1, 3)
    return crystal._replace(
        numbers=np.tile(crystal.numbers, len(steps)),
        positions=((steps @ crystal.cell)[:, None] + crystal.positions).reshape(-1, 3),
        cell=crystal.cell * np.asarray(repeats)[:, None],
    )


def substitute(
    crystal: Crystal, rng: np.random.Generator, *, old: int = 0, new: int = 0, jitter: float = 0.03
) -> Crystal:
    """Replace all atoms of one element by a chemically similar one and scale all lengths by the covalent radii.

    Args:
        crystal: any crystal.
        rng: source of the draws.
        old: atomic number to be replaced; 0 draws one.
        new: atomic number that takes the place; 0 draws one that is similar and not yet there.
        jitter: relative change of the lengths on top, at most.

    Raises Rejected if nothing fits.
    """
    elements = np.unique(crystal.numbers)
    if not old:
        old = int(rng.choice([e for e in elements if similar(e)] or elements))
    if not new:
        candidates = [e for e in similar(old) if e not in elements]
        if not candidates:
            raise Rejected("no similar element")
        new = int(rng.choice(candidates))
    numbers = np.where(crystal.numbers == old, new, crystal.numbers)
    scale = covalent_radii[numbers].sum() / covalent_radii[crystal.numbers].sum() * (1 + jitter * rng.uniform(-1, 1))
    return _deform(crystal._replace(numbers=numbers), np.eye(3) * scale)


def decorate(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """Other elements at random on every sublattice, at 0.85 to 1.15 of the volume that the covalent radii suggest.

    Noble gases are left out. Hydrogen and the second row come half as often, being small for most sites.
    Raises Rejected if the crystal is mostly vacuum, as slabs and molecules are.
    """
    old = np.unique(crystal.numbers)
    if 4 / 3 * np.pi * (covalent_radii[crystal.numbers] ** 3).mean() < 0.25 * volume_per_atom(crystal):
        raise Rejected("mostly vacuum")
    weights = np.where(np.isin(ELEMENTS, NOBLE), 0.0, np.where(ELEMENTS < 10, 0.5, 1.0))
    new = rng.choice(ELEMENTS, len(old), replace=False, p=weights / weights.sum())
    return _occupy(crystal, new[np.searchsorted(old, crystal.numbers)], rng.uniform(0.85, 1.15))


_ANIONS = np.array([1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 33, 34, 35, 52, 53])


def compound(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """A crystal of two elements made anew: one of 15 anions (oxygen half of the time) and any other element.

    Lengths are scaled by the covalent radii. Raises Rejected for more than 12 atoms or other than two elements, and for
    oxides with a cubic space group: these are what the ACWF benchmark holds.
    """
    old = np.unique(crystal.numbers)
    if len(old) != 2 or len(crystal.numbers) > 12:
        raise Rejected("not a small binary crystal")
    volume_per_atom(crystal)
    anion = 8 if rng.random() < 0.5 else int(rng.choice(_ANIONS))
    weights = np.where(np.isin(ELEMENTS, NOBLE), 0.3, 1.0) * (anion != ELEMENTS)
    other = int(rng.choice(ELEMENTS, p=weights / weights.sum()))
    new = np.array([anion, other])[:: 1 if np.isin(old[0], _ANIONS) and rng.random() < 0.9 else -1]
    numbers = new[np.searchsorted(old, crystal.numbers)]
    if 8 in new and is_cubic(crystal._replace(numbers=numbers)):
        raise Rejected("cubic oxide")
    return _occupy(crystal, numbers)


_MOBILE = (3, 11, 19, 37, 55, 12, 20, 30)  # what leaves the electrodes of batteries


def disorder(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """Part of a mobile element taken out, part of a transition metal replaced by a similar one, or both.

    A quarter to all of the sites of Li, Na, K, Rb, Cs, Mg, Ca or Zn; a quarter to three quarters of those of the metal;
    sites at random, lengths as they are; cells of fewer than 8 atoms are repeated. Raises Rejected if there is neither,
    or nothing left.
    """
    while len(crystal.numbers) < 8:
        crystal = repeat(crystal, 1 + (np.arange(3) == np.argmin(np.linalg.norm(crystal.cell, axis=1))))
    elements, draw = np.unique(crystal.numbers), rng.random()
    mobile = elements[np.isin(elements, _MOBILE)]
    metals = elements[np.isin(elements, np.concatenate(TRANSITION_METALS))]
    numbers, kept = crystal.numbers.copy(), np.ones(len(crystal.numbers), bool)
    if len(mobile) and (draw < 0.65 or not len(metals)):
        sites = np.flatnonzero(numbers == rng.choice(mobile))
        count = max(1, round(len(sites) * float(rng.choice([0.25, 0.5, 0.75, 1.0]))))
        kept[rng.choice(sites, count, replace=False)] = False
    if len(metals) and (draw > 0.35 or not len(mobile)):
        metal = int(rng.choice(metals))
        sites = np.flatnonzero(numbers == metal)
        count = max(1, round(len(sites) * float(rng.choice([0.25, 0.5, 0.75]))))
        numbers[rng.choice(sites, count, replace=False)] = rng.choice(similar(metal))
    if kept.all() and (numbers == crystal.numbers).all():
        raise Rejected("no mobile element and no transition metal")
    if not kept.any():
        raise Rejected("nothing left")
    return crystal._replace(numbers=numbers[kept], positions=crystal.positions[kept])


def push_pair(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """Push two neighbours together to 0.6 to 0.95 of the sum of covalent radii, the rest rattled by 0.05 A.

    Raises Rejected for more than 14 atoms or if the pair drawn is closer already.
    """
    import vesin

    volume_per_atom(crystal)
    if (count := len(crystal.numbers)) > 14:
        raise Rejected("more than 14 atoms")
    if count < 4:
        crystal = repeat(crystal, (2, 1, 1) if count > 1 else (2, 2, 1))
    # The draw is made in the order in which vesin finds pairs, on which the frames of the shipped models depend.
    finder = vesin.NeighborList(cutoff=4.5, full_list=True)
    i, j, vectors, distances = finder.compute(
        points=crystal.positions, box=crystal.cell, periodic=True, quantities="ijDd"
    )
    pairs = np.flatnonzero(i != j)
    if not len(pairs):
        raise Rejected("no pair")
    weights = np.exp(-2 * distances[pairs])
    pair = rng.choice(pairs, p=weights / weights.sum())
    wanted = covalent_radii[crystal.numbers[[i[pair], j[pair]]]].sum() * rng.uniform(0.6, 0.95)
    if wanted > distances[pair]:
        raise Rejected("no pair")
    move = (distances[pair] - wanted) / distances[pair] / 2 * vectors[pair]
    positions = crystal.positions.copy()
    positions[i[pair]] += move
    positions[j[pair]] -= move
    return rattle(crystal._replace(positions=positions), rng, 0.05)


def _deform(crystal: Crystal, deformation: np.ndarray) -> Crystal:
    return crystal._replace(positions=crystal.positions @ deformation, cell=crystal.cell @ deformation)


def _occupy(crystal: Crystal, numbers: np.ndarray, stretch: float = 1.0) -> Crystal:
    """Other elements on the same sites, at ``stretch`` times the volume that the covalent radii suggest."""
    ratio = (covalent_radii[numbers] ** 3).sum() / (covalent_radii[crystal.numbers] ** 3).sum()
    return _deform(crystal._replace(numbers=numbers), np.eye(3) * (ratio * stretch) ** (1 / 3))
