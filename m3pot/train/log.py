"""The log of a run: one JSON object per validation, and the same as CSV for spreadsheets."""

import csv
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from m3pot.io.checkpoint import write_atomically


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add one line; what is not a finite number becomes null."""
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(finite(record), allow_nan=False) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """All complete lines; [] without a file. A line that a kill cut short is left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def truncate(path: Path, step: int) -> None:
    """Drop the lines after ``step``: the resumed run will write them again."""
    if path.exists():
        kept = [json.dumps(record) + "\n" for record in read(path) if record["step"] <= step]
        write_atomically(path, "".join(kept).encode())


def write_csv(path: str | os.PathLike, records: list[dict[str, Any]]) -> None:
    """A table with one column per number; nested names are joined by an underscore."""
    rows = [flat(record) for record in records]
    columns = dict.fromkeys(name for row in rows for name in row)
    stream = io.StringIO(newline="")
    table = csv.DictWriter(stream, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_atomically(path, stream.getvalue().encode())


def flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with names joined by an underscore."""
    result: dict[str, Any] = {}
    for name, value in record.items():
        result |= flat(value, f"{prefix}{name}_") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return result


def finite(value: Any) -> Any:
    """The same with None for NaN and infinity, which JSON cannot hold."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value
