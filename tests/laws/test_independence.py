"""What must not matter: other structures in the batch, padding, edges beyond the cutoff, NaN in unused fields."""

import dataclasses

import jax
import numpy as np
import pytest

from m3pot.execution import compile_count, numerics
from m3pot.graph import as_dtype, batch, edge_vectors
from m3pot.potential import atomic_energies, jit_predict, predict
from tests.helpers import (
    CAPACITY,
    QUICK,
    TOLERANCE,
    deviation,
    evaluate,
    evaluate_graphs,
    graph_of,
    random_potential,
    reference,
    split,
    structures,
)


def test_single_equals_batched(name, dtype):
    for key, expected in zip(structures(), reference(name, dtype), strict=True):
        if key in ("skewed", "one atom", "molecule", "no edges"):
            (alone,) = evaluate(name, dtype, [structures()[key]])
            assert deviation(alone, expected) < TOLERANCE[dtype], key


def test_order_in_the_batch(name, dtype):
    results = evaluate(name, dtype, [*structures().values()][::-1])
    for result, expected in zip(results[::-1], reference(name, dtype), strict=True):
        assert deviation(result, expected) < TOLERANCE[dtype]


def test_broken_neighbour_in_the_batch(name, dtype):
    """A structure full of NaN spoils itself only, not by one bit the others."""
    graphs = [graph_of(atoms) for atoms in structures().values()]
    graphs[0] = graphs[0]._replace(positions=np.full_like(graphs[0].positions, np.nan))
    broken, *others = evaluate_graphs(random_potential(name, dtype), graphs, dtype)
    assert np.isnan(broken.energy)
    assert np.isnan(broken.forces).all()
    for result, expected in zip(others, reference(name, dtype)[1:], strict=True):
        assert deviation(result, expected) == 0


@pytest.mark.parametrize("key", ["left-handed", "isolated atom"])
def test_graph_without_padding(key):
    """Exact sizes, no padding structure; with the lone atom no edge at all."""
    name, graph = "tensorflow+zbl", as_dtype(graph_of(structures()[key]), "float64")
    with numerics("float64"):
        result = jax.jit(predict, compiler_options=QUICK)(random_potential(name), graph)
    (result,) = split(result, [len(graph.species)])
    assert deviation(result, reference(name, "float64")[[*structures()].index(key)]) < TOLERANCE["float64"]


@pytest.mark.parametrize("skin", [0.5, 1.0])
def test_edges_beyond_the_cutoff(name, dtype, skin):
    table = [*structures().values()]
    more, edges = (sum(len(graph_of(a, skin=s).receivers) for a in table) for s in (skin, 0))
    assert more > 1.2 * edges
    for result, expected in zip(evaluate(name, dtype, table, skin=skin), reference(name, dtype), strict=True):
        assert deviation(result, expected) < TOLERANCE[dtype]


def test_padding_predicts_nothing(name, dtype):
    graphs = [graph_of(atoms) for atoms in structures().values()]
    atoms, count = sum(len(graph.species) for graph in graphs), len(graphs)
    with numerics(dtype):
        result = jit_predict(random_potential(name, dtype), as_dtype(batch(graphs, CAPACITY), dtype))
    assert not np.any(result.energy[count:])
    assert not np.any(result.energies[atoms:])
    assert not np.any(result.forces[atoms:])
    assert np.isnan(result.stress[count:]).all()


def test_model_sees_only_edge_vectors(name):
    """Positions and cell full of NaN leave the model unchanged."""
    graph = as_dtype(batch([graph_of(atoms) for atoms in structures().values()], CAPACITY), "float64")
    poisoned = graph._replace(positions=graph.positions * np.nan, cell=graph.cell * np.nan)
    energies = jax.jit(atomic_energies, compiler_options=QUICK)
    with numerics("float64"):
        vectors = edge_vectors(graph)
        result = energies(random_potential(name), poisoned, vectors)
    expected = np.concatenate([p.energies for p in reference(name, "float64")])
    np.testing.assert_allclose(result[: len(expected)], expected, rtol=0, atol=1e-11)


def test_one_compilation_serves_all():
    """Other crystals, other parameters, other element references and another card: the same program."""
    potential = random_potential("tensorflow", "float32", units=2, blocks=1)
    other = dataclasses.replace(potential.astype("float32"), shift=potential.shift + 1, card={"name": "other"})
    with numerics("float32"):
        first = as_dtype(batch([graph_of(structures()["molecule"])]), "float32")
        second = as_dtype(batch([graph_of(structures()["slab"])]), "float32")
        before = compile_count("predict")
        jit_predict(potential, first)
        assert compile_count("predict") == before + 1
        jit_predict(potential, second)
        jit_predict(other, first._replace(positions=first.positions * 1.01))
        assert compile_count("predict") == before + 1
        energies = [jit_predict(p, first).energy[0] for p in (potential, other)]
    assert energies[1] - energies[0] == pytest.approx(6, abs=1e-4)
