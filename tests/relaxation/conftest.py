import pytest

from m3pot.graph import Sizes
from m3pot.relaxation import engine

ONE_SHAPE = Sizes(structures=9, atoms=48, edges=1024)


@pytest.fixture(autouse=True, scope="package")
def one_shape():
    """All batches of these tests have one shape: compilations take the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "capacity_for", lambda edges, atoms: ONE_SHAPE)
        yield
