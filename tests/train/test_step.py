import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from m3pot.data.batching import Sizes, assemble
from m3pot.train.config import ConfigError
from m3pot.train.fit import learning_rates
from m3pot.train.loss import LossWeights
from m3pot.train.step import data_mesh, init_state, make_optimizer, make_step, place, replicate
from tests.train.toy import edges, morse, pair

OPTIMIZER = optax.sgd(1.0)  # its update is the gradient
CAPACITY = Sizes(structures=9, atoms=33, edges=1200)
RATES = {"radial": 0.0, "hidden": 0.5, "hidden/bias": 0.25}


def named(tree) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}


def stepper(potential, *, mesh: Mesh | None = None, rates=None):
    """The function (indices of the frames of each device, change of the labels) -> state before, after, metrics."""
    mesh = mesh or data_mesh()
    step = make_step(potential, OPTIMIZER, LossWeights(), mesh, decay=0.5, rates=rates)
    cache = edges(morse(36))

    def run(devices, change=lambda labels: labels):
        graph, labels = jax.tree.map(lambda *x: np.stack(x), *(assemble(cache, k, CAPACITY) for k in devices))
        before = jax.device_get(init_state(potential, OPTIMIZER))
        return before, *jax.device_get(step(replicate(mesh, before), *place(mesh, (graph, change(labels)))))

    return run


@pytest.fixture(scope="module")
def plain():
    return stepper(pair())


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_weight_decay_acts_on_kernels_alone(potential, kind):
    optimizer = make_optimizer(lambda step: 0.1, potential.params, kind=kind, weight_decay=0.5, clip=1.0)
    nothing = jax.tree.map(np.zeros_like, potential.params)
    updates, _ = optimizer.update(nothing, optimizer.init(potential.params), potential.params)
    changed = {name: bool(np.abs(update).max() > 0) for name, update in named(updates).items()}
    assert changed == {name: "kernel" in name for name in changed}
    assert sum(changed.values()) == 3
    np.testing.assert_allclose(named(updates)["hidden/kernel"], -0.05 * potential.params["hidden"]["kernel"], rtol=1e-6)


def test_an_unknown_optimizer_is_named(potential):
    with pytest.raises(ValueError, match="adamw or muon, got 'sgd'"):
        make_optimizer(lambda step: 0.1, potential.params, kind="sgd", weight_decay=0, clip=1)


def test_rates_freeze_and_slow_down(plain, potential):
    before, full, _ = plain([np.arange(8)])
    _, slowed, _ = stepper(potential, rates=learning_rates(potential.params, RATES))([np.arange(8)])
    factors = {"radial/kernel": 0, "hidden/kernel": 0.5, "hidden/bias": 0.25}
    for name, start in named(before.params).items():
        update = named(full.params)[name] - start
        assert np.abs(update).max() > 0
        expected = start + factors.get(name, 1) * update
        np.testing.assert_allclose(named(slowed.params)[name], expected, rtol=1e-5, atol=1e-6, err_msg=name)
    for part in (slowed.params, slowed.average):
        assert (named(part)["radial/kernel"] == named(before.params)["radial/kernel"]).all()


def test_rates_must_name_a_parameter(potential):
    assert learning_rates(potential.params, {}) is None
    with pytest.raises(ConfigError, match=r"optim\.rates names no parameter: block; .* hidden, node_embedding, radial"):
        learning_rates(potential.params, {"block": 0.1})


def test_a_step_without_finite_loss_changes_nothing(plain):
    before, after, metrics = plain([np.arange(8)], lambda labels: labels._replace(energy=labels.energy * 0 + 3e38))
    assert not np.isfinite(metrics["loss"])
    assert (after.step, after.skipped) == (1, 1)
    same = jax.tree.map(np.array_equal, before._replace(step=1, skipped=1), after)
    assert all(jax.tree.leaves(same))


def test_labels_that_are_missing_stop_nothing(plain):
    def holes(labels):
        energy, forces = labels.energy.copy(), labels.forces.copy()
        energy[:, ::2], forces[:, ::3] = np.nan, np.nan
        return labels._replace(energy=energy, forces=forces, stress=labels.stress * np.nan)

    before, after, metrics = plain([np.arange(8)], holes)
    assert np.isfinite(metrics["loss"])
    assert (after.step, after.skipped) == (1, 0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))
    assert not np.array_equal(before.params["hidden"]["kernel"], after.params["hidden"]["kernel"])


def test_the_average_follows(plain):
    before, after, _ = plain([np.arange(8)])
    keep = 0.1  # (1 + 0) / (10 + 0): short memory at the start
    for name, start in named(before.params).items():
        expected = keep * start + (1 - keep) * named(after.params)[name]
        np.testing.assert_allclose(named(after.average)[name], expected, rtol=1e-5, atol=1e-6)


def test_two_devices_give_the_gradient_of_one():
    """With as many structures and atoms on each: every device takes the mean over its own."""
    assert run_with_devices("tests.train.test_step", 2).endswith("same")


def run_with_devices(module: str, count: int) -> str:
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-m", module],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_kernels_of_one_shape_are_orthogonalised_as_if_alone():
    rng = np.random.default_rng(0)
    shapes = {"a": (4, 3), "b": (3, 3), "c": (4, 3), "table": (5, 3)}
    params = {
        name: {"kernel" if name != "table" else "rows": rng.normal(size=s).astype(np.float32)}
        for name, s in shapes.items()
    }
    gradient = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), params)

    def update(params, gradient):
        optimizer = make_optimizer(optax.constant_schedule(0.1), params, kind="muon", weight_decay=0.1, clip=1e3)
        return optimizer.update(gradient, optimizer.init(params), params)[0]

    together = update(params, gradient)
    for name in params:
        alone = update({name: params[name]}, {name: gradient[name]})
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4), together[name], alone[name])
    (moved,) = together["a"].values()
    singular = np.linalg.svd(moved + 0.1 * 0.1 * params["a"]["kernel"], compute_uv=False)
    assert singular.max() < 2 * singular.min()


def main() -> None:
    """In a process with two devices."""
    assert len(jax.devices()) == 2
    _, two, _ = stepper(pair())([np.arange(4), np.arange(4, 8)])
    before, one, _ = stepper(pair(), mesh=Mesh(np.array(jax.devices()[:1]), ("data",)))([np.arange(8)])
    for name, start in named(before.params).items():
        a, b = named(two.params)[name] - start, named(one.params)[name] - start
        assert np.abs(a).max() > 0
        assert np.abs(a - b).max() < 2e-5 * np.abs(b).max(), name
    print("same")


if __name__ == "__main__":
    main()
