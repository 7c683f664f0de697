"""Neighbour lists of a whole data set, built once and kept on disk beside it."""

import dataclasses
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from m3pot.data.frames import Frames, ragged, take
from m3pot.neighbors import neighbor_list
from m3pot.structure import CLASH_DISTANCE, StructureError


@dataclasses.dataclass(frozen=True, eq=False)
class EdgeCache:
    """Frames and all their edges up to ``cutoff``. The edges of an atom follow each other, in the order of atoms."""

    frames: Frames
    cutoff: float  # A
    edge_ptr: np.ndarray  # (f + 1,) int64; edges of frame k are edge_ptr[k]:edge_ptr[k+1]
    degrees: np.ndarray  # (n,) int32, edges that leave each atom
    senders: np.ndarray  # (e,) int16 or int32, neighbour, counted within the frame
    shifts: np.ndarray  # (e, 3) int16, lattice translation of the neighbour

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, key: Any) -> "EdgeCache":
        return select(self, np.arange(len(self))[[key] if isinstance(key, int | np.integer) else key])

    @property
    def n_edges(self) -> np.ndarray:
        """Edges of each frame (f,)."""
        return np.diff(self.edge_ptr)

    @staticmethod
    def build(
        frames: Frames,
        cutoff: float,
        folder: str | os.PathLike[str] | None = None,
        advance: Callable[[int], None] = lambda count: None,
    ) -> "EdgeCache":
        """All edges; with a ``folder`` they are kept there and found again by the content of the frames and the cutoff.

        Raises StructureError for a frame without atoms, with atoms closer than 0.1 A or with a cell without volume.
        """
        target = None if folder is None else Path(folder) / f"edges-{content_hash(frames)[:16]}-{cutoff:g}"
        if target is not None and target.is_dir():
            advance(len(frames))
            return _load(frames, cutoff, target)
        cache = _build(frames, cutoff, advance)
        if target is not None:
            _save(cache, target)
        return cache


def content_hash(frames: Frames) -> str:
    """Hash of everything that edges depend on; the labels are not part of it."""
    digest = hashlib.sha256()
    for field in ("ptr", "positions", "cell", "pbc"):
        digest.update(np.ascontiguousarray(getattr(frames, field)).tobytes())
    return digest.hexdigest()


def select(cache: EdgeCache, indices: np.ndarray) -> EdgeCache:
    """The frames with these indices (k,), in this order, with their edges."""
    counts = cache.n_edges[indices]
    edges = ragged(cache.edge_ptr[indices], counts)
    return EdgeCache(
        frames=take(cache.frames, indices),
        cutoff=cache.cutoff,
        edge_ptr=_offsets(counts),
        degrees=cache.degrees[ragged(cache.frames.ptr[indices], cache.frames.n_atoms[indices])],
        senders=cache.senders[edges],
        shifts=cache.shifts[edges],
    )


def _offsets(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _build(frames: Frames, cutoff: float, advance: Callable[[int], None]) -> EdgeCache:
    largest = int(frames.n_atoms.max(initial=0))
    index_type = np.int16 if largest < 2**15 else np.int32
    counts, degrees, senders, shifts = [], [], [], []
    for k in range(len(frames)):
        atoms = slice(frames.ptr[k], frames.ptr[k + 1])
        positions, cell, pbc = frames.positions[atoms], frames.cell[k], frames.pbc[k]
        _check(frames, k, positions, cell, pbc)
        i, j, shift = neighbor_list(positions, cell, pbc, cutoff)
        vectors = positions[j] - positions[i] + shift @ cell
        if len(i) and np.einsum("ea,ea->e", vectors, vectors).min() < CLASH_DISTANCE**2:
            raise StructureError(
                f"Frame {k} ({frames.name[k]}) has atoms closer than {CLASH_DISTANCE} A; drop or repair it."
            )
        counts.append(len(i))
        degrees.append(np.bincount(i, minlength=len(positions)).astype(np.int32))
        senders.append(j.astype(index_type))
        shifts.append(shift.astype(np.int16))
        advance(1)
    return EdgeCache(
        frames=frames,
        cutoff=float(cutoff),
        edge_ptr=_offsets(np.array(counts, np.int64)),
        degrees=np.concatenate([np.zeros(0, np.int32), *degrees]),
        senders=np.concatenate([np.zeros(0, index_type), *senders]),
        shifts=np.concatenate([np.zeros((0, 3), np.int16), *shifts]),
    )


def _check(frames: Frames, k: int, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> None:
    rows = cell[pbc]
    lengths = np.linalg.norm(rows, axis=1)
    spanned = np.sqrt(max(np.linalg.det(rows @ rows.T), 0.0)) if len(rows) else 1.0
    flat = len(rows) and (lengths.min() < CLASH_DISTANCE or spanned < 1e-6 * np.prod(lengths))
    if len(positions) == 0 or not np.isfinite(positions).all() or not np.isfinite(cell).all() or flat:
        raise StructureError(
            f"Frame {k} ({frames.name[k]}) has no atoms, NaN coordinates or a periodic cell without volume; drop it."
        )


_FILES = ("edge_ptr", "degrees", "senders", "shifts")


def _save(cache: EdgeCache, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        for name in _FILES:
            np.save(temporary / f"{name}.npy", getattr(cache, name))
        os.rename(temporary, target)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        if not target.is_dir():  # else another process was faster, with the same content
            raise


def _load(frames: Frames, cutoff: float, target: Path) -> EdgeCache:
    # Mapped, not read: a set may exceed the memory, and processes on one machine share the pages.
    arrays = {name: np.load(target / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in _FILES}
    return EdgeCache(frames=frames, cutoff=float(cutoff), **arrays)
