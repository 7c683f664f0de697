"""Laws of every minimiser, on problems small enough to know the answer."""

import jax
import numpy as np
import pytest

from m3pot.execution import numerics
from m3pot.graph import edge_vectors
from m3pot.relaxation import relax, springs
from m3pot.relaxation.coordinates import Vector, dot, exponential
from m3pot.structure import from_ase
from tests.relaxation.helpers import distorted, morse, problems

MINIMIZERS = ("lbfgs", "fire")


@pytest.mark.parametrize("minimizer", MINIMIZERS)
def test_all_problems_converge_to_the_same_energies(minimizer):
    limits = dict(fmax=0.01, smax=2e-4, steps=400, dtype="float64", max_edges=1024)
    results = relax(problems().values(), morse(), minimizer=minimizer, **limits)
    tight = relax(problems().values(), morse(), **limits | dict(fmax=1e-4, smax=1e-6))
    for name, result, best in zip(problems(), results, tight, strict=True):
        assert result.converged, name
        if name != "molecule":  # so flat that forces fall below the limit long before the minimum
            assert result.energy == pytest.approx(best.energy, abs=2e-3 * len(result.atoms)), name


def test_quasi_newton_needs_a_third_of_the_steps_of_fire():
    atoms = [distorted(problems()["oxide"], seed) for seed in range(4)]
    steps = [
        sum(r.steps for r in relax(atoms, morse(), minimizer=m, dtype="float64", max_edges=1024)) for m in MINIMIZERS
    ]
    assert 3 * steps[0] < steps[1]


def _network(x64: bool = True):
    atoms = problems()["oxide"]
    graph = from_ase(atoms, 4.5)
    rng = np.random.default_rng(0)
    strain = rng.normal(0, 0.02, (1, 3, 3))
    return graph, exponential((strain + strain.swapaxes(1, 2)) / 2), rng


def test_springs_are_the_second_derivative_of_their_energy():
    """K by finite differences of the forces that the same springs give, atoms and strain alike; symmetric, positive."""
    with numerics("float64"):
        graph, deformation, rng = _network()
        network = springs.attach(graph, deformation, springs.covalent_radii())

        def random():
            strain = rng.normal(0, 0.1, (1, 3, 3))
            return Vector(rng.normal(0, 0.1, graph.positions.shape), (strain + strain.swapaxes(1, 2)) / 2)

        def energy(step):
            moved = np.einsum("na,nab->nb", step.atoms, deformation[graph.owner])
            stretch = moved[graph.senders] - moved[graph.receivers] + np.asarray(edge_vectors(graph)) @ step.cell[0]
            parallel = (stretch * network.unit).sum(1)
            pairs = springs.ACROSS * (stretch**2).sum(1) + (1 - springs.ACROSS) * parallel**2
            floors = springs.FLOOR * (moved**2).sum() + springs.CELL_FLOOR * len(moved) * (step.cell**2).sum()
            return 0.25 * (network.along * pairs).sum() + 0.5 * floors

        a, b = random(), random()
        mixed = energy(jax.tree.map(np.add, a, b)) - energy(a) - energy(b)
        assert float(dot(a, springs.apply(network, b), graph.owner)[0]) == pytest.approx(float(mixed), rel=1e-6)
        assert float(dot(a, springs.apply(network, a), graph.owner)[0]) > 0


def test_springs_are_inverted():
    with numerics("float64"):
        graph, deformation, rng = _network()
        network = springs.attach(graph, deformation, springs.covalent_radii())
        force = Vector(rng.normal(size=graph.positions.shape), np.eye(3)[None])
        solution = springs.solve(network, force, lambda v: v, iterations=200, tolerance=1e-8)
        back = springs.apply(network, solution)
        np.testing.assert_allclose(back.atoms, force.atoms, atol=1e-6)
        np.testing.assert_allclose(back.cell, force.cell, atol=1e-6)
