"""``m3pot doctor``: the installation, and the physics contract on any model or ASE calculator."""

import contextlib
import sys
from typing import Annotated

import typer

from m3pot.cli.options import SOME_FAILED, Debug, Device, Json, Quiet, print_json, say, split
from m3pot.cli.property_options import Model, find_model

app = typer.Typer()


@app.command()
def doctor(
    model: Model = None,
    elements: Annotated[
        str | None,
        typer.Option("--elements", help="Of the test structures, as Cu,Ag.", show_default="common ones"),
    ] = None,
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show versions and devices, and check that a model obeys the laws of physics (exit code 1 if not).

    Forces and stress against finite differences, translation, rotation, permutation, supercells; batches, padding and
    skin of the neighbour list; single against double precision; the end at the cutoff; repulsion of close atoms.
    Of an ASE calculator what can be seen from outside; what it cannot do is "not measured", and is no failure.

    \b
    Examples:
      m3pot doctor
      m3pot doctor --model mine.safetensors --json
      m3pot doctor --model ase.calculators.emt:EMT --elements Cu,Ag
    """
    from m3pot.contract import doctor as examine
    from m3pot.environment import describe
    from m3pot.io.registry import find
    from m3pot.potential import Potential

    around = describe()
    with contextlib.redirect_stdout(sys.stderr):  # calculators print
        found = find_model(model)
        report = examine(found, elements=split(elements))
    name = str(find(model)) if isinstance(found, Potential) else model
    if json:
        laws = [outcome._asdict() | {"verdict": outcome.verdict} for outcome in report.outcomes]
        print_json({"environment": around, "model": name, "ok": report.ok, "laws": laws, "notes": report.notes})
    else:
        if not quiet:
            for key, value in around.items():
                typer.echo(f"{key:16} {_flat(value)}")
            typer.echo(f"{'model':16} {name}\n")
        typer.echo(str(report))
    if not around["jaxlib_is_sound"]:
        say("m3pot: this jaxlib computes wrong numbers on CPU (jax issue 39103); install another version.")
    if not (report.ok and around["jaxlib_is_sound"]):
        raise typer.Exit(SOME_FAILED)


def _flat(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {version or 'missing'}" for name, version in value.items())
    return ", ".join(value) if isinstance(value, list) else str(value)
