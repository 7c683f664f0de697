import gc
import os
from pathlib import Path

import jax
import pytest

GOLDEN = Path(__file__).parent / "data" / "golden"


def shared_data(name: str) -> Path:
    """A file or folder of the large data that are not in the repository; skips the test where they are absent.

    Looked for in the folders of the search path M3POT_DATA, then in ``../shared/data`` beside the checkout.
    """
    folders = [Path(folder) for folder in os.environ.get("M3POT_DATA", "").split(os.pathsep) if folder]
    folders.append(Path(__file__).parents[2] / "shared" / "data")
    for folder in folders:
        if (folder / name).exists():
            return folder / name
    pytest.skip(f"{name} is not on this machine; set M3POT_DATA to the folder that holds it")


@pytest.fixture(name="shared_data")
def _shared_data():
    return shared_data


@pytest.fixture(autouse=True, scope="module")
def _drop_compiled_code():
    """Free what a module compiled: every XLA:CPU program maps memory, and Linux kills at 65 530 maps in a process."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def golden() -> Path:
    """Folder of the goldens with random weights, made for this project."""
    return GOLDEN
