"""The network without triplets equals the network with an explicit list of them."""

import numpy as np
import pytest

from tests.helpers import evaluate_graphs, graph_of, random_potential, reference, structures, without_threebody
from tests.laws import oracle

WITH_TRIPLETS = ("dense metal", "skewed", "left-handed", "slab", "chain", "molecule", "unwrapped")


def test_equals_brute_force(name, record_property):
    potential, worst = random_potential(name), 0.0
    for (key, atoms), result in zip(structures().items(), reference(name, "float64"), strict=True):
        graph = graph_of(atoms)
        bare = oracle.atomic_energies(potential.model, potential.params, graph)
        expected = potential.scale[graph.species] * bare + potential.shift[graph.species]
        if potential.zbl:
            expected = expected + oracle.repulsion(graph, potential.zbl)
        error = np.abs(result.energies - expected).max() / (1 + np.abs(expected).max())
        assert error < 1e-12, key
        worst = max(worst, error)
        assert result.energy == pytest.approx(expected.sum() + potential.offset, abs=1e-10)
    record_property("energies", f"{worst:.1e}")


def test_threebody_part_matters(name):
    """Without it the forces of every structure that has triplets change: no law passes by its absence."""
    table = structures()
    results = evaluate_graphs(without_threebody(random_potential(name)), [*map(graph_of, table.values())], "float64")
    for key, silent, full in zip(table, results, reference(name, "float64"), strict=True):
        change = np.abs(silent.forces - full.forces).max() / max(np.abs(full.forces).max(), 1e-9)
        if key in WITH_TRIPLETS:
            assert change > 0.005, key
        if key in ("isolated atom", "no edges", "no triplets"):
            assert change == 0, key


def test_oracle_knows_triplets():
    """216 edges of a metal make thousands of triplets, a pair beyond 4 A none."""
    model, table = random_potential("tensorflow+zbl").model, structures()
    counts = {}
    for key in ("dense metal", "no triplets"):
        graph = graph_of(table[key])
        counts[key] = len(oracle.triplets(model, graph, oracle.edge_vectors(graph)))
    assert counts == {"dense metal": 4 * 18 * 17, "no triplets": 0}
