import ast
import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCED = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
NOT_MEASURED = {"3.11", "0.10.2", "0.11.0"}  # versions in the prose


def figures(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "benchmarks" / "figures.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def commands() -> list[str]:
    """All command lines of the README that start with m3pot, without comments."""
    lines = []
    for language, code in FENCED:
        if not language:
            joined = code.replace("\\\n", " ")
            lines += [part.strip() for line in joined.splitlines() for part in line.partition("  #")[0].split("&&")]
    outside = re.sub(r"^```.*?^```", "", README, flags=re.DOTALL | re.MULTILINE)
    lines += re.findall(r"`([^`\n]+)`", outside)
    return [line for line in lines if line.startswith("m3pot ")]


def test_tables_are_those_of_the_results():
    done = figures("--check")
    assert done.returncode == 0, done.stderr


def test_every_table_has_its_place(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    made = importlib.import_module("figures")
    assert sorted(re.findall(r"^<!-- (\w+) -->$", README, flags=re.MULTILINE)) == sorted(["models", *made.BLOCKS])
    assert set(made.CAPTIONS) == set(made.BLOCKS)
    assert [made.number(x) for x in (None, 0, 0.12345, -12.345, 1234.5, 1.2e-7)] == [
        "-",
        "0",
        "0.123",
        "-12.3",
        "1234",
        "1.20e-07",
    ]


def test_a_changed_result_is_noticed(tmp_path):
    results = shutil.copytree(ROOT / "benchmarks" / "results", tmp_path / "results")
    path = results / "accuracy.json"
    document = json.loads(path.read_text())
    document["rows"][0]["energy_mae"] += 1.0
    path.write_text(json.dumps(document))
    readme = shutil.copy(ROOT / "README.md", tmp_path)
    done = figures("--check", "--readme", readme, "--results", results)
    assert done.returncode == 1
    assert "figures.py" in done.stderr
    assert figures("--readme", readme, "--results", results).returncode == 0
    assert figures("--check", "--readme", readme, "--results", results).returncode == 0


def test_no_other_numbers():
    """What was measured stands in the blocks that figures.py writes."""
    prose = re.sub(r"<!-- (\w+) -->.*?<!-- /\1 -->", "", README, flags=re.DOTALL)
    prose = re.sub(r"^```.*?^```|`[^`\n]*`|\]\([^)]*\)", "", prose, flags=re.DOTALL | re.MULTILINE)
    numbers = set(re.findall(r"(?<![A-Za-z\d.^-])\d[\d.]*\d|(?<![A-Za-z\d.^-])\d", prose))
    assert numbers <= NOT_MEASURED


def test_there_are_commands():
    assert any(line.startswith("m3pot relax examples/LiFePO4.cif") for line in commands())
    assert len(commands()) > 10


@pytest.mark.parametrize("line", commands())
def test_commands_are_understood(line):
    """The command exists and takes these options; examples exist."""
    import click
    import typer

    from m3pot.cli.main import app

    command: click.Command = typer.main.get_command(app)
    arguments = [part for part in shlex.split(line)[1:] if part != "..."]
    context = click.Context(command)
    while isinstance(command, click.Group) or hasattr(command, "resolve_command"):
        name, command, arguments = command.resolve_command(context, arguments)
        context = click.Context(command, parent=context, info_name=name)
    if any(part.startswith("-") for part in arguments):
        command.make_context(context.info_name, list(arguments))
    for part in arguments:
        if part.startswith("examples/"):
            assert (ROOT / part).exists()


def test_names_in_the_python_example_exist():
    import m3pot

    (code,) = (code for language, code in FENCED if language == "python")
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "m3pot":
            assert hasattr(m3pot, node.attr), node.attr


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_links_lead_somewhere(link):
    assert (ROOT / link).exists()
