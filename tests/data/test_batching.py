import numpy as np
import pytest

from m3pot.data import batching as B
from m3pot.data import frames as F
from m3pot.data.graphs import EdgeCache
from m3pot.graph import Sizes, batch, sizes
from m3pot.structure import StructureError, from_ase

CUTOFF = 4.03


@pytest.fixture(scope="module")
def cache(frames):
    return EdgeCache.build(frames, CUTOFF)


def assert_same(a, b):
    for name, x, y in zip(a._fields, a, b, strict=True):
        np.testing.assert_array_equal(x, y, err_msg=name)
        assert x.dtype == y.dtype, name


def test_a_batch_is_that_of_graph_batch(cache, structures):
    capacity = B.capacity_for(cache, int(cache.n_edges.sum() // 3))
    for indices in B.plan(cache, capacity, seed=0, epoch=0):
        graph, labels = B.assemble(cache, indices, capacity)
        expected = batch([from_ase(structures[k], CUTOFF, dtype=np.float32) for k in indices], capacity)
        assert_same(graph, expected)
        picked = cache.frames[indices]
        n, f = len(picked.numbers), len(indices)
        np.testing.assert_array_equal(labels.energy[:f], picked.energy.astype(np.float32))
        np.testing.assert_array_equal(labels.forces[:n], picked.forces.astype(np.float32))
        np.testing.assert_array_equal(labels.stress[:f], picked.stress.astype(np.float32))
        assert np.isnan(labels.energy[f:]).all()
        assert np.isnan(labels.forces[n:]).all()
        assert np.isnan(labels.stress[f:]).all()
        assert labels.forces.shape == (capacity.atoms, 3)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("parts", [1, 3, 8])
def test_every_frame_once_in_batches_of_one_shape(cache, parts, shuffle):
    budget = max(int(cache.n_edges.sum() / parts), cache.n_edges.max())
    capacity = B.capacity_for(cache, budget)
    assert capacity.edges < budget + 16
    plan = B.plan(cache, capacity, seed=1, epoch=2, shuffle=shuffle)
    assert sorted(np.concatenate(plan).tolist()) == list(range(len(cache)))
    shapes = [sizes(g) for g, _ in B.batches(cache, edge_budget=budget, seed=1, epoch=2, shuffle=shuffle)]
    assert shapes == [capacity] * len(plan)


def test_padding_waste_of_a_large_set_is_small(frames):
    rng = np.random.default_rng(0)
    cache = EdgeCache.build(frames, CUTOFF)[rng.integers(1, len(frames), 2000)]
    capacity = B.capacity_for(cache, 40 * int(cache.n_edges.mean()))
    count = len(B.plan(cache, capacity, seed=0, epoch=0))
    assert cache.n_edges.sum() > 0.9 * count * capacity.edges
    assert cache.frames.n_atoms.sum() > 0.85 * count * capacity.atoms


def test_order_depends_on_seed_and_epoch_alone(cache):
    capacity = B.capacity_for(cache, int(cache.n_edges.max()))

    def order(seed, epoch):
        return [b.tolist() for b in B.plan(cache, capacity, seed=seed, epoch=epoch)]

    assert order(3, 1) == order(3, 1)
    assert order(3, 1) != order(3, 2)
    assert order(3, 1) != order(4, 1)
    budget = int(cache.n_edges.max())
    whole = list(B.batches(cache, edge_budget=budget, seed=3, epoch=1))
    rest = list(B.batches(cache, edge_budget=budget, seed=3, epoch=1, skip=2))
    assert len(rest) == len(whole) - 2
    assert_same(rest[0][0], whole[2][0])


@pytest.mark.parametrize("processes", [1, 2])
def test_stacks_hold_the_same_batches(cache, processes):
    options = {"edge_budget": int(cache.n_edges.max()), "seed": 0, "epoch": 0}
    single = list(B.batches(cache, **options))
    devices = 2
    parts = [list(B.stacked(cache, devices, **options, process=p, processes=processes)) for p in range(processes)]
    assert len({len(p) for p in parts}) == 1
    flat = [
        (type(g)(*(x[d] for x in g)), type(p)(*(x[d] for x in p)))
        for step in zip(*parts, strict=True)
        for g, p in step
        for d in range(devices)
    ]
    assert len(flat) >= len(single)
    for (g, p), (expected, labels) in zip(flat, single, strict=False):
        assert_same(g, expected)
        assert_same(p, labels)
    for graph, labels in flat[len(single) :]:
        assert not graph.species.any()
        assert np.isnan(labels.energy).all()


def test_selection_has_its_own_edges(cache, frames):
    picked = cache[[9, 4, 4, 0]]
    fresh = EdgeCache.build(frames[[9, 4, 4, 0]], CUTOFF)
    for field in ("edge_ptr", "degrees", "senders", "shifts"):
        np.testing.assert_array_equal(getattr(picked, field), getattr(fresh, field))


def test_edges_are_kept_on_disk_by_content_and_cutoff(frames, tmp_path, monkeypatch):
    first = EdgeCache.build(frames, CUTOFF, tmp_path)
    import m3pot.data.graphs as module

    monkeypatch.setattr(module, "neighbor_list", None)  # would fail if it were called
    again = EdgeCache.build(frames, CUTOFF, tmp_path)
    np.testing.assert_array_equal(again.senders, first.senders)
    assert_same(B.assemble(again, [1, 5], Sizes(4, 32, 4096))[0], B.assemble(first, [1, 5], Sizes(4, 32, 4096))[0])
    with pytest.raises(TypeError):
        EdgeCache.build(frames, CUTOFF + 0.1, tmp_path)
    with pytest.raises(TypeError):
        EdgeCache.build(frames[:-1], CUTOFF, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_bad_frames_and_budgets_are_refused(cache, frames):
    with pytest.raises(ValueError, match="edge budget"):
        B.capacity_for(cache, int(cache.n_edges.max()) - 1)
    with pytest.raises(ValueError, match="at least one frame"):
        B.capacity_for(cache[[]], 100)
    with pytest.raises(ValueError, match="does not fit"):
        B.plan(cache, Sizes(3, 4, 64), seed=0, epoch=0)
    with pytest.raises(ValueError, match="do not fit"):
        B.assemble(cache, [1, 2, 3], Sizes(3, 100, 4096))
    clash = F.make([2], [1, 1], [[0, 0, 0], [0, 0, 0.05]], np.zeros((1, 3, 3)), pbc=[[False] * 3])
    with pytest.raises(StructureError, match="closer"):
        EdgeCache.build(clash, CUTOFF)
    for positions, size in (([[0, 0, np.nan]], 4.0), ([[0, 0, 0]], 0.0)):
        with pytest.raises(StructureError, match="Frame 0"):
            EdgeCache.build(F.make([1], [1], positions, size * np.eye(3)[None]), CUTOFF)


def test_prefetch_passes_items_errors_and_ends():
    assert list(B.prefetch(range(5))) == list(range(5))

    def broken():
        yield 1
        raise ValueError("broken shard")

    items = B.prefetch(broken())
    assert next(items) == 1
    with pytest.raises(ValueError, match="broken shard"):
        next(items)

    seen = []
    endless = B.prefetch(seen.append(k) or k for k in range(10**9))
    assert [next(endless) for _ in range(3)] == [0, 1, 2]
    endless.close()
    assert len(seen) < 10
