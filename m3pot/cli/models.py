"""``m3pot models``: the shipped, imported and downloadable models."""

import contextlib
import sys
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Annotated

import typer

from m3pot.cli.options import Debug, Json, Quiet, print_json, print_table, say

app = typer.Typer(no_args_is_help=True, help="List, describe, import and download models.")


@app.command(name="list")
def list_models(json: Json = False, debug: Debug = False) -> None:
    """Models on this machine, and published ones that can be downloaded.

    Example: m3pot models list
    """
    from m3pot.io.registry import available

    rows = [entry._asdict() for entry in available()]
    if json:
        print_json(rows)
    else:
        print_table([{"name": row["name"], "origin": row["origin"], "about": row["about"]} for row in rows])


@app.command()
def info(
    model: Annotated[
        str | None, typer.Argument(help="Name, .safetensors or .nqx file.", show_default="shipped")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """What a model is: fields, elements, units, licence, provenance.

    Example: m3pot models info m3pot-s
    """
    from m3pot.io.registry import info as describe

    described = describe(model)
    if json:
        print_json(described)
        return
    card = described.pop("card")
    symbols = _symbols(card.pop("elements", []))
    for key, value in {**described, **card, "elements": symbols}.items():
        typer.echo(f"{key}: {value}")


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="TensorFlow M3GNet folder or .npz, MatGL folder, or MatterSim .pth.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .safetensors file to write.")],
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Import a model of another package; that package is not needed.

    Example: m3pot models convert MP-2021.2.8-EFS -o m3gnet.safetensors
    """
    from m3pot.io.registry import import_model

    with _plain_warnings(quiet):
        path = import_model(source, output)
    _report(path, json)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A published model of `m3pot models list`.")],
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Download a published model, check its sha256 and import it into the user's folder ($M3POT_HOME).

    Example: m3pot models fetch M3GNet-MP-2021.2.8-EFS
    """
    from m3pot.io.registry import fetch as download

    with _plain_warnings(quiet):
        path = download(name, progress=not quiet and sys.stderr.isatty())
    _report(path, json)


@contextlib.contextmanager
def _plain_warnings(quiet: bool) -> Generator[None]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        say(f"warning: {warning.message}", quiet)


def _report(path: Path, json: bool) -> None:
    if json:
        print_json({"path": str(path)})
    else:
        typer.echo(str(path))


def _symbols(numbers: list[int]) -> str:
    from ase.data import chemical_symbols

    return " ".join(chemical_symbols[z] for z in numbers)
