"""Structures in and out of the command line: files, globs, folders, many frames; atomic writing.

ASE reads first, pymatgen where ASE cannot. Import this module inside commands only.
"""

import contextlib
import glob
import gzip
import io
import itertools
import os
import re
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import ase.io
from ase import Atoms

from m3pot.cli.options import one_line
from m3pot.structure import StructureError, to_atoms

_SUFFIXES = (".cif", ".mcif", ".vasp", ".poscar", ".xyz", ".extxyz", ".traj", ".xsf", ".res", ".gen", ".cfg", ".pdb")
_SUFFIXES += (".xsd", ".cell", ".json", ".db", ".zip")
_NAMES = re.compile(r"(POSCAR|CONTCAR|XDATCAR)", re.IGNORECASE)
_PYMATGEN = re.compile(r"\.(m?cif|vasp|json|cssr|xsf|res)(\.gz)?$|POSCAR|CONTCAR", re.IGNORECASE)


class Entry(NamedTuple):
    """One structure of the input, or the reason why it could not be read."""

    name: str  # the path as given, with @k for frame k of a file with several, as ASE reads it
    atoms: Atoms | None
    reason: str = ""


def find(patterns: Sequence[str]) -> list[Path]:
    """All files of the given files, globs, folders and names of data sets, in this order, sorted inside each.

    Raises FileNotFoundError for a pattern without a file, DataError for a data set that is not on this machine.
    """
    found: list[Path] = []
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if path.is_dir():
            matches = [p for p in path.iterdir() if p.is_file() and _looks_like_structure(p)]
        elif path.exists():
            matches = [path]
        else:
            matches = [Path(p) for p in glob.glob(str(path), recursive=True) if os.path.isfile(p)]
            matches = matches or _data_set(pattern)
        if not matches:
            kind = "has no structure files" if path.is_dir() else "does not exist"
            raise FileNotFoundError(f"{pattern} {kind}; give structure files, globs, folders or names of data sets.")
        found += sorted(matches, key=_natural)
    return found


def _data_set(name: str) -> list[Path]:
    from m3pot.data import manifest

    return manifest.locate(manifest.find_set(name)) if name in manifest.available() else []


def _looks_like_structure(path: Path) -> bool:
    name = path.name.lower().removesuffix(".gz")
    return not name.startswith(".") and (name.endswith(_SUFFIXES) or bool(_NAMES.search(name)))


def _natural(path: Path) -> list:
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.split(r"(\d+)", str(path))]


def read(patterns: Sequence[str]) -> Iterator[Entry]:
    """Every frame of every file, one after another; a file that cannot be read is an entry with a reason.

    Raises FileNotFoundError at once for a pattern without a file.
    """
    return itertools.chain.from_iterable(_entries(path, str(path)) for path in find(patterns))


def read_one(file: str) -> Atoms:
    """The last frame of one file. Raises StructureError if it cannot be read."""
    (path, *others) = find([file])
    if others:
        raise StructureError(f"{file} stands for {len(others) + 1} files; give one.")
    *_, last = _entries(path, str(path))
    if last.atoms is None:
        raise StructureError(f"{last.name}: {last.reason}")
    return last.atoms


def _entries(path: Path, name: str) -> Iterator[Entry]:
    if path.suffix == ".zip" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
            for member in sorted(archive.namelist(), key=lambda member: _natural(Path(member))):
                if _looks_like_structure(Path(member)):
                    yield from _entries(Path(archive.extract(member, folder)), f"{name}/{member}")
        return
    held: Atoms | str | None = None  # one frame is held back: a file with a single frame keeps its plain name
    count = 0
    for frame in _frames(path):
        if held is not None:
            yield _entry(f"{name}@{count - 1}", held)
        held, count = frame, count + 1
    yield _entry(f"{name}@{count - 1}" if count > 1 else name, "the file holds no structure." if held is None else held)


def _entry(name: str, frame: Atoms | str) -> Entry:
    return Entry(name, None, frame) if isinstance(frame, str) else Entry(name, frame)


def _frames(path: Path) -> Iterator[Atoms | str]:
    """Frames of one file, or for a frame that cannot be used the reason; what follows broken text is lost."""
    if path.stat().st_size == 0:
        yield "the file is empty."
        return
    frames, count = _opened(path), 0
    while True:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                atoms = next(frames, None)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # readers of ASE raise anything, even SystemExit
            if count:
                yield f"frame {count} cannot be read ({_reason(error)}); repair the file."
            else:
                yield _with_pymatgen(path, error)
            return
        if atoms is None:
            return
        count += 1
        yield _tidied(atoms)


def _opened(path: Path) -> Iterator[Atoms]:
    if path.name.lower().endswith((".xyz.gz", ".extxyz.gz")):
        # ASE seeks to each frame: in a compressed file that means to decompress it from the start again.
        with gzip.open(path, "rt", encoding="utf-8") as file:
            text = io.StringIO(file.read())
        yield from ase.io.iread(text, index=":", format="extxyz")
    else:
        yield from ase.io.iread(str(path), index=":")


def _with_pymatgen(path: Path, first: BaseException) -> Atoms | str:
    if not _PYMATGEN.search(path.name):
        return f"ASE cannot read the file ({_reason(first)}); use cif, extxyz or POSCAR."
    from pymatgen.core import Structure

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return to_atoms(Structure.from_file(path))
    except StructureError as error:
        return str(error)
    except Exception as error:
        return f"neither ASE ({_reason(first)}) nor pymatgen ({_reason(error)}) can read the file; repair it."


def _reason(error: BaseException) -> str:
    return (one_line(error) or type(error).__name__)[:160].rstrip(".")


def _tidied(atoms: Atoms) -> Atoms | str:
    """Refuse partly occupied sites, which ASE reads as full; drop what other formats cannot store."""
    for site in (atoms.info.pop("occupancy", None) or {}).values():
        if len(site) > 1 or any(abs(share - 1) > 1e-3 for share in site.values()):
            return (
                f"{atoms.get_chemical_formula()} has sites that are partly occupied or shared by several species; "
                "make an ordered cell first (pymatgen: OrderDisorderedStructureTransformation)."
            )
    for key in ("spacegroup", "unit_cell"):
        atoms.info.pop(key, None)
    atoms.arrays.pop("spacegroup_kinds", None)
    return atoms


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary file beside ``path`` with the same ending, renamed to ``path`` at the end of the block.

    After Ctrl-C what was written is kept; after any other error nothing is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    except KeyboardInterrupt:
        if temporary.exists():
            os.replace(temporary, path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
