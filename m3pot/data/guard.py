"""Refuse data that would spoil a training silently: wrong units, per-atom energies, NaN labels, mixed functionals."""

from collections.abc import Callable, Mapping

import numpy as np

from m3pot.data.consistency import explain, judge, work
from m3pot.data.frames import Frames, take
from m3pot.neighbors import neighbor_list
from m3pot.structure import MAX_ATOMIC_NUMBER

SWITCH_OFF = "or, if the data are right, set unit_guard = false"
_HUGE_STRESS = 10.0  # eV/A^3, 1600 GPa: more than any set of the field holds
_HIGH_STRESS = 0.3  # eV/A^3, 48 GPa: takes bonds that are clearly shortened
_MANY = 0.05  # share of frames; where fewer are high, compounds of odd radii under pressure may be what they look like
_HIGH_PRESSURE = 0.1  # eV/A^3, 16 GPa: most crystals cannot bear it as tension
_SHORT = 0.90  # mean nearest distance over the sum of covalent radii; near 0 GPa it is about 0.95, at 50 GPa about 0.81
_ENERGY_PER_ATOM = 1.5, 12.0  # eV; size of the total energy per atom of most solids
_MIN_PRESSED = 5  # frames that show the sign of the stress
_LARGE_FORCE, _MIN_STRAINED = 0.5, 20  # eV/A of an atom off its equilibrium; frames that show the sign of the forces
_SAMPLE = 100  # frames whose bonds are measured


class LabelError(ValueError):
    """Labels that cannot be trained on; the message says which, and what to do."""


def check(
    frames: Frames,
    *,
    elements: frozenset[int] | None = None,
    units: bool = True,
    predict: Callable[[Frames], Frames] | None = None,
) -> None:
    """Raise LabelError unless the frames can be trained on.

    Run it on each source of data by itself: a mixture hides a source with other units.

    Args:
        frames: labelled frames.
        elements: atomic numbers of the model; None: 1 to 94.
        units: also check units and signs: by the work between frames of the same crystal
            (:mod:`m3pot.data.consistency`), and where there are no such frames by what sizes are possible.
        predict: gives frames the labels of some potential; with it wrong units are found in any data.
    """
    _check_presence(frames)
    _check_finite(frames)
    _check_elements(frames, elements)
    if units:
        _check_units(frames, predict)


def same_functional(stated: Mapping[str, str]) -> None:
    """Raise LabelError if data of different exchange-correlation functionals would be mixed.

    ``stated`` is {name of the data: functional}, "" where it is not known. PBE and PBE+U count as one, as in the
    Materials Project.
    """
    families: dict[str, list[str]] = {}
    for name, functional in stated.items():
        if functional:
            families.setdefault(_family(functional), []).append(f"{functional} ({name})")
    if len(families) > 1:
        listed = " and ".join(members[0] for members in families.values())
        raise LabelError(
            f"The data mix functionals: {listed}; energies of different functionals cannot be fitted together, "
            "so train on one of them."
        )


def _family(functional: str) -> str:
    text = functional.upper().replace("GGA", "PBE").replace(" ", "")
    return "/".join(sorted({part.removesuffix("+U") for part in text.split("/")}))


def _check_presence(frames: Frames) -> None:
    if not len(frames):
        raise LabelError("The data hold no frames; check the files and filters.")
    if not np.isfinite(frames.energy).any() and not np.isfinite(frames.forces).any():
        raise LabelError(
            "The data hold neither energies nor forces; set energy_key and forces_key, or use `m3pot label` first."
        )


def _check_finite(frames: Frames) -> None:
    owner = np.repeat(np.arange(len(frames)), frames.n_atoms)
    forces = np.bincount(owner, np.isfinite(frames.forces).all(axis=1), len(frames))
    stress = np.isfinite(frames.stress).sum(axis=(1, 2))
    bad = {
        "an infinite energy": np.isinf(frames.energy),
        "forces that are NaN or infinite for some atoms": ((forces > 0) & (forces < frames.n_atoms)) | _any_inf(frames),
        "a stress that is partly NaN or infinite": ((stress > 0) & (stress < 9)) | np.isinf(frames.stress).any((1, 2)),
        "positions or a cell that are NaN": ~(
            np.bincount(owner, ~np.isfinite(frames.positions).all(axis=1), len(frames)) == 0
        )
        | ~np.isfinite(frames.cell).all((1, 2)),
        "no atoms": frames.n_atoms == 0,
    }
    for what, mask in bad.items():
        if mask.any():
            raise LabelError(f"{_name(frames, mask)} {what}; remove it from the data.")


def _any_inf(frames: Frames) -> np.ndarray:
    owner = np.repeat(np.arange(len(frames)), frames.n_atoms)
    return np.bincount(owner, np.isinf(frames.forces).any(axis=1), len(frames)) > 0


def _name(frames: Frames, mask: np.ndarray) -> str:
    (first, *others) = np.flatnonzero(mask)
    name = f"Frame {first} ({frames.name[first]})" if frames.name[first] else f"Frame {first}"
    return f"{name} and {len(others)} more have" if others else f"{name} has"


def _check_elements(frames: Frames, elements: frozenset[int] | None) -> None:
    known = np.zeros(256, bool)
    known[list(elements or range(1, MAX_ATOMIC_NUMBER + 1))] = True
    strange = ~known[frames.numbers]
    if strange.any():
        from ase.data import chemical_symbols

        listed = ", ".join(chemical_symbols[z] for z in np.unique(frames.numbers[strange]))
        owner = np.repeat(np.arange(len(frames)), frames.n_atoms)
        mask = np.bincount(owner, strange, len(frames)) > 0
        raise LabelError(
            f"{_name(frames, mask)} elements that the model does not know ({listed}); remove such frames or choose "
            "another model."
        )


def _check_units(frames: Frames, predict: Callable[[Frames], Frames] | None) -> None:
    verdict = judge(work(frames))
    if verdict.wrong:
        what = verdict.remedy or "energies, forces and stresses do not belong together: check their units and order"
        raise LabelError(
            f"In {verdict.pairs} pairs of frames of the same crystal the change of energy disagrees with the work of "
            f"forces and stress (typically by {100 * verdict.mismatch:.0f} %): {what}, {SWITCH_OFF}."
        )
    _check_net_force(frames)
    if not verdict.consistent:
        _check_per_atom(frames)
        _check_repulsion(frames)
    if not verdict.stress_pairs:
        _check_stress(frames)
    if predict is not None and not (verdict.consistent and verdict.stress_pairs):
        some = take(frames, np.sort(np.random.default_rng(0).permutation(len(frames))[:_SAMPLE]))
        if mistake := explain(some, predict(some)):
            raise LabelError(f"Compared with the predictions of a potential, {mistake}, {SWITCH_OFF}.")


def _check_net_force(frames: Frames) -> None:
    """Internal forces sum to zero."""
    owner = np.repeat(np.arange(len(frames)), frames.n_atoms)
    size = np.bincount(owner, np.linalg.norm(frames.forces, axis=1), len(frames))
    net = np.linalg.norm([np.bincount(owner, frames.forces[:, a], len(frames)) for a in range(3)], axis=0)
    clear = (frames.n_atoms > 1) & (size > 0.05 * frames.n_atoms)
    if clear.sum() >= 3 and np.median(net[clear] / size[clear]) > 0.25:
        raise LabelError(
            "The forces of most frames do not sum to zero, so they cannot be the forces that belong to the energies; "
            f"check the order of the atoms and whether forces of fixed atoms were set to zero, {SWITCH_OFF}."
        )


def _check_repulsion(frames: Frames) -> None:
    """Forces drive atoms away from their nearest neighbours, on average over frames away from equilibrium."""
    size = np.linalg.norm(np.nan_to_num(frames.forces), axis=1)
    owner = np.repeat(np.arange(len(frames)), frames.n_atoms)
    strained = np.flatnonzero(np.bincount(owner, size > _LARGE_FORCE, len(frames)))
    some = np.random.default_rng(0).permutation(strained)[:_SAMPLE]
    if len(some) < _MIN_STRAINED:
        return
    cosines = []
    for k in some:
        i, _, vectors, ratio = _bonds(frames, k)
        away = np.zeros((frames.n_atoms[k], 3))
        np.add.at(away, i, -vectors * np.exp(-ratio / 0.1)[:, None])
        forces = frames.forces[frames.ptr[k] : frames.ptr[k + 1]]
        lengths = np.linalg.norm(away, axis=1) * np.linalg.norm(forces, axis=1)
        clear = (size[frames.ptr[k] : frames.ptr[k + 1]] > _LARGE_FORCE) & (lengths > 0)
        cosines.append(np.sum(away * forces, axis=1)[clear] / lengths[clear])
    if np.mean(np.concatenate(cosines)) < -0.25:
        raise LabelError(
            "The forces drive atoms towards their nearest neighbours, so they look like gradients; "
            f"multiply them by -1, {SWITCH_OFF}."
        )


def _check_per_atom(frames: Frames) -> None:
    """Total energies grow with the number of atoms; their share per atom follows from the composition."""
    mask = np.isfinite(frames.energy)
    energy, n = frames.energy[mask], frames.n_atoms[mask]
    low, high = _ENERGY_PER_ATOM
    if len(energy) < 3 or np.median(n) < 3 or np.median(np.abs(energy / n)) > low:
        return
    suspicious = low < np.median(np.abs(energy)) < high
    if np.std(np.log(n)) > 0.2 and len(energy) >= 10:
        fractions = _fractions(frames)[mask]
        by_composition = _unexplained(fractions, energy / n) > _unexplained(fractions, energy)
        suspicious &= by_composition or abs(np.corrcoef(energy, n)[0, 1]) < 0.3
    if suspicious:
        raise LabelError(
            f"The energies look like energies per atom (median {np.median(energy):.3g} eV for "
            f"{np.median(n):.0f} atoms); give total energies, {SWITCH_OFF}."
        )


def _fractions(frames: Frames) -> np.ndarray:
    counts = np.zeros((len(frames), 119))
    np.add.at(counts, (np.repeat(np.arange(len(frames)), frames.n_atoms), frames.numbers.astype(int)), 1)
    return counts / frames.n_atoms[:, None]


def _unexplained(fractions: np.ndarray, energy: np.ndarray) -> float:
    """Share of the variance of the energies that the composition does not explain (ridge regression)."""
    a, y = fractions - fractions.mean(axis=0), energy - energy.mean()
    solution = np.linalg.solve(a.T @ a + 1e-2 * np.eye(a.shape[1]), a.T @ y)
    return float(np.sum((y - a @ solution) ** 2) / max(np.sum(y**2), 1e-12))


def _check_stress(frames: Frames) -> None:
    stress = frames.stress[np.isfinite(frames.stress).all((1, 2))]
    if not len(stress):
        return
    size = np.nan_to_num(np.abs(frames.stress).max((1, 2)), nan=0.0)
    typical, largest = np.quantile(np.abs(stress).max((1, 2)), (0.5, 0.99))
    count = int((size > _HIGH_STRESS).sum())
    high = np.argsort(-size, kind="stable")[: min(count, _SAMPLE)]
    bonds = _bond_ratio(frames, high)
    long = count >= max(3, _MANY * len(stress)) and np.median(bonds) > _SHORT
    if long or largest > _HUGE_STRESS:
        raise LabelError(
            f"The stresses (median {typical:.3g}, largest {size.max():.3g}) are not possible in eV/A^3 at these "
            f'distances between atoms; they look like GPa or kbar: set stress_unit = "GPa" or "kbar", {SWITCH_OFF}.'
        )
    pressure = -np.trace(frames.stress[high], axis1=1, axis2=2) / 3
    pressed = (np.abs(pressure) > _HIGH_PRESSURE) & (bonds < _SHORT)
    if pressed.sum() >= _MIN_PRESSED and np.mean(pressure[pressed] < 0) > 0.8:
        raise LabelError(
            "The stresses say tension where the atoms are pressed together, so their sign is opposite to ASE's; "
            f"set stress_sign = -1 (or 1 where it is -1 now), {SWITCH_OFF}."
        )


def _bond_ratio(frames: Frames, indices: np.ndarray) -> np.ndarray:
    """Mean distance to the nearest neighbour over the sum of covalent radii, of each of these frames (k,)."""
    means = []
    for k in indices:
        i, _, _, ratio = _bonds(frames, k)
        nearest = np.full(frames.n_atoms[k], 2.0)
        np.minimum.at(nearest, i, ratio)
        means.append(nearest.mean())
    return np.array(means)


def _bonds(frames: Frames, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Edges up to 5 A of one frame: centres, neighbours, vectors (e, 3) A, lengths over the sum of covalent radii."""
    from ase.data import covalent_radii

    atoms = slice(frames.ptr[k], frames.ptr[k + 1])
    positions, numbers = frames.positions[atoms], frames.numbers[atoms]
    i, j, shift = neighbor_list(positions, frames.cell[k], frames.pbc[k], 5.0)
    vectors = positions[j] - positions[i] + shift @ frames.cell[k]
    ratio = np.linalg.norm(vectors, axis=1) / (covalent_radii[numbers[i]] + covalent_radii[numbers[j]])
    return i, j, vectors, ratio
