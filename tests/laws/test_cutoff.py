"""Energy and forces end smoothly at both cutoffs, in the dialects that can."""

import numpy as np
from ase import Atoms

from tests.helpers import evaluate, evaluate_graphs, graph_of, random_potential, without_threebody

GAPS = (0.3, 0.03, 0.003)  # A before the cutoff; a smooth end falls as gap^3 in energy, gap^2 in force


def dimer(distance):
    return Atoms("LiF", [[0, 0, 0], [0, 0, distance]])


def trimer(distance):
    """j - i - k in a line, so that only r_ik is near the three-body cutoff and j does not see k."""
    return Atoms("FOLi", [[0, 0, -2.0], [0, 0, 0], [0, 0, distance]])


def fall(values):
    """Exponents p of value ~ gap^p between neighbouring gaps."""
    return -np.diff(np.log10(np.abs(values)))


def test_pairs_end_at_the_cutoff(name):
    near = evaluate(name, "float64", [dimer(5.0 - gap) for gap in GAPS])
    (beyond,) = evaluate(name, "float64", [dimer(5.001)], skin=0.5)
    assert not beyond.forces.any()
    energies = [result.energy - beyond.energy for result in near]
    forces = [np.abs(result.forces).max() for result in near]
    if name == "matgl-bessel":  # the slope of its pair basis does not vanish: only the value is continuous
        np.testing.assert_allclose(fall(energies)[-1], 1, atol=0.1)
        np.testing.assert_allclose(fall(forces)[-1], 0, atol=0.1)
    else:
        assert fall(energies)[-1] > 2.7
        assert fall(forces)[-1] > 1.8


def test_triplets_end_at_their_cutoff(name):
    potential = random_potential(name)
    distances = [4.0 - gap for gap in GAPS] + [4.001]
    graphs = [graph_of(trimer(distance)) for distance in distances]
    full, silent = (evaluate_graphs(p, graphs, "float64") for p in (potential, without_threebody(potential)))
    energies = [a.energy - b.energy for a, b in zip(full, silent, strict=True)]
    forces = [np.abs(a.forces - b.forces).max() for a, b in zip(full, silent, strict=True)]
    assert energies[-1] == 0
    assert forces[-1] < 1e-15
    assert abs(energies[0]) > 1e-8
    assert fall(energies[:-1])[-1] > 2.7
    assert fall(forces[:-1])[-1] > 1.8
