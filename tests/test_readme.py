import importlib
import json
import re
import shutil
import subprocess
import sys

import pytest

from tests.documents import ROOT, check_command, check_python, commands, fenced

README = (ROOT / "README.md").read_text(encoding="utf-8")
NOT_MEASURED = {"3.11", "0.10.2", "0.11.0"}  # versions in the prose


def figures(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "benchmarks" / "figures.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


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
    assert any(line.startswith("m3pot relax examples/LiFePO4.cif") for line in commands(README))
    assert len(commands(README)) > 10


@pytest.mark.parametrize("line", commands(README))
def test_commands_are_understood(line):
    check_command(line)


def test_the_python_example_holds():
    (code,) = fenced(README, "python")
    check_python(code)


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_links_lead_somewhere(link):
    assert (ROOT / link).exists()
