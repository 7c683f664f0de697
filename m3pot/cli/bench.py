"""``m3pot bench``: published benchmarks, models side by side."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from m3pot.cli.options import Debug, Device, Json, Quiet, print_json, print_table, progress, say, split

if TYPE_CHECKING:
    from m3pot.benchmark.run import Benchmark

app = typer.Typer()
group = typer.Typer(no_args_is_help=True, help="Published benchmarks for models and ASE calculators side by side.")
app.add_typer(group, name="bench")

Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        help="Name, .safetensors, .nqx, or module:factory of an ASE calculator; repeatable.",
        show_default="shipped",
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for JSON, CSV, figures and the journals.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where a run into this folder was stopped.")]
Limit = Annotated[int | None, typer.Option("--limit", help="So many items only, evenly spread.", show_default="all")]
Elements = Annotated[str | None, typer.Option("--elements", help="Only these, as Li,Na,K.", show_default="all")]
Dtype = Annotated[Literal["float32", "float64"], typer.Option("--dtype", help="Floating-point precision.")]
DEFAULT = Path("bench")


@group.command()
def acwf(
    model: Models = None,
    output: Output = DEFAULT,
    elements: Elements = None,
    limit: Limit = None,
    resume: Resume = False,
    dtype: Dtype = "float64",
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """V0, B0, B1 of 576 cubic oxides against all-electron PBE, with epsilon, delta, and a periodic table of errors.

    \b
    Examples:
      m3pot bench acwf --model m3pot-s --model m3gnet.safetensors -o acwf
      m3pot bench acwf --elements Mg,Ca --model ase.calculators.emt:EMT
    """
    from m3pot.benchmark.acwf import acwf as make

    columns = ["model", "crystals", "failed", "median_V0_percent", "median_B0_percent", "median_epsilon"]
    columns += ["median_delta_meV", "median_nu", "good_percent", "outside_percent"]
    benchmark = make(elements=split(elements), limit=limit, dtype=dtype)
    _run(benchmark, model, output, resume, json, quiet, columns)


@group.command()
def dimer(
    model: Models = None,
    output: Output = DEFAULT,
    elements: Elements = None,
    resume: Resume = False,
    dtype: Dtype = "float64",
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Homonuclear dimers of 92 elements against PBE: bond length, depth, attraction at short range.

    \b
    Examples:
      m3pot bench dimer --model m3pot-s -o dimers
    """
    from m3pot.benchmark.dimer import dimer as make

    _run(make(elements=split(elements), dtype=dtype), model, output, resume, json, quiet)


@group.command()
def efs(
    sets: Annotated[
        list[str] | None,
        typer.Argument(metavar="[DATA]...", help="Labelled structures: data sets, files.", show_default="MatterSim's"),
    ] = None,
    model: Models = None,
    output: Output = DEFAULT,
    resume: Resume = False,
    dtype: Dtype = "float32",
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Energy, forces and stress against labelled structures; by default those of MatterSim's benchmark.

    \b
    Examples:
      m3pot bench efs --model m3pot-s --model other.safetensors
      m3pot bench efs mine.extxyz heo-valid --resume
    """
    from m3pot.benchmark.efs import DEFAULT_SETS
    from m3pot.benchmark.efs import efs as make

    _run(make(sets or DEFAULT_SETS, dtype=dtype), model, output, resume, json, quiet)


@group.command()
def equilibrium(
    files: Annotated[list[str], typer.Argument(metavar="FILES...", help="Structures relaxed with the reference.")],
    model: Models = None,
    output: Output = DEFAULT,
    limit: Limit = None,
    fmax: Annotated[float, typer.Option("--fmax", help="eV/A.")] = 0.02,
    resume: Resume = False,
    dtype: Dtype = "float32",
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """How far volume, lattice and atoms of DFT minima move when they are relaxed.

    \b
    Examples:
      m3pot bench equilibrium dft_relaxed.extxyz --limit 200 --model m3pot-s
    """
    import numpy as np

    from m3pot.benchmark.equilibrium import equilibrium as make
    from m3pot.cli.files import read

    structures = {entry.name: entry.atoms for entry in read(files) if entry.atoms is not None}
    if not structures:
        raise ValueError("Expected at least one readable structure, got none; check the files.")
    names = list(structures)
    if limit and limit < len(names):
        names = [names[k] for k in np.unique(np.linspace(0, len(names) - 1, limit).astype(int))]
    benchmark = make({name: structures[name] for name in names}, fmax=fmax, dtype=dtype)
    _run(benchmark, model, output, resume, json, quiet)


Reference = Annotated[
    Path | None,
    typer.Option("--data", help="JSON in the form of MatCalc's benchmarks.", show_default="simple cubic crystals"),
]


@group.command()
def elastic(
    model: Models = None,
    output: Output = DEFAULT,
    data: Reference = None,
    limit: Limit = None,
    resume: Resume = False,
    dtype: Dtype = "float64",
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Elastic constants; by default of five cubic crystals against published PBE values.

    \b
    Examples:
      m3pot bench elastic --model m3pot-s
      m3pot bench elastic --data mp-pbe-elasticity-2025.3.json.gz --limit 100 --resume
    """
    from m3pot.benchmark import solids
    from m3pot.benchmark.elastic import COLUMNS
    from m3pot.benchmark.elastic import elastic as make

    crystals = solids.elastic_pbe() if data is None else solids.read(data, COLUMNS)
    _run(make(solids.thinned(crystals, limit), dtype=dtype), model, output, resume, json, quiet)


@group.command()
def phonon(
    model: Models = None,
    output: Output = DEFAULT,
    data: Reference = None,
    limit: Limit = None,
    min_length: Annotated[float, typer.Option("--min-length", help="Of the supercells, A.")] = 12.0,
    resume: Resume = False,
    dtype: Dtype = "float64",
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Harmonic phonons; by default of cubic crystals against published PBE frequencies at zone boundaries.

    \b
    Examples:
      m3pot bench phonon --model m3pot-s
      m3pot bench phonon --data alexandria-binary-pbe-phonon-2025.1.json.gz --limit 50
    """
    from m3pot.benchmark import solids
    from m3pot.benchmark.phonon import COLUMNS
    from m3pot.benchmark.phonon import phonon as make

    crystals = solids.phonon_pbe() if data is None else solids.read(data, COLUMNS)
    benchmark = make(solids.thinned(crystals, limit), min_length=min_length, dtype=dtype)
    _run(benchmark, model, output, resume, json, quiet)


@group.command()
def speed(
    model: Models = None,
    output: Output = DEFAULT,
    sizes: Annotated[str, typer.Option("--sizes", help="Numbers of atoms: 8,32,96,192,504,1000,2000.")] = "8,96,504",
    calls: Annotated[int, typer.Option("--calls", help="Timed calls of each size.")] = 5,
    resume: Resume = False,
    dtype: Dtype = "float32",
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Time of energy, forces and stress of MgO crystals, one after another and in batches.

    \b
    Examples:
      m3pot bench speed --model m3pot-s --sizes 96,504,2000
    """
    from m3pot.benchmark.speed import speed as make

    parts = split(sizes) or []
    if calls < 1 or not all(part.isdigit() for part in parts):
        raise ValueError(f"Expected sizes as 8,96,504 and at least one call, got {sizes!r} and {calls}.")
    _run(make([int(part) for part in parts], calls=calls, dtype=dtype), model, output, resume, json, quiet)


def _run(
    benchmark: "Benchmark",
    names: list[str] | None,
    folder: Path,
    resume: bool,
    json: bool,
    quiet: bool,
    columns: list[str] | None = None,
) -> None:
    from m3pot.benchmark.contender import contenders
    from m3pot.benchmark.run import run
    from m3pot.environment import describe
    from m3pot.io.registry import find

    found = contenders(names or [find().stem])
    command = [Path(part).name if Path(part).is_absolute() else part for part in sys.argv[1:]]
    facts = {"command": shlex.join(["m3pot", *command]), "environment": describe()}  # without folders of this machine
    total = len(benchmark.items) * len(found)
    with progress(benchmark.name, total, quiet=quiet or json, unit="items") as advance:
        outcome = run(benchmark, found, folder, resume=resume, facts=facts, advance=advance)
    if json:
        print_json({"summary": outcome.summaries, "files": [str(path) for path in outcome.files]})
        return
    keys = columns or list(dict.fromkeys(key for row in outcome.summaries for key in row))
    print_table(
        [{k: v for k, v in row.items() if not isinstance(v, list)} for row in outcome.summaries],
        [key for key in keys if not any(isinstance(row.get(key), list) for row in outcome.summaries)],
    )
    for row in outcome.summaries:
        if row.get("worst"):
            say(f"worst with {row['model']}: {', '.join(row['worst'])}", quiet)
    for path in outcome.files:
        say(str(path), quiet)
