"""``m3pot train``, ``finetune`` and ``evaluate``: models from labelled data, and how good they are."""

import logging
import os
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from m3pot.cli.options import (
    Debug,
    Device,
    Dtype,
    Json,
    Quiet,
    finish,
    one_line,
    print_json,
    print_table,
    progress,
    say,
)

if TYPE_CHECKING:
    from m3pot.train.config import TrainConfig

app = typer.Typer()

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one entry of the configuration; repeatable."),
]
Data = Annotated[
    list[str], typer.Argument(metavar="DATA...", help="Labelled structures: files, folders, names of data sets.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder, to the same bits.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Folder for everything that is written.")]
Distributed = Annotated[
    bool,
    typer.Option("--distributed", help="One of several processes, of SLURM, MPI or named by JAX_PROCESS_ID."),
]


@app.command()
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="TOML file that describes the run.")],
    set_: Set = None,
    output: Output = None,
    resume: Resume = False,
    distributed: Distributed = False,
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a potential on labelled structures, on all devices of this machine.

    Everything goes into the output folder: the model (model.safetensors), its card (model.md), the log as JSON lines
    and CSV, learning curves, parity plots and checkpoints. A run that was killed goes on with --resume. On a CPU
    JAX_NUM_CPU_DEVICES=2 splits each step over two cores; data.edge_budget holds for each.

    \b
    Examples:
      m3pot train examples/train.toml
      m3pot train run.toml --set optim.lr=3e-4 --set data.edge_budget=4096 -o second
      m3pot train run.toml -o second --resume
    """
    from m3pot.train.config import load_config

    changes = [*(set_ or []), *([f'output="{output}"'] if output else [])]
    _run(load_config(config, changes), resume, distributed, json, quiet)


@app.command()
def finetune(
    data: Data,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Where to start: name or .safetensors.", show_default="shipped")
    ] = None,
    output: Output = None,
    valid: Annotated[
        list[str] | None, typer.Option("--valid", help="Labelled structures to validate on.", show_default="a tenth")
    ] = None,
    replay: Annotated[
        list[str] | None,
        typer.Option("--replay", help="Structures of earlier training, or unlabelled ones, against forgetting."),
    ] = None,
    replay_fraction: Annotated[
        float, typer.Option("--replay-fraction", help="Their share of all that training sees.")
    ] = 0.5,
    freeze: Annotated[
        list[str] | None, typer.Option("--freeze", metavar="PREFIX", help="Parameters that stay, e.g. node_embedding.")
    ] = None,
    rate: Annotated[
        list[str] | None, typer.Option("--rate", metavar="PREFIX=FACTOR", help="Learning rate of some parameters.")
    ] = None,
    set_: Set = None,
    resume: Resume = False,
    distributed: Distributed = False,
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Adapt a model to new labelled structures; refits the element references first.

    Ends with a table of the errors before and after, on structures kept out of your data and, with --replay, on
    structures kept out of the replayed ones. All entries of a training configuration can be changed with --set; labels
    in other units: --set data.stress_unit=GPa.

    \b
    Examples:
      m3pot finetune mine.extxyz -o tuned
      m3pot finetune mine.extxyz --replay old.extxyz --freeze node_embedding --set optim.steps=5000
    """
    from m3pot.io.registry import find
    from m3pot.train.finetune import finetune_config

    config = finetune_config(
        data,
        model or find().stem,
        output=str(output) if output else None,
        valid=valid or (),
        replay=replay or (),
        replay_fraction=replay_fraction,
        freeze=freeze or (),
        rates=dict(map(_factor, rate or ())),
        overrides=set_ or (),
    )
    _run(config, resume, distributed, json, quiet)


def _factor(text: str) -> tuple[str, float]:
    prefix, _, factor = text.partition("=")
    try:
        return prefix, float(factor)
    except ValueError:
        raise typer.BadParameter(f"expected --rate PREFIX=FACTOR, got {text!r}") from None


def _run(config: "TrainConfig", resume: bool, distributed: bool, json: bool, quiet: bool) -> None:
    import jax

    if distributed:
        _join()
    quiet = quiet or jax.process_index() > 0

    from m3pot.train.checkpoints import TrainingError
    from m3pot.train.run import run

    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax prints a traceback before it raises

    bar = progress("train", config.optim.steps, quiet=quiet or json, unit="steps")
    try:
        with bar as advance:
            done = run(
                config,
                resume=resume,
                command=shlex.join(["m3pot", *sys.argv[1:]]),
                say=lambda text: say(text, quiet or json),
                report=lambda record: say(_line(record), quiet or json),
                advance=advance,
            )
    except TrainingError as error:
        raise ValueError(str(error)) from error
    rows = done.comparison or [{"set": name, **measured._asdict()} for name, measured in done.accuracy.items()]
    if jax.process_index() > 0:
        return
    if json:
        print_json({"model": str(done.model), "errors": rows})
    else:
        print_table([{key: row[key] for key in ("set", "model", *_SHOWN) if key in row} for row in rows])
        say(f"{done.model} (card: {done.model.with_suffix('.md').name})", quiet)


def _join() -> None:
    """Wait for the other processes of this training. SLURM, MPI and Kubernetes say who they are, else variables do."""
    import jax
    from jax.experimental import multihost_utils

    variables = {"num_processes": "JAX_NUM_PROCESSES", "process_id": "JAX_PROCESS_ID"}
    try:
        given = {name: int(os.environ[variable]) for name, variable in variables.items() if variable in os.environ}
        jax.distributed.initialize(**given)
        # The first collective connects CPUs, and gives up after 30 s: not to be left until data have been read.
        multihost_utils.sync_global_devices("all processes have started")
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"The processes of --distributed did not find each other ({one_line(error)}); start them with "
            f"srun or mpirun, or give each JAX_COORDINATOR_ADDRESS=host:port, {' and '.join(variables.values())}."
        ) from error


_SHOWN = ("structures", "energy_mae", "energy_rmse", "forces_mae", "forces_component_mae", "stress_mae")


def _line(record: dict[str, Any]) -> str:
    from m3pot.units import GPA

    errors = record["valid"]
    return (
        f"step {record['step']}: loss {record['valid_loss']:.4g}, energy {errors['energy']:.4f} eV/atom, "
        f"forces {errors['forces']:.4f} eV/A, stress {errors['stress'] / GPA:.3f} GPa, "
        f"{record['structures_per_second']:.1f} structures/s"
        + (f", {record['skipped']} steps skipped" if record["skipped"] else "")
    )


@app.command()
def evaluate(
    data: Data,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="Name, .safetensors, .nqx, or module:factory of an ASE calculator; repeatable.",
            show_default="shipped",
        ),
    ] = None,
    output: Output = None,
    align: Annotated[
        bool, typer.Option("--align", help="Fit element references to the errors first: for another energy scale.")
    ] = False,
    elements: Annotated[bool, typer.Option("--elements", help="Also print the errors per element.")] = False,
    energy_key: Annotated[str, typer.Option(help="Name of the total energy in the data.")] = "energy",
    forces_key: Annotated[str, typer.Option(help="Name of the forces.")] = "forces",
    stress_key: Annotated[str, typer.Option(help="Name of the stress.")] = "stress",
    stress_unit: Annotated[Literal["eV/A^3", "GPa", "kbar", "eV"], typer.Option(help="eV: a virial.")] = "eV/A^3",
    stress_sign: Annotated[int, typer.Option(help="1: tension is positive; -1: compression.")] = 1,
    unit_guard: Annotated[bool, typer.Option(help="Refuse labels whose units cannot be right.")] = True,
    dtype: Dtype = "float32",
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Errors of models against labelled structures: energy (eV/atom), forces (eV/A), stress (GPa).

    forces_mae is the mean length of the error vector, forces_component_mae the mean over components. All models are
    measured on the same structures. --output writes errors.csv and errors.json, per element too, and parity plots.

    \b
    Examples:
      m3pot evaluate test.extxyz
      m3pot evaluate test.extxyz other.extxyz --model m3pot-s --model mine.safetensors -o errors
      m3pot evaluate test.extxyz --model ase.calculators.emt:EMT --align --elements
    """
    from m3pot import evaluation
    from m3pot.data.frames import Keys
    from m3pot.data.sources import load
    from m3pot.io.registry import find

    names = model or [find().stem]
    keys = Keys(energy_key, forces_key, stress_key, stress_unit, stress_sign)
    models = {_short(name, names): evaluation.find_model(name) for name in names}
    sets = {_short(name, data): load([name], keys, use=None, unit_guard=unit_guard) for name in data}
    total = len(models) * sum(map(len, sets.values()))
    with progress("evaluate", total, quiet=quiet or json, unit="structures") as advance:
        found = evaluation.evaluate(sets, models, dtype=dtype, align=align, advance=advance)
    if output:
        facts = {"models": names, "data": data, "dtype": dtype, "aligned": align}
        for path in evaluation.write(output, found, facts):
            say(str(path), quiet or json)
    rows = found.rows if elements else evaluation.overall(found)
    if json:
        print_json({"rows": rows, "failures": found.failures})
    else:
        print_table(rows)
    finish(found.failures, total)


_ENDINGS = r"(\.[A-Za-z]\w*)+$"  # .extxyz.gz, .safetensors; not the .0 of a version


def _short(name: str, others: list[str]) -> str:
    """The file name without ending, or the whole name where that is shared."""
    stems = [
        re.sub(_ENDINGS, "", Path(other).name) if "/" in other or Path(other).exists() else other for other in others
    ]
    stem = stems[others.index(name)]
    return stem if stems.count(stem) == 1 else name
