import pytest

from m3pot.cli.main import main
from m3pot.io.checkpoint import save_potential
from tests.helpers import random_potential


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> str:
    """File of a tiny potential with random weights."""
    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    save_potential(path, random_potential("tensorflow", "float32", units=4, blocks=1))
    return str(path)


@pytest.fixture
def m3pot(capsys, tmp_path, monkeypatch):
    """Run a command in an empty folder: ``code, out, err = m3pot("predict", "a.cif")``."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(a) for a in arguments])
        return code, *capsys.readouterr()

    return call
