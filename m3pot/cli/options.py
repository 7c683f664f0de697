"""What every command shares: its options, exit codes, progress bar, and how results and failures are printed.

A command takes the common options as annotated parameters::

    def predict(files: Files, model: Model = None, dtype: Dtype = "float32", device: Device = None,
                json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:

``--device`` takes effect by itself, ``--debug`` is read by :func:`m3pot.cli.main.main`. Heavy imports belong into the
body of the command. Raise ValueError, OSError or StructureError with one sentence for input that stops everything
(exit code 2); collect what fails alone and end with :func:`finish` (exit code 1). Examples in a docstring follow a line
with ``\\b``, which keeps their line breaks.
"""

import contextlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import typer

DONE, SOME_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130  # exit codes
NAMED = 20  # failures named on standard error; what a command writes names them all


def _choose_device(name: str | None) -> str | None:
    """Confine this process to a kind of device. Runs before JAX is imported."""
    if name is None:
        return None
    match = re.fullmatch(r"(cpu|gpu|cuda|rocm|tpu)(?::(\d+))?", name.lower())
    if match is None:
        raise typer.BadParameter(f"expected cpu, gpu, gpu:0, gpu:1 ... or tpu, got {name!r}")
    kind, number = match.groups()
    platform = "cuda" if kind == "gpu" else kind
    if number is not None and platform in ("cuda", "rocm"):
        os.environ["CUDA_VISIBLE_DEVICES" if platform == "cuda" else "ROCR_VISIBLE_DEVICES"] = number
    os.environ["JAX_PLATFORMS"] = platform
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_platforms", platform)
    return name


Files = Annotated[
    list[str],
    typer.Argument(metavar="FILES...", help="Structure files, globs or folders, of any format and with many frames."),
]
File = Annotated[str, typer.Argument(metavar="FILE", help="Structure file of any format; the last frame is taken.")]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="Name from `m3pot models list`, .safetensors, or nequix's .nqx.", show_default="shipped"
    ),
]
Dtype = Annotated[Literal["float32", "float64"], typer.Option("--dtype", help="Floating-point precision.")]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="cpu, gpu, gpu:1, tpu ...",
        show_default="the fastest",
        callback=_choose_device,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the results as JSON on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def split(text: str | None) -> list[str] | None:
    """The parts of a list that is written with commas; None where the option is not given."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def say(message: str, quiet: bool = False) -> None:
    """A note for the person at the terminal, on standard error."""
    if not quiet:
        typer.echo(message, err=True)


def finish(failures: Sequence[tuple[str, str]], total: int) -> None:
    """End the command: name what failed, and why, on standard error and exit, or return if nothing did.

    The exit code is 1, or 2 if nothing could be done at all.
    """
    if not failures:
        return
    if total > 1:
        typer.echo(f"m3pot: {len(failures)} of {total} inputs failed:", err=True)
    for name, reason in failures[:NAMED]:
        typer.echo(f"{'  ' if total > 1 else 'm3pot: '}{name}: {one_line(reason)}", err=True)
    if len(failures) > NAMED:
        typer.echo(f"  and {len(failures) - NAMED} more", err=True)
    raise typer.Exit(BAD_INPUT if len(failures) == total else SOME_FAILED)


def one_line(message: object) -> str:
    """The message of an error without line breaks."""
    return " ".join(str(message).split())


@contextlib.contextmanager
def progress(
    description: str, total: int | None, *, quiet: bool = False, unit: str = "it"
) -> Iterator[Callable[[int], None]]:
    """Progress on standard error with speed and time left; yields ``advance(count)``.

    A bar on a terminal, lines in the log of a batch job, nothing when ``quiet``.
    """
    if quiet:
        yield lambda count=1: None
        return
    if not sys.stderr.isatty():
        yield _progress_lines(description, total, unit)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task):
            speed = task.finished_speed or task.speed
            return Text("" if not speed else f"{speed:.3g} {unit}/s")

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Speed(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda count=1: bar.advance(task, count)


def _progress_lines(description: str, total: int | None, unit: str) -> Callable[[int], None]:
    """Says how far work is after a minute, and whenever a minute and a tenth of the time so far have passed."""
    started = said = time.monotonic()
    done = told = 0

    def advance(count: int = 1) -> None:
        nonlocal said, done, told
        done += count
        now = time.monotonic()
        if now - said < max(60, 0.1 * (now - started)):
            return
        speed = (done - told) / (now - said)  # since the last line: what a resumed job has done already took no time
        said, told = now, done
        of = "" if total is None else f" of {total}"
        left = f", {(total - done) / speed / 60:.0f} min left" if total and speed > 0 else ""
        say(f"{description}: {done}{of} {unit}, {speed:.3g} {unit}/s{left}")

    return advance


def plain(value: Any) -> Any:
    """``value`` with numpy arrays and scalars as lists and numbers, and NaN or infinity as None: ready for JSON."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return value


def print_json(value: Any) -> None:
    """``value`` as one JSON document on standard output."""
    import json

    typer.echo(json.dumps(plain(value), indent=1, allow_nan=False, default=str))


def print_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Aligned plain text on standard output, one line per row; numbers to the right, None as a dash."""
    rows = list(rows)
    columns = list(columns or (rows[0] if rows else ()))
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    numeric = [bool(rows) and all(isinstance(row.get(c), int | float | None) for row in rows) for c in columns]
    widths = [max([len(c), *(len(line[k]) for line in cells)]) for k, c in enumerate(columns)]
    for line in [columns, *cells]:
        parts = [x.rjust(w) if n else x.ljust(w) for x, w, n in zip(line, widths, numeric, strict=True)]
        typer.echo("  ".join(parts).rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.5g}"
    return str(value)
