"""How every benchmark runs: the same items for each model, a journal to resume from, then JSON, CSV and a figure."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from m3pot.benchmark.contender import Contender
from m3pot.io.checkpoint import write_atomically
from m3pot.train import log

Row = dict[str, Any]  # one item; "name" and "status" ("done" or "failed", then "reason") always


class Benchmark(NamedTuple):
    """What one benchmark is."""

    name: str
    about: str  # one sentence: what is compared with what
    settings: dict[str, Any]  # everything beside model and items that changes a row
    items: dict[str, Any]  # by name
    measure: Callable[[Any, Mapping[str, Any]], Iterable[Row]]  # (model, some items) -> a row for each
    summarise: Callable[[Sequence[Row]], Row]  # rows of one model, those that failed included
    draw: Callable[[Mapping[str, Sequence[Row]], Path], list[Path]]  # rows by model, folder -> figures
    baseline: dict[str, list[Row]] = {}  # rows known beforehand, such as another DFT code
    chunk: int = 64  # items between two lines on disk


class Outcome(NamedTuple):
    """What :func:`run` returns."""

    summaries: list[Row]  # one for each model, and baseline
    rows: dict[str, list[Row]]
    files: list[Path]


class JournalError(ValueError):
    """Results of another run are in the way; the message says what to do."""


def run(
    benchmark: Benchmark,
    contenders: Sequence[Contender],
    folder: Path,
    *,
    resume: bool = False,
    facts: Mapping[str, Any] | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> Outcome:
    """Measure all items with each model and write ``NAME.json``, ``NAME.csv`` and figures into ``folder``.

    After each chunk the rows are on disk (``NAME_MODEL.jsonl``); ``resume`` goes on from there if model and settings
    are the same. ``facts`` (hardware, command ...) go into the JSON. Raises JournalError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[Row]] = dict(benchmark.baseline)
    for contender in contenders:
        journal = folder / f"{benchmark.name}_{contender.label}.jsonl"
        header = {"benchmark": benchmark.name, "model": contender.identity, "settings": benchmark.settings}
        done = _recall(journal, header, resume)
        advance(len(done))
        for row in _measured(benchmark, contender, [name for name in benchmark.items if name not in done]):
            log.append(journal, row)
            done[row["name"]] = log.finite(row)
            advance(1)
        rows[contender.label] = [done[name] for name in benchmark.items if name in done]
    summaries = [{"model": label, **benchmark.summarise(found)} for label, found in rows.items()]
    shared = _shared(rows)
    if len(rows) > 1:
        together = {label: [row for row in found if row["name"] in shared] for label, found in rows.items()}
        common = [{"model": label, **benchmark.summarise(found)} for label, found in together.items()]
    else:
        common = summaries
    document = {
        "benchmark": benchmark.name,
        "about": benchmark.about,
        **(facts or {}),
        "models": {contender.label: contender.identity for contender in contenders},
        "settings": benchmark.settings,
        "summary": summaries,
        "summary_of_common_items": common,
        "rows": rows,
    }
    files = [folder / f"{benchmark.name}.json", folder / f"{benchmark.name}.csv"]
    text = json.dumps(log.finite(document), indent=1, allow_nan=False, default=str)
    write_atomically(files[0], text.encode())
    log.write_csv(files[1], [{"model": label, **_scalars(row)} for label, found in rows.items() for row in found])
    return Outcome(summaries, rows, files + benchmark.draw(rows, folder))


def _measured(benchmark: Benchmark, contender: Contender, names: Sequence[str]) -> Iterator[Row]:
    if not names:
        return
    model = contender.load()
    for first in range(0, len(names), benchmark.chunk):
        part = {name: benchmark.items[name] for name in names[first : first + benchmark.chunk]}
        yield from benchmark.measure(model, part)


def _recall(journal: Path, header: Row, resume: bool) -> dict[str, Row]:
    """Rows of an earlier run by name; starts a new journal where there is none to go on with."""
    lines = log.read(journal) if resume else []
    header = log.finite(json.loads(json.dumps(header, default=str)))
    if lines:
        if lines[0] != header:
            raise JournalError(
                f"{journal} is of another model or other settings; run without --resume or choose another --output."
            )
        write_atomically(journal, "".join(json.dumps(line) + "\n" for line in lines).encode())  # without a torn line
        return {row["name"]: row for row in lines[1:]}
    write_atomically(journal, (json.dumps(header) + "\n").encode())
    return {}


def _shared(rows: Mapping[str, Sequence[Row]]) -> set[str]:
    done = [{row["name"] for row in found if row["status"] == "done"} for found in rows.values()]
    return set.intersection(*done) if done else set()


def _scalars(row: Row) -> Row:
    return {key: value for key, value in row.items() if not isinstance(value, list | dict)}
