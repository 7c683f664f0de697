"""What the tests of README and documentation share: the commands and snippets of a page, and whether they hold."""

import ast
import importlib
import inspect
import re
import shlex
import textwrap
import types
from pathlib import Path

import m3pot

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", flags=re.DOTALL | re.MULTILINE)


def fenced(text: str, language: str) -> list[str]:
    """Contents of the blocks of a language; "" are commands."""
    return [textwrap.dedent(code) for _, found, code in FENCE.findall(text) if found == language]


def inline(text: str) -> list[str]:
    """What stands between single backticks outside of blocks."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", text))


def commands(text: str) -> list[str]:
    """All command lines that start with m3pot, without comments."""
    lines = []
    for code in fenced(text, ""):
        joined = code.replace("\\\n", " ")
        lines += [part.strip() for line in joined.splitlines() for part in line.partition("  #")[0].split("&&")]
    return [line for line in lines + inline(text) if line.startswith("m3pot ")]


def check_command(line: str) -> None:
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
            assert list(ROOT.glob(part)), part


def check_python(code: str) -> None:
    """All names of m3pot exist, and what is called takes these keywords."""
    tree = ast.parse(code)
    known = {"m3pot": m3pot}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "m3pot":
            exec(ast.unparse(node), known)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            _resolve(node, known)
        elif isinstance(node, ast.Call) and (function := _resolve(node.func, known)):
            keywords = {keyword.arg: None for keyword in node.keywords if keyword.arg}
            inspect.signature(function).bind_partial(*node.args, **keywords)


def _resolve(node: ast.expr, known: dict) -> object:
    """The object that a dotted name stands for; None where that is not one of m3pot."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if not isinstance(node, ast.Attribute) or not isinstance(owner := _resolve(node.value, known), types.ModuleType):
        return None
    if not hasattr(owner, node.attr):
        importlib.import_module(f"{owner.__name__}.{node.attr}")
    return getattr(owner, node.attr)
