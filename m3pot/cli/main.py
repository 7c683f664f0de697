"""The ``m3pot`` command: joins the commands and turns every error into one sentence and an exit code.

Each module of ``m3pot.cli`` offers ``app``, a ``typer.Typer``: its commands join the top level, or, where the table
below names a group, live under that name. These modules are imported for ``m3pot --help``: nothing heavy at the top.
"""

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import m3pot
from m3pot.cli.options import BAD_INPUT, DONE, INTERRUPTED, SOME_FAILED, one_line

_MODULES = {  # module -> group; "" joins the top level. The order is that of `m3pot --help`.
    "predict": "",
    "relax": "",
    "md": "",
    "properties": "",
    "energetics": "",
    "training": "",
    "sampling": "",
    "screen": "",
    "bench": "",
    "models": "models",
    "data": "data",
    "doctor": "",
}

app = typer.Typer(
    name="m3pot",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"m3pot {m3pot.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """A universal interatomic potential: energies, relaxation, molecular dynamics, training, benchmarks."""


for _name, _group in _MODULES.items():
    if importlib.util.find_spec(f"m3pot.cli.{_name}"):
        app.add_typer(importlib.import_module(f"m3pot.cli.{_name}").app, name=_group or None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors become one sentence on standard error."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app(arguments, prog_name="m3pot", standalone_mode=False) or DONE
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:  # `m3pot ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SOME_FAILED
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        else:
            _report(error)
        return BAD_INPUT
    if code == INTERRUPTED:
        typer.echo("m3pot: interrupted; what was finished is on disk.", err=True)
    return code


def _report(error: Any) -> None:
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        typer.echo(f"m3pot: {_sentence(error)}", err=True)


def _sentence(error: Any) -> str:
    text = one_line(error)
    if hasattr(error, "format_message"):  # a usage error of click, of which some versions of typer carry a copy
        command = error.ctx.command_path if getattr(error, "ctx", None) else "m3pot"
        return f"{one_line(error.format_message()).replace('Value error, ', '').rstrip('.')}; see `{command} --help`."
    if isinstance(error, ImportError) and error.name:
        return f"this command needs the package {error.name}, which is not installed: pip install {error.name}."
    if "nable to initialize backend" in text or "nknown backend" in text:
        return f"the device is not available ({text}); choose `--device cpu` or install m3pot[cuda]."
    if isinstance(error, ValueError | OSError | ImportError) and text:  # an ImportError without name is ours
        return text
    return f"unexpected {type(error).__name__}: {text}; repeat with --debug for the traceback and report it."


def run() -> None:
    """Entry point of the installed command.

    Compiled functions are kept in the user's cache folder, so that the next process answers at once, unless
    JAX_COMPILATION_CACHE_DIR is set (to the empty string for no cache). The library itself never touches this.
    With the cache, XLA prints harmless errors about processor features (prefer-no-gather): its log is silenced.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "m3pot" / "jax"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    sys.exit(main())


if __name__ == "__main__":
    run()
