"""Do energies, forces and stresses of a data set belong together? The work between two states of a crystal tells.

For two frames of the same atoms that differ by displacements d (at fixed cell) and a strain e, the trapezoidal rule
gives E_2 - E_1 = -(F_1 + F_2)/2 . d + V (s_1 + s_2)/2 : e up to third order in d and e. A wrong unit or sign of any
label breaks this at once, whatever the elements and whoever made the data.
"""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from m3pot.data.frames import Frames
from m3pot.units import GPA

MIN_PAIRS = 5  # fewer prove nothing
MISMATCH = 0.2  # median |dE - W| over median |dE| + |W_F| + |W_S|; right labels give 0.01 to 0.13, wrong ones 0.3 to 1
UNEXPLAINED = 0.3  # a mismatch above is an error even if no known mistake explains it
_MAX_STRAIN, _MAX_ROTATION, _MAX_RMS, _MAX_MOVE = 0.05, 0.01, 0.35, 0.8  # 1, 1, A, A
_PER_CRYSTAL = 50  # pairs of one crystal at most

HARTREE, BOHR, KCAL = 27.211386, 0.52917721, 0.0433641  # eV, A, eV (kcal/mol)


class Work(NamedTuple):
    """p pairs of frames: change of energy, and the work that forces and stress give for it."""

    energy: np.ndarray  # (p,) eV
    forces: np.ndarray  # (p,) eV
    stress: np.ndarray  # (p,) eV; 0 where the cells are equal
    by_stress: np.ndarray  # (p,) share of the stress in the work without regard to its sign, 0 to 1
    step: np.ndarray  # (p,) A; root mean square displacement, that of the strain over 3 A included
    n_atoms: np.ndarray  # (p,)
    volume: np.ndarray  # (p,) A^3


class Verdict(NamedTuple):
    """Outcome of :func:`judge`."""

    pairs: int  # pairs that were compared; 0 if too few
    mismatch: float  # median, see MISMATCH; NaN if too few pairs
    stress_pairs: int  # pairs in which the stress does most of the work; 0 if too few
    remedy: str  # what would make the labels agree, "" if nothing of the known mistakes does

    @property
    def consistent(self) -> bool:
        """True if there were enough pairs and they agree."""
        return bool(self.mismatch < MISMATCH)

    @property
    def wrong(self) -> bool:
        """True if there were enough pairs and they disagree clearly, or as one of the known mistakes makes them."""
        return bool(self.remedy or self.mismatch > UNEXPLAINED)


_ENERGY_MISTAKES = {
    "energies look like energies per atom: give total energies": "per atom",
    "energies look like hartree: convert them to eV": HARTREE,
    "energies look like rydberg: convert them to eV": HARTREE / 2,
    "energies look like kcal/mol: convert them to eV": KCAL,
}
_FORCE_MISTAKES = {
    "forces have the wrong sign: they look like gradients; multiply them by -1": -1.0,
    "forces look like hartree/bohr: convert them to eV/A": HARTREE / BOHR,
    "forces look like rydberg/bohr: convert them to eV/A": HARTREE / BOHR / 2,
    "forces look like eV/bohr: convert them to eV/A": 1 / BOHR,
    "forces look like kcal/mol/A: convert them to eV/A": KCAL,
}
_STRESS_MISTAKES = {
    "stress has the wrong sign: set stress_sign = -1 (or 1 where it is -1 now)": -1.0,
    'stress looks like GPa taken for eV/A^3: set stress_unit = "GPa"': GPA,
    'stress looks like GPa with compression positive: set stress_unit = "GPa", stress_sign = -1': -GPA,
    'stress looks like kbar taken for eV/A^3: set stress_unit = "kbar"': GPA / 10,
    'stress looks like kbar with compression positive: set stress_unit = "kbar", stress_sign = -1': -GPA / 10,
    'stress looks like kbar taken for GPa: set stress_unit = "kbar"': 0.1,
    'stress looks like eV/A^3 taken for GPa: set stress_unit = "eV/A^3"': 1 / GPA,
    'stress looks like a virial in eV: set stress_unit = "eV"': "virial",
    'stress looks like a virial in eV with compression positive: set stress_unit = "eV", stress_sign = -1': "-virial",
}


def work(frames: Frames, limit: int = 2000) -> Work:
    """Pairs of similar frames of the same atoms in the same order, of the same parent crystal where that is known.

    At most ``limit`` pairs, the same in every run.
    """
    crystals: dict[tuple[str, bytes], list[int]] = {}
    owner = np.repeat(np.arange(len(frames)), frames.n_atoms)
    usable = np.isfinite(frames.energy)
    np.logical_and.at(usable, owner, np.isfinite(frames.forces).all(axis=1))
    for k in np.flatnonzero(usable):
        numbers = frames.numbers[frames.ptr[k] : frames.ptr[k + 1]].tobytes()
        crystals.setdefault((str(frames.group[k]), numbers), []).append(int(k))
    rng = np.random.default_rng(0)
    shared = [members for members in crystals.values() if len(members) > 1]
    found: list[tuple[float, ...]] = []
    for which in rng.permutation(len(shared)):
        members = np.array(shared[which])
        count = 0
        for a, b in _partners(members, rng):
            pair = _pair(frames, a, b)
            if pair is not None:
                found.append(pair)
                count += 1
            if count == _PER_CRYSTAL:
                break
        if len(found) >= limit:
            break
    return Work(*np.array(found, np.float64).reshape(-1, len(Work._fields)).T)


def _partners(members: np.ndarray, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    start = int(rng.integers(max(len(members) - 2 * _PER_CRYSTAL, 1)))
    yield from itertools.pairwise(members[start : start + 2 * _PER_CRYSTAL])
    if len(members) > 2:  # neighbours in the file may be far apart, as in a set that was shuffled
        picked = rng.integers(len(members), size=(4 * _PER_CRYSTAL, 2))
        yield from members[picked[picked[:, 0] != picked[:, 1]]]


def _pair(frames: Frames, a: int, b: int) -> tuple[float, ...] | None:
    first, second = slice(frames.ptr[a], frames.ptr[a + 1]), slice(frames.ptr[b], frames.ptr[b + 1])
    moved = frames.positions[second] - frames.positions[first]
    stress_work, stress_size, stretch, volume = 0.0, 0.0, 0.0, 1.0
    if frames.pbc[a].any() or frames.pbc[b].any():
        cell, other = frames.cell[a], frames.cell[b]
        if min(abs(np.linalg.det(cell)), abs(np.linalg.det(other))) < 1e-3:
            return None
        change = np.linalg.solve(cell, other) - np.eye(3)
        strain = (change + change.T) / 2
        if np.abs(strain).max() > _MAX_STRAIN or np.abs(change - strain).max() > _MAX_ROTATION:
            return None
        mean = (cell + other) / 2
        moved = frames.positions[second] @ np.linalg.inv(other) - frames.positions[first] @ np.linalg.inv(cell)
        moved = (moved - np.round(moved)) @ mean
        volume, stretch = abs(np.linalg.det(mean)), 3 * float(np.linalg.norm(strain))
        if np.abs(strain).max() > 1e-7:
            works = volume * (frames.stress[a] + frames.stress[b]) / 2 * strain
            stress_work, stress_size = float(works.sum()), float(np.abs(works).sum())
    moved = moved - moved.mean(axis=0)
    squares = np.sum(moved**2, axis=1)
    if not np.isfinite(stress_work) or squares.mean() > _MAX_RMS**2 or squares.max() > _MAX_MOVE**2:
        return None
    works = -(frames.forces[first] + frames.forces[second]) / 2 * moved
    share = stress_size / max(stress_size + float(np.abs(works).sum()), 1e-12)
    change_of_energy = float(frames.energy[b] - frames.energy[a])
    step = float(np.hypot(np.sqrt(squares.mean()), stretch))
    return change_of_energy, float(works.sum()), stress_work, share, step, float(len(moved)), volume


def judge(pairs: Work) -> Verdict:
    """Whether the labels of these pairs agree, and if not, which known mistake explains it."""
    mismatch, used, stress_pairs = _mismatch(pairs)
    if used < MIN_PAIRS or mismatch < MISMATCH:
        return Verdict(used if used >= MIN_PAIRS else 0, mismatch, stress_pairs, "")
    corrected = {}
    for text, alternative in _alternatives(pairs):
        after, count, led_by_stress = _mismatch(alternative)
        # Forces that are scaled away would explain anything where the stress does the work.
        corrected[text] = after if text in _STRESS_MISTAKES or count - led_by_stress >= MIN_PAIRS else float("nan")
    best = min(corrected, key=lambda text: np.nan_to_num(corrected[text], nan=np.inf))
    explained = corrected[best] < min(MISMATCH, 0.5 * mismatch)
    return Verdict(used, mismatch, stress_pairs, best if explained else "")


def _alternatives(pairs: Work) -> Iterator[tuple[str, Work]]:
    factors = {"per atom": pairs.n_atoms, "virial": 1 / pairs.volume, "-virial": -1 / pairs.volume}
    for text, factor in _ENERGY_MISTAKES.items():
        yield text, _scaled(pairs, energy=factors.get(factor, factor))
    for text, factor in _FORCE_MISTAKES.items():
        yield text, _scaled(pairs, forces=factor)
    for text, factor in _STRESS_MISTAKES.items():
        yield text, _scaled(pairs, stress=factors.get(factor, factor))
    yield (
        "energies and forces look like hartree and hartree/bohr: convert them to eV and eV/A",
        _scaled(pairs, energy=HARTREE, forces=HARTREE / BOHR),
    )


def _scaled(pairs: Work, energy: Any = 1.0, forces: Any = 1.0, stress: Any = 1.0) -> Work:
    by_stress, by_forces = pairs.by_stress * np.abs(stress), (1 - pairs.by_stress) * np.abs(forces)
    return pairs._replace(
        energy=pairs.energy * energy,
        forces=pairs.forces * forces,
        stress=pairs.stress * stress,
        by_stress=by_stress / np.maximum(by_stress + by_forces, 1e-12),
    )


def explain(frames: Frames, predicted: Frames) -> str:
    """The known mistake that makes the labels of ``frames`` differ from what a potential predicts for them, or "".

    Any potential of the right order of magnitude will do: units and signs are wrong by more than its errors.
    ``predicted`` holds the same structures with its energies, forces and stresses.
    """
    n = frames.n_atoms
    volume = np.maximum(np.abs(np.linalg.det(frames.cell)), 1e-3)[:, None, None]
    special = {"per atom": n, "virial": 1 / volume, "-virial": -1 / volume}
    for mistakes, label, reference, floor in (
        (_ENERGY_MISTAKES, frames.energy, predicted.energy, 0.1),
        (_FORCE_MISTAKES, frames.forces, predicted.forces, 0.1),
        (_STRESS_MISTAKES, frames.stress, predicted.stress, 1e-3),
    ):
        clear = np.isfinite(label) & np.isfinite(reference) & (np.abs(reference) > floor)
        if clear.sum() < MIN_PAIRS:
            continue

        def apart(factor: float | np.ndarray, label: np.ndarray = label, reference=reference, clear=clear) -> float:
            scaled = (label * factor)[clear]
            return float(np.median(np.abs(scaled - reference[clear]) / (np.abs(scaled) + np.abs(reference[clear]))))

        as_given = apart(1.0)
        corrected = {text: apart(special.get(factor, factor)) for text, factor in mistakes.items()}
        best = min(corrected, key=corrected.__getitem__)
        if as_given > 0.5 and corrected[best] < 0.5 * as_given:
            return best
    return ""


def _mismatch(pairs: Work) -> tuple[float, int, int]:
    """Typical mismatch, the worse of pairs led by forces and by stress; number of pairs; of those led by stress."""
    size = np.abs(pairs.energy) + np.abs(pairs.forces) + np.abs(pairs.stress)
    clear = size > 1e-3 + 1e-4 * pairs.n_atoms  # differences of a converged calculation are noise below
    apart = np.abs(pairs.energy - pairs.forces - pairs.stress)
    by_stress = clear & (pairs.by_stress > 0.5)
    parts = [np.flatnonzero(part) for part in (by_stress, clear & ~by_stress) if part.sum() >= MIN_PAIRS]
    if not parts and clear.sum() >= MIN_PAIRS:
        parts = [np.flatnonzero(clear)]
    # The closest half, because the error of the rule grows with the step. Not the median of the ratios, because where
    # the work of the atoms cancels, what is left is that error.
    near = [part[np.argsort(pairs.step[part], kind="stable")][: max(len(part) // 2, MIN_PAIRS)] for part in parts]
    worst = max((float(np.median(apart[part]) / np.median(size[part])) for part in near), default=float("nan"))
    stress_pairs = int(by_stress.sum())
    return worst, int(clear.sum()), stress_pairs if stress_pairs >= MIN_PAIRS else 0
