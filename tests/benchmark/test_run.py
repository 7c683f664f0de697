import csv
import json

import pytest

from m3pot.benchmark.contender import Contender, contenders
from m3pot.benchmark.run import Benchmark, JournalError, run
from m3pot.io.checkpoint import CheckpointError, save_potential
from tests.helpers import random_potential


def benchmark(log, fails_at=None):
    def measure(model, part):
        for name, value in part.items():
            if name == fails_at:
                raise KeyboardInterrupt
            log.append((model, name))
            status = "failed" if value + model > 12 else "done"
            yield {"name": name, "status": status, "reason": "", "error": float(value + model), "curve": [1, 2]}

    def summarise(rows):
        return {"items": len(rows), "total": sum(row["error"] for row in rows)}

    items = {f"item {k}": k for k in range(5)}
    return Benchmark("toy", "a toy", {"k": 1}, items, measure, summarise, lambda rows, folder: [], chunk=2)


MODELS = [Contender("ten", "model 10", lambda: 10), Contender("zero", "model 0", lambda: 0)]


def test_tables_and_common_items(tmp_path):
    outcome = run(benchmark([]), MODELS, tmp_path, facts={"command": "m3pot bench toy"})
    assert [row["total"] for row in outcome.summaries] == [60, 10]
    document = json.loads((tmp_path / "toy.json").read_text())
    assert document["command"] == "m3pot bench toy"
    assert document["models"] == {"ten": "model 10", "zero": "model 0"}
    assert [row["items"] for row in document["summary_of_common_items"]] == [3, 3]  # two fail with ten
    with open(tmp_path / "toy.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    assert "curve" not in rows[0]


def test_what_is_done_is_not_done_again(tmp_path):
    log: list = []
    with pytest.raises(KeyboardInterrupt):
        run(benchmark(log, fails_at="item 3"), MODELS[:1], tmp_path)
    assert len(log) == 3
    with open(tmp_path / "toy_ten.jsonl", "a") as file:
        file.write('{"name": "item 3", "sta')  # torn by a kill
    seen: list = []
    outcome = run(benchmark(log), MODELS[:1], tmp_path, resume=True, advance=seen.append)
    assert [name for _, name in log] == [f"item {k}" for k in range(5)]
    assert sum(seen) == 5
    fresh = run(benchmark([]), MODELS[:1], tmp_path / "fresh")
    assert outcome.rows == fresh.rows
    run(benchmark(log), MODELS[:1], tmp_path, resume=True)
    assert len(log) == 5
    run(benchmark(log), MODELS[:1], tmp_path)
    assert len(log) == 10


def test_another_model_in_the_way(tmp_path):
    run(benchmark([]), MODELS[:1], tmp_path)
    other = MODELS[0]._replace(identity="model 11")
    with pytest.raises(JournalError, match="without --resume"):
        run(benchmark([]), [other], tmp_path, resume=True)


def test_names_of_models(tmp_path):
    for name in ("a", "b"):
        save_potential(tmp_path / name / "m.safetensors", random_potential("matgl", units=4, blocks=1))
    found = contenders([str(tmp_path / "a" / "m.safetensors"), str(tmp_path / "b" / "m.safetensors")])
    assert found[0].label != found[1].label
    assert "sha256" in found[0].identity
    assert found[0].load().cutoff == 5.0
    (emt,) = contenders(["ase.calculators.emt:EMT"])
    assert emt.label == "emt_EMT"
    assert emt.load().name == "emt"
    with pytest.raises(CheckpointError, match="model name"):
        contenders(["no such model"])
