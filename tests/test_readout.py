import dataclasses

import jax
import numpy as np
import pytest

from m3pot.execution import numerics
from m3pot.graph import Sizes, as_dtype, batch
from m3pot.io.checkpoint import parameter_shapes
from m3pot.models.m3gnet import DIALECTS, mean_atoms
from m3pot.readout import POOLINGS, M3GNetProperty, PropertyModel, Set2Set, WeightedMean, predict_property
from tests.golden import all_in_one, exact_graph, model_of, read
from tests.helpers import DTYPES, QUICK

quick_property = jax.jit(predict_property, compiler_options=QUICK)
CAPACITY = Sizes(structures=6, atoms=32, edges=800)
GOLDENS = ("matgl_property_set2set", "matgl_property_weighted_state_embed")


@pytest.mark.parametrize("name", GOLDENS)
def test_golden(name):
    golden = read(name)
    count = len(golden.structures)
    state = golden.header["state"] and np.full(count, golden.header["state"][0])
    with numerics("float64"):
        found = np.asarray(quick_property(model_of(name), all_in_one(name), state))
    expected = np.array([s["output"] for s in golden.structures])
    assert found.shape == (count + 1, 1)
    assert found.dtype == np.float64
    assert np.abs(found[:count, 0] - expected).max() < 1e-8
    assert np.ptp(expected) > 0.1
    assert np.isfinite(found).all()


def tiny(pooling="mean", state="", **fields):
    """A random model with few features; kernels are strong enough that every part matters."""
    options = {k: v for k, v in DIALECTS["matgl"].items() if k != "readout_layers"}
    sizes = dict(units=4, blocks=1, max_l=2, max_n=2, targets=2, state=state, state_dim=4 if state else 0)
    sizes["state_size"] = {"label": 3, "linear": 5}.get(state, 0)
    model = M3GNetProperty(**options | sizes | fields, pooling=pooling)
    rng, params = np.random.default_rng(3), {}
    for name, shape in parameter_shapes(model).items():
        *parts, leaf = name.split("/")
        place = params
        for part in parts:
            place = place.setdefault(part, {})
        place[leaf] = rng.normal(0, 1.5 / np.sqrt(shape[0]) if len(shape) > 1 else 0.3, shape)
    return PropertyModel(model, params, np.array([2.0, 0.5]), np.array([-1.0, 3.0]))


def graphs():
    return [exact_graph(read(GOLDENS[0]).structures[k]) for k in (1, 2, 5, 9)]


def predict(model, items, state=None):
    if state is not None:  # rows for the padding structures, so that all states have one shape
        state = np.pad(state, [(0, CAPACITY.structures - len(state))] + [(0, 0)] * (np.ndim(state) - 1))
    with numerics("float64"):
        found = predict_property(model, as_dtype(batch(items, CAPACITY), "float64"), state)  # one shape: fast as jit
    return np.asarray(found)[: len(items)]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_neither_neighbours_in_the_batch_nor_padding_matter(pooling):
    model, items = tiny(pooling, "label"), graphs()
    labels = np.array([0, 2, 1, 1])
    together = predict(model, items, labels)
    assert np.ptp(together, axis=0).min() > 1e-3
    assert np.allclose(together, predict(model, items[::-1], labels[::-1])[::-1], rtol=1e-12, atol=1e-12)
    for k in range(4):
        alone = predict(model, [items[k]], labels[k : k + 1])
        assert np.allclose(together[k], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_dtype_of_the_graph_is_kept(pooling, dtype):
    model = tiny(pooling, "linear")
    with numerics(dtype):
        graph = as_dtype(batch(graphs(), CAPACITY), dtype)
        found = jax.eval_shape(predict_property, model, graph, np.ones((4, 5)))
    assert found.dtype == dtype


def test_states_of_padding_may_be_left_out():
    model, items = tiny("mean", "label"), graphs()
    with numerics("float64"):
        graph = as_dtype(batch(items, CAPACITY), "float64")
        found = predict_property(model, graph, np.array([0, 2, 1, 1]))
    assert np.array_equal(found[:4], predict(model, items, [0, 2, 1, 1]))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_can_be_differentiated(pooling):
    """Finite on padding, no dependence on padding, and right."""
    graph = batch(graphs(), CAPACITY)
    module = {"set2set": Set2Set(steps=3, layers=2), "weighted": WeightedMean(4)}.get(pooling)
    params = tiny("set2set", set2set_layers=2).params["set2set"] if pooling == "set2set" else {}
    params = tiny("weighted").params["weighted"] if pooling == "weighted" else params
    v = np.random.default_rng(5).normal(size=(CAPACITY.atoms, 4))

    def total(params, v):
        pooled = module.apply({"params": params}, v, graph) if module else mean_atoms(v, graph)
        return (pooled**2).sum()

    with numerics("float64"):
        gradients, slope = jax.tree.map(np.asarray, jax.grad(total, argnums=(0, 1))(params, v))
        step = 1e-5 * np.eye(1, CAPACITY.atoms, 3).T
        numeric = np.float64(total(params, v + step) - total(params, v - step)) / 2e-5
        other = total(params, np.where(graph.species[:, None] > 0, v, 1e3))
        assert np.allclose(total(params, v), other, rtol=1e-12)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
    assert np.isfinite(slope).all()
    assert not slope[graph.species == 0].any()
    assert abs(slope[3].sum()) > 1e-3
    assert abs(slope[3].sum() - numeric) < 1e-7


def test_the_three_kinds_of_states_agree():
    """A label is a row of a table; a vector through a Dense is silu(s K); a raw vector is taken as it is."""
    items = graphs()
    raw, label, linear = tiny(state="raw"), tiny(state="label"), tiny(state="linear")
    labels = np.array([2, 0, 1, 2])
    table = label.params["state_embedding"]
    label = dataclasses.replace(label, params={**raw.params, "state_embedding": table})
    expected = predict(raw, items, table[labels])
    assert np.allclose(predict(label, items, labels), expected, rtol=1e-12)
    vectors = np.random.default_rng(1).normal(size=(4, 5))
    kernel = linear.params["state_embedding"]["kernel"]
    linear = dataclasses.replace(linear, params={**raw.params, "state_embedding": {"kernel": kernel}})
    product = vectors @ kernel
    expected = predict(raw, items, product / (1 + np.exp(-product)))
    assert np.allclose(predict(linear, items, vectors), expected, rtol=1e-10)
    assert not np.allclose(predict(linear, items, -vectors), expected, rtol=1e-3)


def test_transformation_of_the_targets():
    items = graphs()
    model = tiny()
    plain = predict(dataclasses.replace(model, scale=np.ones(2), shift=np.zeros(2)), items)
    assert np.allclose(predict(model, items), plain * [2.0, 0.5] + [-1.0, 3.0], rtol=1e-12)
    logarithmic = dataclasses.replace(model, exponential=True)
    assert np.allclose(predict(logarithmic, items), np.exp(predict(model, items)), rtol=1e-12)
    classifier = dataclasses.replace(model, model=model.model.clone(classify=True), scale=np.ones(2), shift=np.zeros(2))
    assert np.allclose(predict(classifier, items), 1 / (1 + np.exp(-plain)), rtol=1e-12)


def test_what_is_refused():
    items = graphs()
    with pytest.raises(ValueError, match="state"):
        predict(tiny(state="label"), items)
    with pytest.raises(ValueError, match="without a state"):
        predict(tiny(), items, [0, 0, 0, 0])
    with pytest.raises(ValueError, match="one row"):
        predict(tiny(state="label"), items, np.zeros((4, 2), int))
    with pytest.raises(ValueError, match="one row"):
        predict(tiny(state="linear"), items, np.zeros((4, 3)))
    with pytest.raises(ValueError, match="pooling"):
        tiny("median")
