"""Results on disk while they come: a journal that survives ``kill -9``, and files in the order of the input.

The journal has one JSON line for each finished structure and is the truth: structures (extxyz) and summary (csv) follow
it in the order of the input, and are made anew from it when a run is taken up again.
"""

import csv
import hashlib
import io
import json
import os
import time
from pathlib import Path
from typing import Any

import ase.io
import jax
import numpy as np
from ase import Atoms
from ase.io.extxyz import key_val_dict_to_str, key_val_str_to_dict

from m3pot.io.checkpoint import write_atomically
from m3pot.potential import Potential
from m3pot.relaxation.options import Options
from m3pot.relaxation.results import Relaxed

ENDINGS = (".extxyz", ".xyz")
FORMAT = "m3pot-relax-1"
COLUMNS = ("index", "name", "status", "formula", "atoms", "steps", "energy", "energy_per_atom", "fmax", "smax_GPa")
COLUMNS += ("volume_change", "rmsd", "reason")
_SYNC = 2.0  # s between flushes down to the disk: a crash of the machine loses no more


class ResumeError(ValueError):
    """The files of an earlier run do not belong to this one."""


def describe(potential: Potential, options: Options) -> dict[str, Any]:
    """What must be the same when a run is taken up again: the model and all options that change results."""
    digest = hashlib.sha256(repr(potential.model).encode())
    for leaf in jax.tree.leaves(potential):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    names = ("fmax", "smax", "steps", "cell", "mask", "pressure", "minimizer", "dtype", "fix_symmetry", "symprec")
    names += ("repair", "max_atoms", "max_volume_factor", "closeness")
    chosen = {name: getattr(options, name) for name in names}
    return {"format": FORMAT, "model": digest.hexdigest(), "options": json.loads(json.dumps(chosen, default=str))}


class Output:
    """Context that takes results in any order. ``finished`` are the indices that need no work any more."""

    def __init__(self, path: str | os.PathLike, header: dict[str, Any], *, resume: bool = False):
        self.path = Path(path)
        if self.path.suffix not in ENDINGS:
            raise ValueError(
                f"Expected an output file ending in {' or '.join(ENDINGS)}, got {path}; choose one of these."
            )
        self.table = self.path.with_suffix(".csv")
        self.journal = self.path.with_name(self.path.name + ".journal")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._header, self._next, self._synced = header, 0, time.monotonic()
        self._waiting: dict[int, dict[str, Any]] = {}
        self.rows: dict[int, dict[str, Any]] = {}
        records = self._recall() if resume and self.journal.exists() else []
        self.finished = {record["index"] for record in records}
        self._records = records

    def __enter__(self) -> "Output":
        lines = [self._header, *self._records]
        write_atomically(self.journal, "".join(json.dumps(line) + "\n" for line in lines).encode())
        self._lines = open(self.journal, "a")
        self._structures = open(self.path, "w")
        self._summary = open(self.table, "w", newline="")
        self._writer = csv.DictWriter(self._summary, COLUMNS)
        self._writer.writeheader()
        for record in self._records:
            self._place(record)
        self._records = []
        self._flush()
        return self

    def __exit__(self, kind, *_: object) -> None:
        self._flush(sync=True)
        for file in (self._lines, self._structures, self._summary):
            file.close()
        if kind is None:
            self._complete()

    def _recall(self) -> list[dict[str, Any]]:
        """Records of an earlier run; a line that was cut off is dropped. Raises ResumeError if it was another run."""
        lines = self.journal.read_text().split("\n")[:-1]
        records = []
        for line in lines:
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                break
        if not records:
            return []
        header, *records = records
        changed = [
            key for key in self._header["options"] if header.get("options", {}).get(key) != self._header["options"][key]
        ]
        if header.get("model") != self._header["model"]:
            changed.append("model")
        if header.get("format") != FORMAT or changed:
            raise ResumeError(
                f"{self.journal} belongs to a run with other choices ({', '.join(changed) or 'format'}); "
                "repeat with the same ones, or without --resume to start again."
            )
        return records

    def add(self, index: int, name: str, result: Relaxed | None, reason: str = "") -> None:
        """Note the end of one structure; ``result`` None is an input that could not be read."""
        outcome = {"status": "failed", "reason": reason} if result is None else result.summary()
        row = {"index": index, "name": name} | outcome
        record = {"index": index, "row": row, "frame": "" if result is None else frame_text(result, name)}
        self._lines.write(json.dumps(record) + "\n")
        self.finished.add(index)
        self._place(record)
        self._flush()

    def _place(self, record: dict[str, Any]) -> None:
        """Write what is next in the order of the input, and hold back the rest."""
        self.rows[record["index"]] = record["row"]
        self._waiting[record["index"]] = record
        while self._next in self._waiting:
            record = self._waiting.pop(self._next)
            self._structures.write(record["frame"])
            self._writer.writerow(record["row"])
            self._next += 1

    def _flush(self, sync: bool = False) -> None:
        for file in (self._lines, self._structures, self._summary):
            file.flush()
        if sync or time.monotonic() - self._synced > _SYNC:
            os.fsync(self._lines.fileno())
            self._synced = time.monotonic()

    def _complete(self) -> None:
        """The files are whole: the journal is no longer needed."""
        for path in (self.path, self.table):
            with open(path) as file:
                os.fsync(file.fileno())
        self.journal.unlink()


def frame_text(result: Relaxed, name: str) -> str:
    """One frame of extxyz; status, reason and the rest are in its comment line, numbers that are NaN left out."""
    source = result.atoms
    if not isinstance(source, Atoms) or len(source) == 0:
        return ""
    atoms = Atoms(source.numbers, source.positions, cell=source.cell, pbc=source.pbc)
    given = {k: v for k, v in source.info.items() if isinstance(v, str | int | float | bool)}
    ours = {"name": name, "status": result.status, "reason": result.reason, "steps": result.steps}
    ours |= {"fmax": result.fmax, "smax": result.smax, "volume_change": result.volume_change}
    ours |= {"rmsd": result.displacement}
    kept = {k: v for k, v in (given | ours).items() if not isinstance(v, float) or np.isfinite(v)}
    atoms.info = {k: _readable(v) if isinstance(v, str) else v for k, v in kept.items()}
    if result.evaluated:
        atoms.calc = source.calc
    text = io.StringIO()
    ase.io.write(text, atoms, format="extxyz")
    return text.getvalue()


def _readable(text: str) -> str:
    """The text as ASE reads it back: as JSON where that would be a number, a truth value, NaN, or a broken line."""
    try:
        back = key_val_str_to_dict(key_val_dict_to_str({"text": text}))["text"]
    except ValueError:
        back = None
    if text.isprintable() and isinstance(back, str) and back == text:
        return text
    return "_JSON " + json.dumps(text).replace("\\", "\\\\")  # the reader takes off one level of backslashes


def write_for_mattergen(folder: str | os.PathLike, source: str | os.PathLike) -> int:
    """``structures.extxyz`` and ``energies.npy`` (eV, total) as ``mattergen-evaluate --relax=False`` reads them.

    Only structures that ended converged or after the last step; returns their number. ``source`` is the output.
    """
    kept = [a for a in ase.io.iread(source, index=":") if a.info["status"] in ("converged", "max_steps")]
    energies, text = io.BytesIO(), io.StringIO()
    np.save(energies, np.array([a.get_potential_energy() for a in kept]))
    for atoms in kept:
        ase.io.write(text, Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc), format="extxyz")
    write_atomically(Path(folder) / "structures.extxyz", text.getvalue().encode())
    write_atomically(Path(folder) / "energies.npy", energies.getvalue())
    return len(kept)


def write_trajectory(folder: str | os.PathLike, result: Relaxed) -> None:
    """All evaluated geometries of one structure as ``folder/000123.extxyz``, numbered as the input."""
    if result.trajectory:
        text = io.StringIO()
        ase.io.write(text, list(result.trajectory), format="extxyz")
        write_atomically(Path(folder) / f"{result.index:06d}.extxyz", text.getvalue().encode())
