"""``m3pot predict``: energies, forces and stresses of structure files."""

from pathlib import Path
from typing import Annotated

import typer

from m3pot.cli.options import Debug, Device, Dtype, Files, Json, Model, Quiet, finish, print_json, print_table, progress

app = typer.Typer()

_CHUNK = 256  # structures in memory at a time


@app.command()
def predict(
    files: Files,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="extxyz or traj (structures with results), csv or json (a table)."),
    ] = None,
    model: Model = None,
    dtype: Dtype = "float32",
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Energy, forces and stress of structures, in the order of the input.

    A structure that cannot be evaluated is listed at the end and stops nothing (exit code 1).

    \b
    Examples:
      m3pot predict examples/*.cif
      m3pot predict generated/ more.extxyz -o out.extxyz
      m3pot predict trajectory.traj -o energies.csv --model m3pot-s --dtype float64
    """
    import itertools

    from m3pot import inference
    from m3pot.cli.files import read
    from m3pot.cli.results import row, with_arrays, writer
    from m3pot.io.registry import load

    entries, rows, failures = read(files), [], []
    bar = progress("predict", None, quiet=quiet or json, unit="structures")
    with writer(output) as write, bar as advance:
        potential = load(model)
        while chunk := list(itertools.islice(entries, _CHUNK)):
            readable = [entry.atoms for entry in chunk if entry.atoms is not None]
            results = iter(inference.predict(readable, potential, dtype=dtype, errors="keep", progress=advance))
            for entry in chunk:
                atoms = None if entry.atoms is None else next(results)
                line = row(entry, atoms)
                if line["status"] == "failed":
                    failures.append((entry.name, line["reason"]))
                write(atoms, line)
                rows.append(with_arrays(line, atoms) if json else line)
        if len(failures) == len(rows):
            finish(failures, len(rows))
    if json:
        print_json(rows)
    elif output is None:
        print_table(rows, ["name", "formula", "atoms", "energy", "energy_per_atom", "fmax", "pressure_GPa"])
    finish(failures, len(rows))
