"""A run from files to files: what is finished is skipped, everything else is relaxed and noted."""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from m3pot.potential import Potential
from m3pot.relaxation.engine import relax_unordered
from m3pot.relaxation.options import Options
from m3pot.relaxation.output import Output
from m3pot.relaxation.results import Relaxed


class Entry(Protocol):
    """One structure of the input, or the reason why it could not be read."""

    name: str
    atoms: Any
    reason: str


def follow(
    entries: Iterable[Entry],
    potential: Potential,
    options: Options,
    output: Output,
    *,
    calculator: Any = None,
    cluster: str | None = None,
    workers: int = 2,
) -> Iterator[Relaxed | None]:
    """Relax all entries that ``output`` does not have yet; yields each result (None: unreadable) once it is noted.

    With an ASE ``calculator`` one by one through ASE's optimisers; with a ``cluster`` ("local", "slurm" ...) as tasks
    of dask; else in this process.
    """
    names: dict[int, str] = {}
    unreadable: list[tuple[int, Entry]] = []

    def waiting() -> Iterator[tuple[int, Any]]:
        for index, entry in enumerate(entries):
            if index in output.finished:
                continue
            names[index] = entry.name
            if entry.atoms is None:
                unreadable.append((index, entry))
            else:
                yield index, entry.atoms

    def note_unreadable() -> Iterator[None]:
        while unreadable:
            index, entry = unreadable.pop(0)
            output.add(index, entry.name, None, entry.reason)
            yield None

    for result in _results(waiting(), potential, options, calculator, cluster, workers):
        output.add(result.index, names.pop(result.index), result)
        yield from note_unreadable()
        yield result
    yield from note_unreadable()


def _results(structures, potential, options, calculator, cluster, workers) -> Iterator[Relaxed]:
    if calculator is not None:
        from m3pot.relaxation.ase_route import relax_with_ase

        for index, atoms in structures:
            yield relax_with_ase(atoms, calculator, options, index=index, elements=potential.elements)
    elif cluster is not None:
        from m3pot.relaxation.cluster import open_cluster, relax_on_cluster

        with open_cluster(cluster, workers) as opened:
            yield from relax_on_cluster(structures, potential, options, opened)
    else:
        yield from relax_unordered(structures, potential, options)
