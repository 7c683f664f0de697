"""Batches, padding, the ladder of sizes, edge vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3pot.graph import (
    Graph,
    Sizes,
    as_dtype,
    batch,
    edge_vectors,
    real_edges,
    sizes,
    sizes_for,
    sum_receivers,
    sum_senders,
    sum_structures,
)
from tests.helpers import graph_of, structures


@pytest.fixture(scope="module")
def graphs():
    return [graph_of(atoms) for atoms in structures().values()]


def test_single_graph(graphs):
    for atoms, graph in zip(structures().values(), graphs, strict=True):
        assert sizes(graph)[:2] == (1, len(atoms))
        assert (np.diff(graph.receivers) >= 0).all()
        np.testing.assert_array_equal(graph.species, atoms.numbers)
        np.testing.assert_array_equal(graph.cell[0], atoms.cell.array)


def test_batch_keeps_every_structure(graphs):
    joined = batch(graphs)
    atoms, edges = 0, 0
    for k, graph in enumerate(graphs):
        n, e = len(graph.species), len(graph.receivers)
        mine, pairs = slice(atoms, atoms + n), slice(edges, edges + e)
        np.testing.assert_array_equal(joined.species[mine], graph.species)
        np.testing.assert_array_equal(joined.positions[mine], graph.positions)
        np.testing.assert_array_equal(joined.owner[mine], k)
        np.testing.assert_array_equal(joined.cell[k], graph.cell[0])
        np.testing.assert_array_equal(joined.receivers[pairs] - atoms, graph.receivers)
        np.testing.assert_array_equal(joined.senders[pairs] - atoms, graph.senders)
        np.testing.assert_array_equal(joined.shifts[pairs], graph.shifts)
        atoms, edges = atoms + n, edges + e
    assert not joined.species[atoms:].any()
    assert (joined.owner[atoms:] == len(joined.cell) - 1).all()
    assert (joined.receivers[edges:] == len(joined.species) - 1).all()
    assert (joined.senders[edges:] == len(joined.species) - 1).all()
    assert not joined.cell[len(graphs) :].any()


def test_batch_invariants(graphs):
    """What the ordered sums rely on, and what the compiled shapes rely on."""
    capacity = Sizes(20, 64, 2048)
    joined = batch(graphs, capacity)
    assert sizes(joined) == capacity
    assert (np.diff(joined.owner) >= 0).all()
    assert (np.diff(joined.receivers) >= 0).all()
    assert all(isinstance(field, np.ndarray) for field in joined)
    assert {field.dtype for field in (joined.species, joined.owner, joined.receivers, joined.senders)} == {
        np.dtype(np.int32)
    }
    assert joined.shifts.dtype == np.int32
    assert joined.positions.dtype == np.float64


def test_batch_of_batches(graphs):
    """A batch can be joined once more; its padding stays padding."""
    inner = batch(graphs[:2], Sizes(3, 10, 400))
    outer = batch([inner, graphs[2]], Sizes(6, 16, 700))
    real = outer.species > 0
    np.testing.assert_array_equal(outer.species[real], np.concatenate([g.species for g in graphs[:3]]))
    assert real_edges(outer).sum() == sum(len(g.receivers) for g in graphs[:3])
    edges = np.asarray(real_edges(outer))
    vectors = outer.positions[outer.senders] - outer.positions[outer.receivers]
    expected = [g.positions[g.senders] - g.positions[g.receivers] for g in graphs[:3]]
    np.testing.assert_array_equal(vectors[edges], np.concatenate(expected))
    cells = [g.cell[g.owner[g.receivers]] for g in graphs[:3]]
    np.testing.assert_array_equal(outer.cell[outer.owner[outer.receivers]][edges], np.concatenate(cells))


@pytest.mark.parametrize("field", Sizes._fields)
def test_batch_refuses_what_does_not_fit(graphs, field):
    """One padding structure, one padding atom and no padding edge is the least."""
    structures_, atoms, edges = (sum(column) for column in zip(*map(sizes, graphs), strict=True))
    exact = Sizes(structures_ + 1, atoms + 1, edges)
    joined = batch(graphs, exact)
    assert sizes(joined) == exact
    assert (joined.species[joined.receivers] > 0).all()
    assert joined.species[-1] == 0
    with pytest.raises(ValueError, match=r"do not fit into Sizes.*ask for a larger capacity"):
        batch(graphs, exact._replace(**{field: getattr(exact, field) - 1}))


def test_batch_of_nothing():
    with pytest.raises(ValueError, match="at least one graph"):
        batch([])


def test_as_dtype(graphs):
    single = as_dtype(graphs[0], "float32")
    assert single.positions.dtype == single.cell.dtype == np.float32
    assert single.species is graphs[0].species
    assert graphs[0].positions.dtype == np.float64


def test_ladder_holds_what_it_is_asked_for():
    rng = np.random.default_rng(0)
    for structures_, atoms, edges in rng.integers([1, 1, 0], [300, 5000, 300_000], (2000, 3)):
        capacity = sizes_for(structures_, atoms, edges)
        assert capacity.structures == structures_ + 1
        assert capacity.atoms > atoms
        assert capacity.edges >= edges


def test_ladder_is_monotone():
    """More edges, or more atoms, never give a smaller shape; neighbouring rungs differ by a factor of 1.6."""
    rungs = [sizes_for(1, 1, edges) for edges in range(0, 100_000, 7)]
    assert rungs == sorted(rungs)
    steps = sorted({rung.edges for rung in rungs})
    assert steps[0] == 256
    np.testing.assert_allclose(np.divide(steps[1:], steps[:-1]), 1.6, atol=0.03)
    assert all(rung.atoms * 16 == rung.edges for rung in rungs)
    by_atoms = [sizes_for(1, atoms, 0) for atoms in range(1, 3000)]
    assert by_atoms == sorted(by_atoms)
    for rung in set(rungs):  # a full rung maps to itself
        assert sizes_for(1, rung.atoms - 1, rung.edges) == rung


def test_thousand_crystals_need_few_shapes():
    """1 to 200 atoms of any density, from sparse molecular crystals to dense metals with a skin."""
    rng = np.random.default_rng(1)
    atoms = np.exp(rng.uniform(0, np.log(200), 1000)).round().astype(int)
    edges = (atoms * rng.uniform(8, 110, 1000)).astype(int)
    shapes = {sizes_for(1, n, e) for n, e in zip(atoms, edges, strict=True)}
    assert len(shapes) <= 12


def test_edge_vectors(graphs):
    result = np.asarray(edge_vectors(as_dtype(batch(graphs), "float32")))
    assert result.dtype == np.float32
    expected = [g.positions[g.senders] - g.positions[g.receivers] + g.shifts @ g.cell[0] for g in graphs]
    expected = np.concatenate(expected)
    np.testing.assert_allclose(result[: len(expected)], expected, atol=1e-5)
    np.testing.assert_array_equal(result[len(expected) :], 1)


def test_edge_vectors_on_padding_are_constant():
    """Finite, and without a derivative, whatever the padding holds."""
    graph = as_dtype(batch([graph_of(structures()["molecule"])]), "float32")
    edges = len(graph_of(structures()["molecule"]).receivers)
    np.testing.assert_array_equal(edge_vectors(graph)[edges:], 1)

    def beyond(positions, cell):
        return edge_vectors(graph._replace(positions=positions, cell=cell))[edges:].sum()

    slopes = jax.grad(beyond, argnums=(0, 1))(jnp.asarray(graph.positions), jnp.asarray(graph.cell))
    assert not any(np.any(slope) for slope in slopes)


def test_sums():
    """Edges 0->1, 0->1', 1->0 of one structure and an atom of another."""
    graph = Graph(
        species=np.array([1, 1, 2]),
        positions=np.zeros((3, 3)),
        cell=np.zeros((3, 3, 3)),
        owner=np.array([0, 0, 1]),
        receivers=np.array([0, 0, 1]),
        senders=np.array([1, 1, 0]),
        shifts=np.zeros((3, 3), int),
    )
    values = jnp.array([1.0, 10.0, 100.0])
    np.testing.assert_array_equal(sum_receivers(values, graph), [11, 100, 0])
    np.testing.assert_array_equal(sum_senders(values, graph), [100, 11, 0])
    np.testing.assert_array_equal(sum_structures(values, graph), [11, 100, 0])
    np.testing.assert_array_equal(sum_structures(values[:, None] * jnp.ones(2), graph), [[11, 11], [100, 100], [0, 0]])
