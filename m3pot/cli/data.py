"""``m3pot data``: the data sets that models are trained and tested on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m3pot.cli.options import Debug, Json, Quiet, finish, one_line, print_json, print_table, progress

if TYPE_CHECKING:
    from m3pot.data.manifest import DataSet, Status

app = typer.Typer(
    no_args_is_help=True,
    help="List, download and check data sets. Files already on disk are found below the folders in M3POT_DATA.",
)

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAMES...", help="Names from `m3pot data list`, or manifests (.toml).", show_default="all"),
]


@app.command(name="list")
def list_sets(
    names: Names = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Data sets, what they may be used for, and how many of their files are on this machine.

    \b
    Examples:
      m3pot data list
      m3pot data list mptrj --json      # everything the manifest says
    """
    from m3pot.data.manifest import find_file

    datasets = _sets(names)
    if json:
        files = [[{**file._asdict(), "found": find_file(file)} for file in dataset.files] for dataset in datasets]
        print_json([{**s._asdict(), "files": found} for s, found in zip(datasets, files, strict=True)])
        return
    print_table(
        {
            "name": dataset.name,
            "here": f"{sum(find_file(file) is not None for file in dataset.files)}/{len(dataset.files)}",
            "use": "+".join(dataset.allowed_use),
            "functional": dataset.functional or "-",
            "licence": _short(dataset.licence, 24),
            "about": _short(dataset.about, 60),
        }
        for dataset in datasets
    )


@app.command()
def fetch(
    names: Annotated[list[str], typer.Argument(metavar="NAMES...", help="Names from `m3pot data list`.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to download into.", show_default="the cache folder")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Download data sets and check their sha256. An interrupted download goes on where it stopped.

    Files that are already on this machine are checked, not downloaded. Add the folder given by --output to M3POT_DATA.

    \b
    Examples:
      m3pot data fetch mlearn
      m3pot data fetch mptrj -o /big/disk
    """
    from m3pot.data.download import fetch as download
    from m3pot.data.manifest import DataError

    states: list[tuple[DataSet, Status]] = []
    failures = []
    datasets = _sets(names)
    for dataset in datasets:
        try:
            with _bytes(dataset, "fetching", quiet) as advance:
                states += [(dataset, state) for state in download(dataset, output, advance)]
        except DataError as error:
            failures.append((dataset.name, str(error).removeprefix(f"{dataset.name}: ")))
    _show(states, json)
    finish(failures, len(datasets))


@app.command()
def verify(
    names: Names = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare files on this machine with the sha256 of their manifests: ok, wrong, missing, or unverified.

    Unverified files are there, but nobody has recorded their sha256. Without names, files that are missing are left
    out. Exit code 1 or 2 if a file is wrong, or one of a named set is missing.

    \b
    Examples:
      m3pot data verify
      m3pot data verify mptrj-random-500 pool
    """
    from m3pot.data.manifest import verify as compare

    states: list[tuple[DataSet, Status]] = []
    for dataset in _sets(names):
        with _bytes(dataset, "checking", quiet) as advance:
            states += [(dataset, state) for state in compare(dataset, advance)]
    if not names:
        states = [(dataset, state) for dataset, state in states if state.status != "missing"]
    _show(states, json)
    failures = [(s.name, state.sentence) for s, state in states if state.status in ("wrong", "missing")]
    finish(failures, len(states))


def _sets(names: list[str] | None) -> "list[DataSet]":
    from m3pot.data.manifest import available, find_set

    return [find_set(name) for name in names] if names else list(available().values())


def _show(states: "list[tuple[DataSet, Status]]", json: bool) -> None:
    rows = [
        {"name": s.name, "status": state.status, "sha256": state.sha256, "path": state.path or state.file.path}
        for s, state in states
    ]
    if json:
        print_json(rows)
    elif rows:
        print_table({**row, "sha256": row["sha256"][:16] or "-"} for row in rows)


@contextmanager
def _bytes(dataset: "DataSet", verb: str, quiet: bool) -> Iterator[Callable[[int], None]]:
    total = sum(file.size for file in dataset.files) or None
    with progress(f"{verb} {dataset.name}", total, quiet=quiet, unit="B") as advance:
        yield advance


def _short(text: str, length: int) -> str:
    text = one_line(text)
    return text if len(text) <= length else f"{text[: length - 3]}..."
