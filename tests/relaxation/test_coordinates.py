"""Coordinates of atoms and cell: exponential, forces as derivatives, allowed strains."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from m3pot.execution import numerics
from m3pot.graph import Graph, batch
from m3pot.potential import energy, predict, volumes
from m3pot.relaxation.cell import MODES, strain_projector
from m3pot.relaxation.coordinates import Vector, exponential, generalised_force, inverse, place
from m3pot.structure import from_ase
from tests.relaxation.helpers import morse, problems


def test_exponential_is_that_of_scipy():
    matrices = np.random.default_rng(0).normal(0, 0.5, (20, 3, 3))
    with numerics("float64"):
        np.testing.assert_allclose(exponential(matrices), scipy.linalg.expm(matrices), atol=1e-12)
        np.testing.assert_allclose(inverse(jnp.asarray(matrices)), np.linalg.inv(matrices), rtol=1e-8)
        assert (np.asarray(inverse(np.zeros((1, 3, 3)))) == 0).all()


@pytest.mark.parametrize("turning", [False, True])
def test_forces_are_the_slope_of_the_enthalpy(turning):
    pressure, step = 0.02, 1e-5
    atoms = [problems()["metal"], problems()["oxide"]]
    with numerics("float64"):
        graph = batch([from_ase(a, 4.5) for a in atoms])
        rng = np.random.default_rng(1)

        def logarithm(scale):
            strain = rng.normal(0, scale, graph.cell.shape)
            return strain if turning else strain + strain.swapaxes(1, 2)

        x = Vector(np.asarray(graph.positions), logarithm(0.05))
        direction = Vector(rng.normal(size=x.atoms.shape), logarithm(1.0))
        start = np.asarray(graph.cell)

        def at(x) -> Graph:
            positions, cell, _ = place(x, start, graph.owner)
            return graph._replace(positions=positions, cell=cell)

        def enthalpy(shift):
            moved = at(Vector(x.atoms + shift * direction.atoms, x.cell + shift * direction.cell))
            return float((energy(morse(), moved) + pressure * volumes(moved.cell)).sum())

        now = at(x)
        force = generalised_force(x, predict(morse(), now), now.cell, graph.owner, pressure)
        real = (np.asarray(graph.species) > 0)[:, None]
        work = (np.asarray(force.atoms) * direction.atoms * real).sum()
        work += (np.asarray(force.cell) * direction.cell).sum()
        assert (enthalpy(step) - enthalpy(-step)) / (2 * step) == pytest.approx(-work, rel=1e-6)


@pytest.mark.parametrize("turning", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_strains_of_each_mode(mode, turning):
    cell = np.array([[3.0, 0.1, 0], [0.4, 3.2, 0.3], [0.2, -0.5, 4.0]])
    p = strain_projector(mode, cell, np.ones(3, bool), turning=turning)
    np.testing.assert_allclose(p @ p, p, atol=1e-12)
    np.testing.assert_allclose(p, p.T, atol=1e-12)
    strains = {"free": 6, "fixed": 0, "isotropic": 1, "shape": 5, "volume": 1}[mode]
    assert round(np.trace(p)) == strains + 3 * (turning and mode in ("free", "shape"))
    assert (strain_projector(mode, cell, np.zeros(3, bool)) == 0).all()


def test_strains_of_layers_masks_and_symmetry():
    cell = np.diag([3.0, 4.0, 20.0])
    layer = strain_projector("free", cell, np.array([True, True, False]))
    assert round(np.trace(layer)) == 3
    assert round(np.trace(strain_projector("shape", cell, np.array([True, True, False])))) == 2
    masked = strain_projector("free", cell, np.ones(3, bool), mask=[1, 0, 0, 0, 0, 1])
    np.testing.assert_allclose(np.flatnonzero(np.diag(masked)), [0, 1, 3])
    turn = np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1.0]])
    rotations = [np.linalg.matrix_power(turn, k) for k in range(4)]
    assert round(np.trace(strain_projector("free", cell, np.ones(3, bool), rotations=np.array(rotations)))) == 2
