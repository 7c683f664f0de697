"""Every law takes ``name`` (a dialect, with or without repulsion) and ``dtype`` and so runs over the whole table."""

import pytest

from tests.helpers import DTYPES, POTENTIALS


@pytest.fixture(params=POTENTIALS)
def name(request):
    return request.param


@pytest.fixture(params=DTYPES)
def dtype(request):
    return request.param
