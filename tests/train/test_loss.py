import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3pot.execution import numerics
from m3pot.graph import Properties
from m3pot.potential import predict
from m3pot.train.loss import LossWeights, huber, loss, mean_errors
from tests.train.toy import iter_graphs, m3gnet, morse

WEIGHTS = LossWeights()


@pytest.fixture(scope="module")
def batch():
    graph, labels = next(iter_graphs(morse(3), 3))
    rng = np.random.default_rng(0)
    predicted = Properties(*(np.nan_to_num(x) + 0.1 * rng.normal(size=x.shape) for x in labels))
    return graph, labels, predicted


def evaluated(prediction, labels, graph) -> tuple[float, dict[str, float]]:
    with numerics("float64"):
        value, errors = loss(Properties(*map(jnp.asarray, prediction)), labels, graph, WEIGHTS)
    return float(value), mean_errors(errors)


def test_huber_is_smooth_at_its_knee_and_linear_beyond():
    with numerics("float64"):
        slope = jax.vmap(jax.grad(lambda x: huber(x, 0.1)))(jnp.array([-5.0, -0.0999999, 0.05, 0.1000001, 2.0]))
        np.testing.assert_allclose(slope, [-1, -1, 0.5, 1, 1], atol=1e-5)
        assert huber(jnp.array(0.1), 0.1) == pytest.approx(0.05)
        assert huber(jnp.array(3.0), 0.1) == pytest.approx(2.95)


def test_errors_are_the_plain_means(batch):
    graph, labels, predicted = batch
    _, errors = evaluated(predicted, labels, graph)
    n = 12
    assert errors["energy"] == pytest.approx(np.abs(predicted.energy - labels.energy)[:3].mean() / 4)
    assert errors["forces"] == pytest.approx(np.linalg.norm(predicted.forces - labels.forces, axis=1)[:n].mean())
    assert errors["stress"] == pytest.approx(np.abs(predicted.stress - labels.stress)[:3].mean())


def test_rotation_changes_nothing(batch):
    graph, labels, predicted = batch
    q, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))

    def turned(p: Properties) -> Properties:
        return p._replace(forces=p.forces @ q.T, stress=q @ p.stress @ q.T)

    expected, errors = evaluated(predicted, labels, graph)
    value, others = evaluated(turned(predicted), turned(labels), graph)
    assert value == pytest.approx(expected, rel=1e-12)
    assert others["forces"] == pytest.approx(errors["forces"], rel=1e-12)


@pytest.mark.parametrize("missing", ["energy", "forces", "stress"])
def test_a_missing_label_is_no_label(batch, missing):
    graph, labels, predicted = batch
    keep = {"energy": slice(1, None), "forces": slice(4, None), "stress": slice(1, None)}[missing]
    holes = np.full_like(getattr(labels, missing), np.nan)
    holes[keep] = getattr(labels, missing)[keep]
    labels = labels._replace(**{missing: holes})
    value, errors = evaluated(predicted, labels, graph)
    spoilt = getattr(predicted, missing).copy()
    spoilt[: keep.start] += 100
    again, others = evaluated(predicted._replace(**{missing: spoilt}), labels, graph)
    assert np.isfinite(value)
    assert (again, others) == (value, errors)


def test_no_labels_at_all_give_no_loss_and_no_errors(batch):
    graph, labels, predicted = batch
    nothing = Properties(*(np.full_like(x, np.nan) for x in labels))
    value, errors = evaluated(predicted, nothing, graph)
    assert value == 0
    assert all(np.isnan(error) for error in errors.values())


def test_perfect_predictions_have_no_loss(batch):
    graph, labels, _ = batch
    assert evaluated(Properties(*map(np.nan_to_num, labels)), labels, graph)[0] == 0


def test_gradient_is_the_slope():
    """By central differences along a random direction, second derivatives of the potential included."""
    graph, labels = next(iter_graphs(morse(2), 2))
    with numerics("float64"):
        potential = m3gnet().astype(np.float64)

        def objective(params):
            return loss(predict(dataclasses.replace(potential, params=params), graph), labels, graph, WEIGHTS)[0]

        rng = np.random.default_rng(0)
        direction = jax.tree.map(lambda x: rng.normal(size=x.shape), potential.params)

        def shifted(step):
            return jax.tree.map(lambda x, d: x + step * d, potential.params, direction)

        along = jax.jit(lambda step: jax.value_and_grad(lambda s: objective(shifted(s)))(step))
        h = 1e-5
        slope = along(0.0)[1]
        assert (along(h)[0] - along(-h)[0]) / (2 * h) == pytest.approx(float(slope), rel=1e-6)
        assert abs(slope) > 1e-3
