"""Label structures and keep what is done: shards on disk that survive ``kill -9``, failures as records beside them.

A folder of labels holds ``shard-00000.npz`` ... in the layout of :mod:`m3pot.data.frames` (``group`` is the parent
crystal), with the arrays ``kind`` and ``index`` of the frames labelled and ``failed_index``, ``failed_name`` and
``failed_reason`` of the others; ``JOB``, a JSON record of what labels what; and ``failures.csv`` for people.
"""

import csv
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from ase.data import covalent_radii

from m3pot.data.calculators import CalculatorError
from m3pot.data.frames import make, write_atomically, write_npz
from m3pot.structure import labels_from_ase
from m3pot.units import GPA

if TYPE_CHECKING:
    from ase import Atoms

Evaluate = Callable[[list["Atoms"]], Iterable["Atoms"]]
"""Structures to copies in the same order, with results attached, or without and with the reason in ``info``."""


class Item(NamedTuple):
    """A structure to be labelled, or the reason why it could not be read."""

    name: str
    atoms: "Atoms | None"
    reason: str = ""


class Limits(NamedTuple):
    """Labels beyond these are recorded as failures: there a teacher cannot be trusted."""

    force: float = np.inf  # eV/A, norm on an atom
    pressure: float = np.inf  # GPa, either sign
    repulsion: float = 0.0  # two atoms alone in a large cell must repel below this part of the covalent radii


NO_LIMITS = Limits()


class Outcome(NamedTuple):
    """What a folder of labels holds."""

    labelled: int
    failures: list[tuple[str, str]]  # name and reason


class _Done(NamedTuple):
    index: int
    name: str
    atoms: "Atoms | None"  # None: failed
    reason: str


def label(
    items: Iterable[Item],
    evaluate: Evaluate,
    folder: str | os.PathLike[str],
    *,
    job: Mapping[str, Any],
    limits: Limits = NO_LIMITS,
    shard: int = 1000,
    seconds: float = 300.0,
    chunk: int = 256,
    resume: bool = False,
    retry: bool = False,
    advance: Callable[[int], None] = lambda count: None,
) -> Outcome:
    """Label every item that the folder does not know yet. A frame that fails is recorded and stops nothing.

    Args:
        items: structures in an order that is the same each time; ``info`` may hold their name, kind and group.
        evaluate: what gives the labels.
        folder: made if it is not there.
        job: says what labels what, as JSON values; labels of two jobs never share a folder.
        limits: of the labels to be kept.
        shard: frames per file.
        seconds: after which a smaller file is written, so that a kill costs no more.
        chunk: structures given to ``evaluate`` at a time.
        resume: go on with a folder that holds labels.
        retry: with ``resume``, try again what had failed.
        advance: called with the number of items done, those of earlier runs included.

    Raises:
        ValueError: the folder holds labels and ``resume`` is not set, or they are of another job.
        CalculatorError: there is no calculator.
    """
    folder = Path(folder)
    known = _begin(folder, {**job, "limits": list(map(str, limits))}, resume, retry)
    pending: list[_Done] = []
    written = time.monotonic()

    def flush() -> None:
        nonlocal pending, written
        if pending:
            _write(folder, pending)
        pending, written = [], time.monotonic()

    try:
        for done in _evaluated(_unknown(items, known, advance), evaluate, limits, chunk):
            pending.append(done)
            advance(1)
            if len(pending) >= shard or time.monotonic() - written > seconds:
                flush()
    finally:  # after Ctrl-C too
        flush()
    return outcome(folder)


def outcome(folder: str | os.PathLike[str]) -> Outcome:
    """Count the labels of a folder and list its failures; writes ``failures.csv``."""
    labelled: set[int] = set()
    failed: dict[int, tuple[str, str]] = {}
    for path in _shards(Path(folder)):
        with np.load(path, allow_pickle=False) as arrays:
            labelled.update(arrays["index"].tolist())
            names = zip(arrays["failed_name"].tolist(), arrays["failed_reason"].tolist(), strict=True)
            failed.update(zip(arrays["failed_index"].tolist(), names, strict=True))
    failures = [(index, *failed[index]) for index in sorted(failed) if index not in labelled]

    def write(temporary: Path) -> None:
        with open(temporary, "w", newline="") as file:
            csv.writer(file).writerows([("index", "name", "reason"), *failures])

    write_atomically(Path(folder) / "failures.csv", write)
    return Outcome(len(labelled), [failure[1:] for failure in failures])


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("shard-*.npz"))


def _begin(folder: Path, job: Mapping[str, Any], resume: bool, retry: bool) -> set[int]:
    """Indices that need nothing more."""
    record = folder / "JOB"
    text = json.dumps(job, indent=1, sort_keys=True)
    if _shards(folder):
        if not resume:
            raise ValueError(f"{folder} holds labels already; add --resume to go on, or choose another folder.")
        before, now = json.loads(record.read_text()) if record.exists() else {}, json.loads(text)
        changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        if changed:
            raise ValueError(
                f"{folder} holds labels of another job ({', '.join(changed)} differ); choose another folder."
            )
    for leftover in folder.glob(".shard-*.npz"):  # of a run that was killed while it wrote
        leftover.unlink()
    write_atomically(record, lambda temporary: temporary.write_text(text + "\n"))
    known: set[int] = set()
    for path in _shards(folder):
        with np.load(path, allow_pickle=False) as arrays:
            known.update(arrays["index"].tolist(), () if retry else arrays["failed_index"].tolist())
    return known


def _unknown(items: Iterable[Item], known: set[int], advance: Callable[[int], None]) -> Iterator[tuple[int, Item]]:
    for index, item in enumerate(items):
        if index in known:
            advance(1)
        else:
            yield index, item


def _evaluated(items: Iterator[tuple[int, Item]], evaluate: Evaluate, limits: Limits, chunk: int) -> Iterator[_Done]:
    waiting: list[tuple[int, Item]] = []
    for index, item in items:
        if reason := item.reason or _unfit(item.atoms):
            yield _Done(index, item.name, None, reason)
            continue
        waiting.append((index, item))
        if len(waiting) >= chunk:
            yield from _labelled(waiting, evaluate, limits)
            waiting = []
    yield from _labelled(waiting, evaluate, limits)


def _unfit(atoms: "Atoms | None") -> str:
    if atoms is None or not len(atoms):
        return "The structure has no atoms."
    if atoms.numbers.min() < 1 or not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
        return "The structure has dummy atoms, or positions or cell vectors that are not finite."
    return ""


def _labelled(waiting: list[tuple[int, Item]], evaluate: Evaluate, limits: Limits) -> Iterator[_Done]:
    """Evaluate together; if that raises, what is left one by one."""
    done = 0
    try:
        for result in evaluate([item.atoms for _, item in waiting]):
            index, item = waiting[done]
            reason = _objection(result, limits)
            yield _Done(index, item.name, None if reason else result, reason)
            done += 1
    except CalculatorError:
        raise
    except Exception as error:
        if len(waiting) == 1:
            yield _Done(waiting[0][0], waiting[0][1].name, None, f"{type(error).__name__}: {error}")
        else:
            for one in waiting[done:]:
                yield from _labelled([one], evaluate, limits)


def _objection(atoms: "Atoms", limits: Limits) -> str:
    """Why this result is no label, or ""."""
    if atoms.calc is None:
        return str(atoms.info.get("reason") or "no result")
    labels = labels_from_ase(atoms)
    if not np.isfinite(labels.energy).all() or not np.isfinite(labels.forces).all():
        return "energy or forces are missing or not finite"
    force = np.linalg.norm(labels.forces, axis=1).max()
    if force > limits.force:
        return f"force of {force:.1f} eV/A"
    pressure = -np.trace(labels.stress[0]) / 3 / GPA
    if abs(pressure) > limits.pressure:
        return f"pressure of {pressure:.0f} GPa"
    alone = not atoms.pbc.any() or np.linalg.norm(atoms.cell.array[atoms.pbc], axis=1).min() > 10
    if len(atoms) == 2 and alone:
        bond = atoms.positions[1] - atoms.positions[0]
        close = np.linalg.norm(bond) < limits.repulsion * covalent_radii[atoms.numbers].sum()
        if close and labels.forces[1] @ bond < 0:
            return "attraction of two atoms that overlap"
    return ""


def _write(folder: Path, done: list[_Done]) -> None:
    kept = [one for one in done if one.atoms is not None]
    lost = [one for one in done if one.atoms is None]
    atoms = [one.atoms for one in kept if one.atoms is not None]
    labels = [labels_from_ase(a) for a in atoms]
    frames = make(
        [len(a) for a in atoms],
        np.concatenate([np.zeros(0, int), *(a.numbers for a in atoms)]),
        np.concatenate([np.zeros((0, 3)), *(a.positions for a in atoms)]),
        np.array([a.cell.array for a in atoms]).reshape(-1, 3, 3),
        pbc=np.array([a.pbc for a in atoms], bool).reshape(-1, 3),
        energy=np.array([x.energy[0] for x in labels]),
        forces=np.concatenate([np.zeros((0, 3)), *(x.forces for x in labels)]),
        stress=np.array([x.stress[0] for x in labels]).reshape(-1, 3, 3),
        group=[str(a.info.get("group", "")) for a in atoms],
        name=[str(a.info.get("name", one.name)) for a, one in zip(atoms, kept, strict=True)],
    )
    more = {
        "kind": np.array([str(a.info.get("kind", "")) for a in atoms], np.str_),
        "index": np.array([one.index for one in kept], np.int64),
        "failed_index": np.array([one.index for one in lost], np.int64),
        "failed_name": np.array([one.name for one in lost], np.str_),
        "failed_reason": np.array([" ".join(one.reason.split())[:500] for one in lost], np.str_),
    }
    number = max((int(path.stem.removeprefix("shard-")) for path in _shards(folder)), default=-1) + 1
    write_npz(frames, folder / f"shard-{number:05d}.npz", more)
