import os
import subprocess
import sys

import pytest
import typer

import m3pot.cli.main as cli
from m3pot.cli import options
from m3pot.structure import StructureError


@pytest.fixture
def command(monkeypatch):
    """Put a command called ``boo`` that raises the given error in the place of the application."""

    def install(error: BaseException) -> None:
        app = typer.Typer()

        @app.callback()
        def root():
            pass

        @app.command()
        def boo(debug: bool = False):
            raise error

        monkeypatch.setattr(cli, "app", app)

    return install


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (ValueError("Expected this,\n  got that."), 2, "m3pot: Expected this, got that.\n"),
        (StructureError("No atoms."), 2, "m3pot: No atoms.\n"),
        (FileNotFoundError("x.cif does not exist."), 2, "m3pot: x.cif does not exist.\n"),
        (OSError(28, "No space left on device"), 2, "m3pot: [Errno 28] No space left on device\n"),
        (KeyError("lost"), 2, "--debug"),
        (ModuleNotFoundError("No module named 'dask'", name="dask"), 2, "pip install dask"),
        (RuntimeError("Unable to initialize backend 'cuda': ..."), 2, "--device cpu"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (typer.Exit(1), 1, ""),
        (BrokenPipeError(), 1, ""),
    ],
)
def test_every_error_is_one_sentence_and_a_code(command, capfd, error, code, sentence):
    command(error)
    assert cli.main(["boo"]) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert sentence in err
    assert err.count("\n") == bool(sentence)
    assert "Traceback" not in err


def test_debug_shows_the_traceback(command, capsys):
    command(ValueError("what"))
    assert cli.main(["boo", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["nonsense"], "m3pot --help"),
        (["predict"], "m3pot predict --help"),
        (["predict", "a.cif", "--dtype", "float16"], "float64"),
        (["predict", "a.cif", "--device", "abacus"], "cpu"),
        (["predict", "a.cif", "--speed", "9"], "--speed"),
    ],
)
def test_usage_errors(m3pot, arguments, hint):
    code, out, err = m3pot(*arguments)
    assert (code, out) == (2, "")
    assert hint in err
    assert err.count("\n") == 1


def test_every_command_has_help_with_an_example_and_the_common_options(m3pot):
    def walk(command, path):
        if hasattr(command, "commands"):
            for name, child in command.commands.items():
                yield from walk(child, [*path, name])
        else:
            yield path

    for path in walk(typer.main.get_command(cli.app), []):
        code, out, _ = m3pot(*path, "--help")
        assert code == 0
        assert f"m3pot {' '.join(path)}" in out.split("\n", 2)[2], f"no example in m3pot {' '.join(path)} --help"
        assert "--debug" in out


def test_version(m3pot):
    import m3pot as package

    assert m3pot("--version") == (0, f"m3pot {package.__version__}\n", "")


def test_the_entry_point_keeps_compiled_functions_unless_told_otherwise(tmp_path):
    code = (
        "import os, sys; sys.argv = ['m3pot', '--version']\n"
        "from m3pot.cli.main import run\n"
        "try: run()\n"
        "except SystemExit: print(os.environ['JAX_COMPILATION_CACHE_DIR'])\n"
    )

    def folder(**environment) -> str:
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()[-1]

    path = {"PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(tmp_path)}
    assert folder(**path) == str(tmp_path / ".cache" / "m3pot" / "jax")
    assert folder(**path, XDG_CACHE_HOME="/elsewhere") == "/elsewhere/m3pot/jax"
    assert folder(**path, JAX_COMPILATION_CACHE_DIR="mine") == "mine"


def test_the_log_of_a_batch_job_says_how_far_work_is(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(options.time, "monotonic", lambda: now[0])
    with options.progress("relax", 3600, unit="structures") as advance:
        for _ in range(3600):
            now[0] += 1
            advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "relax: 60 of 3600 structures, 1 structures/s, 59 min left"
    assert lines[9].startswith("relax: 600 of 3600")  # each minute, and later whenever a tenth has passed
    assert 20 < len(lines) < 30
    with options.progress("relax", None, quiet=True) as advance:
        now[0] += 100
        advance(1)
    assert capsys.readouterr().err == ""
