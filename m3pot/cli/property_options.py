"""What the property commands share: options, reading, relaxing first, and writing tables."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from m3pot.cli.options import print_json, print_table, say

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Name, .safetensors, .nqx, or module:factory of an ASE calculator.",
        show_default="shipped",
    ),
]
Dtype = Annotated[Literal["float32", "float64"], typer.Option("--dtype", help="Floating-point precision.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Folder for JSON, tables and figures.")]
Relax = Annotated[bool, typer.Option("--relax/--no-relax", help="Relax cell and positions first.")]
Symprec = Annotated[float, typer.Option("--symprec", help="Tolerance of the space group, A.")]


def read_all(files: list[str]) -> list[Any]:
    """All structures of files, globs and folders, as :class:`m3pot.cli.files.Entry`."""
    from m3pot.cli.files import read

    return list(read(files))


def atoms_of(entry: Any) -> Any:
    """The structure of an entry; raises ValueError if it could not be read."""
    if entry.atoms is None:
        raise ValueError(entry.reason)
    return entry.atoms


def find_model(name: str | None) -> Any:
    """The shipped potential, one by name or file, or an ASE calculator as ``module:factory``."""
    from m3pot import evaluation
    from m3pot.io.registry import load

    return load() if name is None else evaluation.find_model(name)


def relaxed(
    entries: list[Any], potential: Any, failures: list[tuple[str, str]], dtype: str
) -> tuple[list[Any], list[Any]]:
    """Entries and structures after relaxation of cell and positions within the space group; failures are noted."""
    from m3pot.properties.points import relax_all
    from m3pot.relaxation import Options
    from m3pot.units import GPA

    options = Options(fmax=0.005, smax=0.02 * GPA, fix_symmetry=True, dtype=dtype)
    kept, structures = [], []
    for entry, result in zip(entries, relax_all([entry.atoms for entry in entries], potential, options), strict=True):
        if result.converged:
            kept.append(entry)
            structures.append(result.atoms)
        else:
            failures.append((entry.name, f"relaxation: {result.status}: {result.reason}"))
    return kept, structures


def json_bytes(value: Any) -> bytes:
    """``value`` as a JSON document; what is not finite becomes null."""
    import json

    from m3pot.cli.options import plain

    return json.dumps(plain(value), indent=1, allow_nan=False).encode()


def write_rows(folder: Path, name: str, rows: list[dict[str, Any]], quiet: bool) -> None:
    """``NAME.json`` with everything and ``NAME.csv`` with the numbers."""
    from m3pot.io.checkpoint import write_atomically
    from m3pot.train.log import write_csv

    write_atomically(folder / f"{name}.json", json_bytes(rows))
    scalars = (bool, int, float, str)
    write_csv(folder / f"{name}.csv", [{k: v for k, v in row.items() if isinstance(v, scalars)} for row in rows])
    say(f"written to {folder}", quiet)


def show(rows: list[dict[str, Any]], json: bool, columns: list[str]) -> None:
    """Rows on standard output, as JSON or as a table of some columns."""
    if json:
        print_json(rows)
    elif rows:
        print_table(rows, columns)
