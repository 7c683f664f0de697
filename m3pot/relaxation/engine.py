"""The batched loop: structures enter slots of a padded batch, take steps on the device, and leave when done."""

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from m3pot.execution import find_device, numerics
from m3pot.graph import Sizes
from m3pot.potential import Potential
from m3pot.relaxation.descent import Geometry, Limits, descend
from m3pot.relaxation.jobs import Job, finish, prepare, refuse
from m3pot.relaxation.options import Options
from m3pot.relaxation.results import Relaxed
from m3pot.relaxation.slots import RUNNING, join, join_edges, split
from m3pot.relaxation.springs import covalent_radii

_ATOM_SHARE = 12  # edges per atom slot: thin enough for molecules and layers
_STRUCTURE_SHARE = 64  # edges per structure slot
_GROWTH = 1.1  # room for edges that appear while cells shrink
_BYTES_PER_EDGE = 2**15  # of two lanes, generously; too little is noticed and mended
_AHEAD = 2  # batches of structures prepared ahead of need


@dataclasses.dataclass(frozen=True)
class Strategy:
    """How a kind of device works best; results do not depend on it."""

    edges: int  # of a batch
    skin: float  # A; 0 makes the edges anew after every step
    chunk: int  # steps between visits of the host
    lanes: int  # batches in flight: the host serves one while the device works on another


# A CPU pays for every edge, and most for those that leave its caches; an accelerator pays for every visit of the host.
STRATEGIES = {
    "cpu": Strategy(edges=2048, skin=0.0, chunk=1, lanes=2),
    "gpu": Strategy(edges=131072, skin=1.0, chunk=8, lanes=2),
    "tpu": Strategy(edges=131072, skin=1.0, chunk=8, lanes=2),
}


def capacity_for(edges: int, atoms: int) -> Sizes:
    """The rung of a ladder of factor two, from 256 edges, that holds so many."""
    need = max(edges, _ATOM_SHARE * (atoms + 1), 256)
    rung = 1 << (need - 1).bit_length()
    return Sizes(rung // _STRUCTURE_SHARE + 1, rung // _ATOM_SHARE, rung)


_NOTHING = Sizes(0, 0, 0)


@dataclasses.dataclass(eq=False)
class _Lane:
    """One batch: the jobs that sit in it, and what the device holds or is still computing."""

    jobs: list[Job] = dataclasses.field(default_factory=list)
    capacity: Sizes = _NOTHING
    sent: Any = None  # slots and edges of the last call
    slots: Any = None  # results of the last call
    geometry: Any = None  # Geometry, after the first call

    def counts(self) -> list[int]:
        return [len(job.atoms) for job in self.jobs]

    def holds(self, total: Sizes, growth: float = 1.0) -> bool:
        """Whether so much has room, with one padding structure and one padding atom to spare."""
        room = self.capacity
        return total.structures < room.structures and total.atoms < room.atoms and growth * total.edges <= room.edges

    def fits(self, growth: float = 1.0) -> bool:
        """Whether the jobs still have room."""
        return self.holds(_sizes(*self.jobs), growth)


def _sizes(*jobs: Job, more: Sizes = _NOTHING) -> Sizes:
    """Of all jobs together, and what more there is."""
    return Sizes(
        more.structures + len(jobs),
        more.atoms + sum(len(job.atoms) for job in jobs),
        more.edges + sum(job.load for job in jobs),
    )


def relax_unordered(structures: Iterable[tuple[int, Any]], potential: Potential, options: Options) -> Iterator[Relaxed]:
    """Relax structures, given with their index, and yield each as soon as it is done."""
    device = find_device(options.device)
    with numerics(options.dtype, options.precision):
        placed = jax.device_put(potential.astype(options.dtype), device)
    platform = next(iter(placed.scale.devices())).platform
    strategy = STRATEGIES.get(platform, STRATEGIES["gpu"])
    if options.trajectory:
        strategy = dataclasses.replace(strategy, chunk=1)
    memory = (next(iter(placed.scale.devices())).memory_stats() or {}).get("bytes_limit")
    if memory:
        strategy = dataclasses.replace(strategy, edges=min(strategy.edges, max(memory // _BYTES_PER_EDGE, 256)))
    if options.max_edges:
        strategy = dataclasses.replace(strategy, edges=options.max_edges)
    yield from _Engine(placed, potential, options, strategy, device).run(iter(structures))


class _Engine:
    """Scheduler of the lanes. All mutable state of a run lives here, in its lanes and in their jobs."""

    def __init__(self, placed: Potential, potential: Potential, options: Options, strategy: Strategy, device: Any):
        self.placed, self.potential, self.options, self.device = placed, potential, options, device
        self.strategy, self.minimizer = strategy, options.method()
        self.budget, self.seats = strategy.edges, strategy.edges  # edges and structures of a batch
        self.reach = potential.cutoff + strategy.skin + 1e-5  # positions come back rounded to float32
        self.lanes = [_Lane() for _ in range(strategy.lanes)]
        self.pending: collections.deque[Job] = collections.deque()
        self.done: list[Relaxed] = []
        kind = np.dtype(options.dtype).type
        limits = Limits(
            fmax=kind(options.fmax),
            smax=kind(options.smax),
            steps=np.int32(options.steps),
            pressure=kind(options.pressure),
            skin=kind(strategy.skin),
            swelling=kind(np.log(options.max_volume_factor)),
            closeness=kind(options.closeness),
        )
        with numerics(options.dtype, options.precision):
            self.limits, self.radii = jax.device_put((limits, covalent_radii().astype(kind)), device)

    def run(self, structures: Iterator[tuple[int, Any]]) -> Iterator[Relaxed]:
        """Serve the lanes in turn until there is no structure left. Yields outside of every JAX context."""
        while True:
            self._read(structures)
            for lane in self.lanes:
                with numerics(self.options.dtype, self.options.precision):
                    self._serve(lane)
                yield from self.done
                self.done.clear()
            if not self.pending and not any(lane.jobs for lane in self.lanes):
                first = next(structures, None)
                if first is None:
                    return
                structures = itertools.chain([first], structures)

    def _read(self, structures: Iterator[tuple[int, Any]]) -> None:
        """Prepare structures ahead of need."""
        waiting = sum(job.load for job in self.pending)
        while waiting < _AHEAD * self.budget and len(self.done) < 64:
            item = next(structures, None)
            if item is None:
                return
            index, structure = item
            try:
                job = prepare(index, structure, self.potential, self.options, self.reach)
            except Exception as error:  # whatever is wrong with one structure stops no other
                self.done.append(refuse(index, structure, error))
                continue
            self.pending.append(job)
            waiting += job.load + 1

    def _serve(self, lane: _Lane) -> None:
        """Visit a lane; where the memory of the device does not suffice, smaller batches start from where it was."""
        try:
            self._visit(lane)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            self._retreat(lane)

    def _retreat(self, lane: _Lane) -> None:
        """Everybody back to the queue as before the last call, and half the budget; who was alone is too large."""
        if lane.sent is not None:
            for job, slots in zip(lane.jobs, split(lane.sent[0], lane.counts()), strict=True):
                job.slots = slots
        self.budget, self.seats = max(lane.capacity.edges // 2, 256), max(len(lane.jobs) // 2, 1)
        if len(lane.jobs) == 1:
            (job,) = lane.jobs
            reason = f"{job.load} neighbour pairs need more memory than the device has; relax it on another."
            self.done.append(Relaxed(job.atoms, "too_large", reason=reason, index=job.index))
        else:
            self.pending.extendleft(reversed(lane.jobs))
        lane.jobs, lane.sent, lane.slots = [], None, None

    def _visit(self, lane: _Lane) -> None:
        """Take in what the device has done, exchange structures, and send it to work again."""
        if not lane.jobs:
            self._enter(lane)
            return
        status, stale, geometry = jax.device_get((lane.slots.status, lane.slots.stale, lane.geometry))
        running = status == RUNNING
        finished = not running[: len(lane.jobs)].all()
        if self.options.trajectory:
            self._record(lane)
        self._follow(lane, geometry, stale)
        if self._dispensable(lane):
            self._leave(lane, running)
            self.pending.extend(lane.jobs)
            lane.jobs = []
        elif finished or not lane.fits() or self._admissible(lane):
            self._leave(lane, running)
            self._enter(lane)
        else:
            edges = self._edges(lane) if stale.any() else lane.sent[1]
            self._send(lane, lane.slots, edges)

    def _record(self, lane: _Lane) -> None:
        for job, slots in zip(lane.jobs, split(lane.slots, lane.counts()), strict=True):
            job.record(slots, float(self.potential.offset))

    def _follow(self, lane: _Lane, geometry: Geometry, stale: np.ndarray) -> None:
        """Note where the atoms are, and make new edges where the old ones may be short of some."""
        positions, cell = (x.astype(np.float64) for x in geometry)
        begin = 0
        for k, job in enumerate(lane.jobs):
            job.move(positions[begin : begin + len(job.atoms)], cell[k])
            begin += len(job.atoms)
            if stale[k]:
                job.make_edges(self.reach)

    def _admissible(self, lane: _Lane) -> bool:
        seated = _sizes(*lane.jobs)
        more = (_sizes(job, more=seated) for job in self.pending)
        return len(lane.jobs) < self.seats and any(lane.holds(total, _GROWTH) for total in more)

    def _dispensable(self, lane: _Lane) -> bool:
        """Whether nobody waits and another batch has room for all: an empty seat costs as much as a taken one."""
        others = (other for other in self.lanes if other is not lane and other.jobs)
        totals = ((other, _sizes(*lane.jobs, *other.jobs)) for other in others)
        return not self.pending and any(n.structures <= self.seats and o.holds(n, _GROWTH) for o, n in totals)

    def _leave(self, lane: _Lane, running: np.ndarray) -> None:
        """Everybody gets up: the finished go, and the last ones wait if there is no longer room for all."""
        for job, slots in zip(lane.jobs, split(lane.slots, lane.counts()), strict=True):
            job.slots = slots
        for k, job in enumerate(lane.jobs):
            if not running[k]:
                self.done.append(finish(job, self.options, float(self.potential.offset)))
        lane.jobs = [job for k, job in enumerate(lane.jobs) if running[k]]
        while len(lane.jobs) > 1 and not lane.fits():
            self.pending.appendleft(lane.jobs.pop())
        lane.sent = None

    def _enter(self, lane: _Lane) -> None:
        """Seat waiting structures in the order of their arrival, as far as they fit, and start."""
        if not lane.jobs and self.pending:
            lane.jobs.append(self.pending.popleft())
            share = _sizes(*lane.jobs, *itertools.islice(self.pending, len(self.pending) // self.strategy.lanes))
            wanted = min(self.budget, int(_GROWTH * share.edges))
            lane.capacity = capacity_for(wanted, min(wanted // _ATOM_SHARE - 1, share.atoms))
        if not lane.jobs:
            return
        if not lane.fits(_GROWTH if len(lane.jobs) == 1 else 1.0):
            (job,) = lane.jobs
            lane.capacity = capacity_for(int(_GROWTH * job.load) + 1, len(job.atoms))
        seated, standing = _sizes(*lane.jobs), collections.deque()
        for job in self.pending:
            more = _sizes(job, more=seated)
            if seated.structures < self.seats and lane.holds(more, _GROWTH):
                lane.jobs.append(job)
                seated = more
            else:
                standing.append(job)
        self.pending = standing
        slots = jax.device_put(join([job.slots for job in lane.jobs], lane.capacity), self.device)
        self._send(lane, slots, self._edges(lane))

    def _edges(self, lane: _Lane):
        joined = join_edges([job.edges for job in lane.jobs], lane.counts(), lane.capacity)
        return jax.device_put(joined, self.device)

    def _send(self, lane: _Lane, slots, edges) -> None:
        lane.sent = slots, edges
        lane.slots, lane.geometry = descend(
            self.placed, self.minimizer, self.limits, self.radii, np.int32(self.strategy.chunk), slots, edges
        )
