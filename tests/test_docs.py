import importlib.util
import subprocess
import sys

import pytest

import m3pot
from tests.documents import ROOT, check_command, check_python, commands, fenced, inline

DOCS = ROOT / "docs"
PAGES = {str(path.relative_to(DOCS)): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}


def test_pages_build_without_a_warning(tmp_path):
    missing = [name for name in ("sphinx", "myst_parser", "furo") if not importlib.util.find_spec(name)]
    if missing:
        pytest.skip(f"{', '.join(missing)} missing: pip install '.[docs]'")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(tmp_path / "doctrees")]
    done = subprocess.run([*command, str(DOCS), str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    models = (tmp_path / "models.html").read_text(encoding="utf-8")
    for card in (ROOT / "m3pot" / "weights").glob("*.md"):
        assert f'id="{card.stem}"' in models


def test_promised_names_are_described():
    for name in set(m3pot.__all__) - {"__version__"}:
        assert f":: m3pot.{name}\n" in PAGES["api.md"]


@pytest.mark.parametrize("line", sorted({line for text in PAGES.values() for line in commands(text)}))
def test_commands_are_understood(line):
    check_command(line)


@pytest.mark.parametrize("page", PAGES)
def test_python_holds(page):
    check_python("\n".join(fenced(PAGES[page], "python")))
    for code in inline(PAGES[page]):
        if code.startswith("m3pot."):
            check_python(code)


def test_a_wrong_name_or_keyword_is_noticed():
    check_python("import m3pot; m3pot.relax([], fmax=0.1); m3pot.properties.eos([], points=7)")
    for wrong, error in {
        "m3pot.relaxed([])": ImportError,
        "from m3pot.units import GPa": ImportError,
        "m3pot.relax([], force=0.1)": TypeError,
    }.items():
        with pytest.raises(error):
            check_python(wrong)
