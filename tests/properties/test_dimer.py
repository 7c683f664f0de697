import numpy as np
import pytest
from ase.calculators.morse import MorsePotential

from m3pot.properties.dimer import default_distances, dimers, pair_of
from tests.helpers import random_potential


def morse(bond):
    return MorsePotential(epsilon=1.5, r0=bond, rho0=6.0, rcut1=20, rcut2=21)


def test_a_known_curve():
    (found,) = dimers(["Cu"], morse(2.2), distances=[np.linspace(1.6, 12, 400)])
    assert found.pair == "Cu-Cu"
    assert found.bond == pytest.approx(2.2, abs=0.02)
    assert found.depth == pytest.approx(-1.5, abs=1e-3)
    assert (found.minima, found.hole) == (1, 0.0)
    assert found.consistency < 0.01


def test_a_hole_is_seen():
    (found,) = dimers(["Cu"], morse(1.0), distances=[np.linspace(0.9, 9, 300)])
    assert 1.9 < found.hole < 2.2


def test_a_potential_is_its_own_slope():
    potential, r = random_potential("matgl", units=4, blocks=1), np.linspace(1.5, 4.5, 300)
    found = dimers(["Li-F", "Si"], potential, distances=[r] * 2)
    assert [curve.pair for curve in found] == ["Li-F", "Si-Si"]
    for curve in found:
        assert curve.energies[-1] == 0
        assert curve.consistency < 0.01


def test_an_unknown_element_fails_alone():
    found = dimers(["Es", "Si"], random_potential("matgl", units=4, blocks=1), distances=[[2.0, 3.0]] * 2)
    assert found[0].summary()["status"] == "failed"
    assert found[1].summary()["status"] == "done"


def test_names_and_distances():
    assert pair_of("Na") == ("Na", "Na")
    with pytest.raises(ValueError, match="pair of elements"):
        pair_of("Na-Qq")
    r = default_distances("H", "F")
    assert 0.4 < r[0] < 0.5
    assert r[-1] == pytest.approx(6.0)
