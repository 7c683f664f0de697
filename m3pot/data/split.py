"""Keep sets apart: split by parent crystal or formula, never by frame; find structures that are also in a test set."""

import hashlib
import math
from collections.abc import Mapping
from typing import Literal

import numpy as np

from m3pot.data.frames import Frames


def reduced_formula(numbers: np.ndarray) -> str:
    """Formula of atomic numbers (n,) divided by its greatest common factor, elements in alphabetical order: Fe2O3."""
    from ase.data import chemical_symbols

    elements, counts = np.unique(numbers, return_counts=True)
    factor = math.gcd(*counts.tolist())
    parts = sorted((chemical_symbols[z], c // factor) for z, c in zip(elements, counts.tolist(), strict=True))
    return "".join(symbol + (str(count) if count > 1 else "") for symbol, count in parts)


def formulas(frames: Frames) -> np.ndarray:
    """Reduced formula of each frame (f,)."""
    known: dict[bytes, str] = {}
    result = []
    for k in range(len(frames)):
        numbers = np.sort(frames.numbers[frames.ptr[k] : frames.ptr[k + 1]])
        key = numbers.tobytes()
        if key not in known:
            known[key] = reduced_formula(numbers)
        result.append(known[key])
    return np.array(result, np.str_)


def parents(frames: Frames, by: Literal["parent", "formula"] = "parent") -> np.ndarray:
    """What must stay together (f,): the parent crystal where it is known, else the reduced formula."""
    if by not in ("parent", "formula"):
        raise ValueError(f"Expected to split by parent or formula, got {by!r}.")
    if by == "formula":
        return formulas(frames)
    return np.where(frames.group == "", formulas(frames), frames.group)


def split(
    frames: Frames,
    shares: Mapping[str, float],
    *,
    seed: int = 0,
    by: Literal["parent", "formula"] = "parent",
) -> dict[str, np.ndarray]:
    """Indices of the frames of each part, ascending; the frames of one parent are all in one part.

    Where a parent goes depends on its name and ``seed`` alone: frames that are added later move no parent from one
    part to another (but see the last sentence). The shares are met on average over parents. A part that would stay
    empty takes over one parent of the largest part.

    Args:
        frames: all frames.
        shares: {name of the part: share}, e.g. {"train": 0.95, "valid": 0.05}; they must add up to 1.
        seed: another one gives another split.
        by: parent, or formula to keep all crystals of one reduced formula together even where the parent is known.

    Raises:
        ValueError: shares that do not add up to 1, or fewer parents than parts.
    """
    if not math.isclose(sum(shares.values()), 1, abs_tol=1e-6) or min(shares.values()) <= 0:
        raise ValueError(f"Expected positive shares that add up to 1, got {dict(shares)}; correct them.")
    names, owner = np.unique(parents(frames, by), return_inverse=True)
    if len(names) < len(shares):
        raise ValueError(
            f"The {len(frames)} frames come from {len(names)} parent crystal(s), too few for {len(shares)} parts that "
            "share none; give more crystals, or files for each part."
        )
    draws = np.array([_draw(name, seed) for name in names])
    part = np.searchsorted(np.cumsum(list(shares.values()))[:-1], draws, side="right")
    for p in range(len(shares)):
        if not (part == p).any():
            largest = np.bincount(part, minlength=len(shares)).argmax()
            part[np.flatnonzero(part == largest)[draws[part == largest].argmax()]] = p
    return {name: np.flatnonzero(part[owner] == p) for p, name in enumerate(shares)}


def _draw(name: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def matches(frames: Frames, reference: Frames, tolerance: float = 0.02) -> np.ndarray:
    """Mask (f,) of frames that look like a structure of ``reference``, to keep test sets blind.

    Same reduced formula, and volume per atom within ``tolerance``; without cells, the formula is enough.
    """
    known: dict[str, list[float]] = {}
    for formula, volume in zip(formulas(reference), _volume_per_atom(reference), strict=True):
        known.setdefault(str(formula), []).append(volume)
    found = []
    for formula, volume in zip(formulas(frames), _volume_per_atom(frames), strict=True):
        others = np.array(known.get(str(formula), []))
        found.append(bool(np.any(np.abs(others - volume) <= tolerance * volume)))
    return np.array(found, bool)


def _volume_per_atom(frames: Frames) -> np.ndarray:
    return np.abs(np.linalg.det(frames.cell)) / frames.n_atoms
