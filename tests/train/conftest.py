import pytest

from m3pot.models import MODELS
from tests.train.toy import Pair, edges, morse, pair


@pytest.fixture(autouse=True)
def _pair_is_known(monkeypatch):
    monkeypatch.setitem(MODELS, "Pair", Pair)


@pytest.fixture(scope="session")
def potential():
    return pair()


@pytest.fixture(scope="session")
def train():
    return edges(morse(36))


@pytest.fixture(scope="session")
def valid():
    return edges(morse(8, seed=1))
