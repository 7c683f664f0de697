"""Relaxation on many machines: batches of structures as tasks of dask, results as they come."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from m3pot.potential import Potential
from m3pot.relaxation.engine import relax_unordered
from m3pot.relaxation.options import Options
from m3pot.relaxation.results import Relaxed

KINDS = ("local", "slurm", "pbs", "sge", "lsf")
_JOBQUEUE = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "sge": "SGECluster", "lsf": "LSFCluster"}


def open_cluster(kind: str, workers: int) -> Any:
    """A dask cluster: "local" processes, or jobs of a queue, described in dask's own file ``jobqueue.yaml``.

    Raises ValueError for another kind, ImportError without the extra ``screen``.
    """
    if kind not in KINDS:
        raise ValueError(f"Expected a cluster of {', '.join(KINDS)}, got {kind!r}; choose one of them.")
    if kind == "local":
        from dask.distributed import LocalCluster

        return LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
    import dask_jobqueue

    cluster = getattr(dask_jobqueue, _JOBQUEUE[kind])()
    cluster.scale(jobs=workers)
    return cluster


def relax_on_cluster(
    structures: Iterable[tuple[int, Any]],
    potential: Potential,
    options: Options,
    cluster: Any,
    *,
    batch: int = 64,
    retries: int = 2,
) -> Iterator[Relaxed]:
    """As :func:`m3pot.relaxation.iter_relax`, with ``batch`` structures in a task; a few tasks wait per worker.

    A task whose worker dies again and again is halved, and a structure that kills workers alone ends as "failed".
    """
    from dask.distributed import Client, as_completed

    source = iter(structures)
    with Client(cluster) as client:
        shared = client.scatter(potential, broadcast=True)
        members: dict[Any, list[tuple[int, Any]]] = {}

        def submit(items: list[tuple[int, Any]]) -> Any:
            future = client.submit(_relax_batch, shared, items, options, retries=retries, pure=False)
            members[future.key] = items
            return future

        def ahead() -> int:
            return max(2 * len(client.scheduler_info()["workers"]), 2)

        queue = as_completed([submit(items) for items in itertools.islice(_batches(source, batch), ahead())])
        for future in queue:
            items = members.pop(future.key)
            if future.status == "finished":
                yield from future.result()
            elif len(items) == 1:
                index, structure = items[0]
                reason = f"the worker failed: {type(future.exception()).__name__}: {future.exception()}"
                yield Relaxed(structure, "failed", reason=reason, index=index)
            else:
                middle = len(items) // 2
                queue.update([submit(items[:middle]), submit(items[middle:])])
            for more in itertools.islice(_batches(source, batch), 1):
                queue.add(submit(more))


def _batches(source: Iterator, size: int) -> Iterator[list]:
    while items := list(itertools.islice(source, size)):
        yield items


def _relax_batch(potential: Potential, items: list[tuple[int, Any]], options: Options) -> list[Relaxed]:
    """Runs on a worker."""
    return list(relax_unordered(items, potential, options))
