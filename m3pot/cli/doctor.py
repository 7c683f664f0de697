"""``m3pot doctor``: the installation, and the physics contract on any model."""

import typer

from m3pot.cli.options import SOME_FAILED, Debug, Device, Json, Model, Quiet, print_json, say

app = typer.Typer()


@app.command()
def doctor(
    model: Model = None,
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show versions and devices, and check that a model obeys the laws of physics (exit code 1 if not).

    Forces and stress against finite differences, translation, rotation, permutation, supercells; batches, padding and
    skin of the neighbour list; single against double precision; the end at the cutoff; repulsion of close atoms.

    \b
    Examples:
      m3pot doctor
      m3pot doctor --model mine.safetensors --json
    """
    from m3pot.contract import doctor as examine
    from m3pot.environment import describe
    from m3pot.io.registry import find, load

    potential = load(model)
    around = describe()
    report = examine(potential)
    if json:
        laws = [outcome._asdict() | {"verdict": outcome.verdict} for outcome in report.outcomes]
        print_json({"environment": around, "model": str(find(model)), "ok": report.ok, "laws": laws})
    else:
        if not quiet:
            for key, value in around.items():
                typer.echo(f"{key:16} {_flat(value)}")
            typer.echo(f"{'model':16} {find(model)}\n")
        typer.echo(str(report))
    if not around["jaxlib_is_sound"]:
        say("m3pot: this jaxlib computes wrong numbers on CPU (jax issue 39103); install another version.")
    if not (report.ok and around["jaxlib_is_sound"]):
        raise typer.Exit(SOME_FAILED)


def _flat(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {version or 'missing'}" for name, version in value.items())
    return ", ".join(value) if isinstance(value, list) else str(value)
