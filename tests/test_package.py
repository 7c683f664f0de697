import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import m3pot

ROOT = Path(m3pot.__file__).parent
HEAVY = ("jax", "flax", "ase", "pymatgen", "numpy", "scipy", "jax_md", "matplotlib", "optax", "orbax", "h5py", "vesin")


def loaded_by(code: str) -> list[str]:
    code += f"; import sys; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    return done.stdout.splitlines()[-1].split()


@pytest.mark.parametrize(
    "code",
    [
        "import m3pot",
        "import m3pot; m3pot.__version__; dir(m3pot)",
        "import m3pot.cli.main",
        "from m3pot.cli.main import main; assert main(['--help']) == 0",
        "from m3pot.cli.main import main; assert main(['predict', '--help']) == 0",
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(code):
    assert loaded_by(code) == []


def test_promised_names_are_there():
    for name in m3pot.__all__:
        assert getattr(m3pot, name) is not None
    assert set(m3pot.__all__) <= set(dir(m3pot))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = m3pot.nonsense


def test_jax_md_is_loaded_by_molecular_dynamics_alone():
    assert "jax_md" not in loaded_by("import m3pot; m3pot.M3PotCalculator; m3pot.predict; m3pot.load")


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_house_rules(path):
    """Files stay short, change no global settings when imported, and leave nothing for later."""
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    assert not re.search(r"\b(TODO|FIXME|XXX)\b|raise NotImplementedError", text)
    for node in ast.parse(text).body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            called = ast.unparse(node.value.func)
            assert not re.search(r"config|warn|logging|filter", called), f"{called} is called at import"


def test_promised_functions_survive_the_import_of_modules_of_the_same_name():
    """`import m3pot.x` binds x to the module: a promised function must not share its name with a module."""
    modules = {path.stem for path in ROOT.glob("*.py")} | {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert modules & (set(m3pot.__all__) - {"jax_md"}) == set()
