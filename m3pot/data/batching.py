"""Padded batches of one fixed shape out of an :class:`EdgeCache`; numpy only.

Frames are dealt in random order to a few open batches, each to the first with room, so that batches are full and stay
random. The order depends on (seed, epoch) alone: a run is resumed by skipping.
"""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

from m3pot.data.frames import ragged
from m3pot.data.graphs import EdgeCache
from m3pot.graph import Graph, Properties, Sizes

Item = TypeVar("Item")

_OPEN = 32  # batches being filled at a time
_SPARE_ATOMS, _SPARE_STRUCTURES = 1.05, 1.25  # room above the mean, so that edges are what fills up first


def capacity_for(cache: EdgeCache, edge_budget: int) -> Sizes:
    """Shape of all batches: at most ``edge_budget`` edges, and room for the atoms and structures that come with them.

    Raises ValueError if there are no frames or the largest does not fit.
    """
    edges, atoms = cache.n_edges, cache.frames.n_atoms
    if not len(cache):
        raise ValueError("Expected at least one frame to make batches from, got none; check the files and filters.")
    if edges.max() > edge_budget:
        raise ValueError(
            f"The largest frame ({cache.frames.name[edges.argmax()]}) has {edges.max()} edges within "
            f"{cache.cutoff:g} A, more than the edge budget of {edge_budget}; raise the budget or drop large frames."
        )
    count = edge_budget / max(edges.mean(), 1)
    return Sizes(
        structures=1 + int(np.ceil(min(count * _SPARE_STRUCTURES + 2, len(cache)))),
        atoms=_multiple_of_16(1 + max(min(count * atoms.mean() * _SPARE_ATOMS, atoms.sum()), atoms.max())),
        edges=_multiple_of_16(max(min(edge_budget, edges.sum()), 1)),
    )


def _multiple_of_16(x: float) -> int:
    return 16 * int(np.ceil(x / 16))


def plan(cache: EdgeCache, capacity: Sizes, *, seed: int, epoch: int, shuffle: bool = True) -> list[np.ndarray]:
    """Indices of the frames of each batch; every frame exactly once. Cheap: no arrays are gathered.

    Raises ValueError if a frame does not fit into ``capacity``.
    """
    size = np.stack([np.ones(len(cache), np.int64), cache.frames.n_atoms, cache.n_edges], axis=1)
    empty = np.array([capacity.structures - 1, capacity.atoms - 1, capacity.edges])
    if (size > empty).any():
        raise ValueError(f"A frame of {Sizes(*size.max(axis=0))} does not fit into {capacity}; ask for a larger one.")
    order = np.random.default_rng([seed, epoch]).permutation(len(cache)) if shuffle else np.arange(len(cache))
    done: list[list[int]] = []
    filling: list[list[int]] = [[] for _ in range(_OPEN)]
    room = [tuple(empty.tolist())] * _OPEN
    for k, (one, atoms, edges) in zip(order.tolist(), size[order].tolist(), strict=True):  # no numpy: many small steps
        fits = (b for b, free in enumerate(room) if edges <= free[2] and atoms <= free[1] and one <= free[0])
        first = next(fits, -1)
        if first < 0:
            first = min(range(_OPEN), key=lambda b: room[b][2])  # the fullest makes way for a new one
            done.append(filling[first])
            filling[first], room[first] = [], tuple(empty.tolist())
        structures, free_atoms, free_edges = room[first]
        filling[first].append(k)
        room[first] = structures - one, free_atoms - atoms, free_edges - edges
    return [np.array(batch, np.int64) for batch in done + filling if batch]


def assemble(cache: EdgeCache, indices: Any, capacity: Sizes, dtype: Any = np.float32) -> tuple[Graph, Properties]:
    """The batch of these frames (k,), padded as by :func:`m3pot.graph.batch`, and its labels, padded with NaN.

    No frames make a batch of padding alone.
    """
    frames = cache.frames
    indices = np.asarray(indices, np.int64)
    n_atoms, n_edges = frames.n_atoms[indices], cache.n_edges[indices]
    atoms, edges = ragged(frames.ptr[indices], n_atoms), ragged(cache.edge_ptr[indices], n_edges)
    if len(indices) >= capacity.structures or len(atoms) >= capacity.atoms or len(edges) > capacity.edges:
        raise ValueError(
            f"{Sizes(len(indices), len(atoms), len(edges))} and padding do not fit into {capacity}; take fewer frames."
        )
    last = capacity.atoms - 1
    first_atom = np.cumsum(n_atoms) - n_atoms
    graph = Graph(
        species=_padded(frames.numbers[atoms], capacity.atoms, 0, np.int32),
        positions=_padded(frames.positions[atoms], capacity.atoms, 0, dtype),
        cell=_padded(frames.cell[indices], capacity.structures, 0, dtype),
        owner=_padded(np.repeat(np.arange(len(indices)), n_atoms), capacity.atoms, capacity.structures - 1, np.int32),
        receivers=_padded(np.repeat(np.arange(len(atoms)), cache.degrees[atoms]), capacity.edges, last, np.int32),
        senders=_padded(cache.senders[edges] + np.repeat(first_atom, n_edges), capacity.edges, last, np.int32),
        shifts=_padded(cache.shifts[edges], capacity.edges, 0, np.int32),
    )
    labels = Properties(
        energy=_padded(frames.energy[indices], capacity.structures, np.nan, dtype),
        forces=_padded(frames.forces[atoms], capacity.atoms, np.nan, dtype),
        stress=_padded(frames.stress[indices], capacity.structures, np.nan, dtype),
        energies=np.full(capacity.atoms, np.nan, dtype),
    )
    return graph, labels


def _padded(values: np.ndarray, length: int, fill: float, dtype: Any) -> np.ndarray:
    result = np.full((length, *values.shape[1:]), fill, dtype)
    result[: len(values)] = values
    return result


def batches(
    cache: EdgeCache,
    *,
    edge_budget: int,
    seed: int,
    epoch: int,
    shuffle: bool = True,
    skip: int = 0,
    capacity: Sizes | None = None,
    dtype: Any = np.float32,
) -> Iterator[tuple[Graph, Properties]]:
    """All frames once, as (graph, labels) of one shape; deterministic in (seed, epoch).

    Args:
        cache: frames with their edges.
        edge_budget: edges of a batch, padding included.
        seed, epoch: what the order depends on.
        shuffle: False keeps neighbours in the file together (validation).
        skip: leave out the first batches, to go on after an interruption.
        capacity: another shape, e.g. that of the training set for the validation set; default :func:`capacity_for`.
        dtype: of positions, cells and labels.
    """
    capacity = capacity or capacity_for(cache, edge_budget)
    for indices in plan(cache, capacity, seed=seed, epoch=epoch, shuffle=shuffle)[skip:]:
        yield assemble(cache, indices, capacity, dtype)


def stacked(
    cache: EdgeCache,
    devices: int,
    *,
    edge_budget: int,
    seed: int,
    epoch: int,
    shuffle: bool = True,
    skip: int = 0,
    process: int = 0,
    processes: int = 1,
    capacity: Sizes | None = None,
    dtype: Any = np.float32,
) -> Iterator[tuple[Graph, Properties]]:
    """As :func:`batches`, with a leading axis of one batch per local device; ``skip`` counts steps.

    Of each step's ``devices * processes`` batches, process p assembles its own; the last step is filled up with
    batches of padding, so that all processes make the same number of steps.
    """
    capacity = capacity or capacity_for(cache, edge_budget)
    order = plan(cache, capacity, seed=seed, epoch=epoch, shuffle=shuffle)
    group = devices * processes
    order += [np.zeros(0, np.int64)] * (-len(order) % group)
    for start in range(skip * group, len(order), group):
        mine = order[start + process * devices : start + (process + 1) * devices]
        parts = [assemble(cache, indices, capacity, dtype) for indices in mine]
        yield (
            Graph(*map(np.stack, zip(*(g for g, _ in parts), strict=True))),
            Properties(*map(np.stack, zip(*(p for _, p in parts), strict=True))),
        )


def prefetch(items: Iterable[Item], depth: int = 2) -> Iterator[Item]:
    """The same items, made by a thread up to ``depth`` ahead. Its errors are raised here; it ends with the caller."""
    ready: queue.Queue = queue.Queue(depth)
    stop = threading.Event()

    def put(kind: str, value: Any) -> bool:
        while not stop.is_set():
            try:
                ready.put((kind, value), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put("item", item):
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    threading.Thread(target=work, name="m3pot-prefetch", daemon=True).start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        stop.set()
