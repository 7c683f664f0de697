import csv
import dataclasses
import json

import jax
import numpy as np
import pytest

from m3pot.data.frames import write_npz
from m3pot.data.guard import LabelError
from m3pot.io.checkpoint import load_potential, read_header, save_potential
from m3pot.train import card, finetune, plots
from m3pot.train.accuracy import accuracy, residuals
from m3pot.train.checkpoints import TrainingError
from m3pot.train.config import make_config
from m3pot.train.inputs import Source
from m3pot.train.prepare import Prepared
from m3pot.train.run import blend, remember, run
from tests.train.toy import edges, morse, pair

FIELDS = "{units = 8, blocks = 1, max_l = 2, max_n = 4, cutoff = 3.6, threebody_cutoff = 3.6}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny M3GNet trained on 50 frames of the toy world; folder and what ``run`` returns."""
    folder = tmp_path_factory.mktemp("run")
    write_npz(morse(50), folder / "data.npz")
    tree = {
        "output": str(folder / "out"),
        "valid_every": 40,
        "data": {"train": [str(folder / "data.npz")], "valid_fraction": 0.2, "edge_budget": 1200, "unit_guard": False},
        "optim": {"steps": 200, "lr": 2e-2, "warmup": 10, "ema": 0.9, "weight_decay": 0.0},
        "loss": {"forces": 5.0},
        "card": {"name": "toy", "licence": "MIT", "teacher": "Morse", "warnings": ["not for real crystals"]},
    }
    config = make_config(tree, [f"model.fields={FIELDS}", "model.zbl=false"])
    return folder / "out", config, run(config, command="m3pot train toy.toml")


def test_a_tiny_m3gnet_learns_the_toy_world(trained):
    folder, _, done = trained
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert log[-1]["valid_loss"] < 0.7 * log[0]["valid_loss"]
    assert log[-1]["train"]["forces"] < 0.4 * log[0]["train"]["forces"]  # 0.72 to 0.17 eV/A
    best = min(log, key=lambda record: record["valid_loss"])
    assert done.accuracy["validation"].forces_mae == pytest.approx(best["valid"]["forces"], rel=1e-3)
    assert done.accuracy["validation"].energy_mae == pytest.approx(best["valid"]["energy"], rel=1e-2)


def test_everything_is_written(trained):
    folder, _, done = trained
    with open(folder / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["40", "80", "120", "160", "200"]
    assert float(rows[-1]["valid_forces"]) > 0
    for name in ("parity.png", "learning_curves.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    assert done.model == folder / "model.safetensors"
    assert done.comparison == []
    model, best = load_potential(done.model), load_potential(folder / "best.safetensors")
    assert np.array_equal(model.params["energy"]["value_0_kernel"], best.params["energy"]["value_0_kernel"])


def test_the_card_says_where_the_model_comes_from(trained):
    folder, _, done = trained
    found = read_header(done.model)["card"]
    assert (found["name"], found["licence"], found["teacher"]) == ("toy", "MIT", "Morse")
    assert found["command"] == "m3pot train toy.toml"
    assert found["elements"] == [29, 47]
    assert found["provenance"].endswith("from random parameters")
    assert found["training"]["steps"] == 200
    assert found["training"]["structures"] == 50 - done.accuracy["validation"].structures
    assert found["training"]["config"]["data"]["train"] == ["data.npz"]
    assert found["accuracy"]["validation"]["forces_mae"] == done.accuracy["validation"].forces_mae
    assert len(found["training_data"][0]["sha256"]["data.npz"]) == 64
    assert str(folder) not in json.dumps(found)
    page = (folder / "model.md").read_text()
    for text in ("# toy", "Cu Ag", "m3pot train toy.toml", "not for real crystals", "| validation |", "data.npz"):
        assert text in page
    assert str(folder) not in page


def test_a_run_is_not_repeated_or_changed_by_accident(trained):
    _, config, _ = trained
    with pytest.raises(TrainingError, match="holds a run already; go on with --resume"):
        run(config)
    other = config.model_copy(update={"seed": 5, "valid_every": 7})
    with pytest.raises(TrainingError, match=r"other settings \(seed\)"):
        run(other, resume=True)


def test_what_ended_before_its_first_step_can_be_started_again(trained, tmp_path):
    _, config, _ = trained
    nothing = config.data.model_copy(update={"train": [str(tmp_path / "none.npz")]})
    failing = config.model_copy(update={"output": str(tmp_path / "run"), "data": nothing})
    for _ in range(2):
        with pytest.raises((LabelError, OSError), match="none"):
            run(failing)


def test_steps_may_change_when_a_run_is_resumed(trained, tmp_path):
    _, config, _ = trained
    remember(config, tmp_path, resume=False)
    (tmp_path / "checkpoints").mkdir()
    longer = config.model_copy(update={"optim": config.optim.model_copy(update={"steps": 200})})
    remember(longer, tmp_path, resume=True)
    assert json.loads((tmp_path / "config.json").read_text())["optim"]["steps"] == 200


def test_blend_lies_on_the_line_from_the_start_to_the_trained_parameters():
    start, trained = pair(), pair()
    trained = dataclasses.replace(trained, params=jax.tree.map(lambda x: x + 1, trained.params), shift=start.shift + 3)
    assert blend(start, trained, 1.0) is trained
    found = blend(start, trained, 0.25)
    for a, b, was in zip(*map(jax.tree.leaves, (start.params, found.params, trained.params)), strict=True):
        np.testing.assert_allclose(b, a + 0.25, rtol=1e-6)
        assert b.dtype == was.dtype
    np.testing.assert_array_equal(found.shift, trained.shift)


def test_finetune_configuration():
    config = finetune.finetune_config(
        ["a.extxyz"],
        "m3pot-s",
        output="tuned",
        replay=["old.npz"],
        replay_fraction=0.25,
        freeze=["node_embedding"],
        rates={"block_0": 0.1},
        overrides=["optim.steps=10"],
    )
    assert config.model.start == "m3pot-s"
    assert config.optim.rates == {"node_embedding": 0.0, "block_0": 0.1}
    assert config.optim.steps == 10
    assert config.replay.fraction == 0.25
    assert config.data.valid_fraction == 0.1
    assert finetune.finetune_config(["a"], "m").replay is None


def test_before_and_after():
    """The source is far off in energy, its references are fitted, the tuned model is as good as they."""
    fitted = pair()
    source = dataclasses.replace(fitted, shift=fitted.shift + 1)
    cache = edges(morse(8))
    prepared = Prepared(source, fitted, cache, cache, edges(morse(8, seed=1)), cache.frames, [])
    rows = {(row["set"], row["model"]): row for row in finetune.before_and_after(prepared, fitted)}
    assert list(rows) == [
        ("your data", "before"),
        ("your data", "references fitted"),
        ("your data", "fine-tuned"),
        ("replay probe", "before"),
        ("replay probe", "fine-tuned"),
    ]
    before, after = rows["your data", "before"], rows["your data", "fine-tuned"]
    assert before["energy_mae"] > after["energy_mae"]
    assert before["forces_mae"] == pytest.approx(after["forces_mae"], rel=1e-5)
    assert rows["replay probe", "before"] == rows["replay probe", "fine-tuned"] | {"model": "before"}


def test_card_of_a_model_with_a_parent(tmp_path):
    old = pair()
    old.card.update(name="parent", licence="BSD-3-Clause", sha256={"file": "ab"}, elements=[8, 29])
    config = make_config({"data": {"train": ["x/y.npz"]}, "model": {"start": "models/old.safetensors"}})
    frames = morse(8)
    source = Source("y.npz", "train", 8, 8, "PBE", "MIT", "", "uncorrected", {"y.npz": "cd"})
    measured = {"test": accuracy(residuals(frames, frames))}
    found = card.make_card(config, old, frames, [source], [], measured, command="m3pot finetune")
    assert found["provenance"].endswith("from parent, licence BSD-3-Clause")
    assert found["parents"] == [{"file": "ab"}]
    assert found["elements"] == [8, 29, 47]
    assert found["functional"] == "PBE"
    assert found["energy_reference"] == "uncorrected"
    (warning,) = found["warnings"]
    assert warning.startswith("few or no training structures with: O 0, Cu ")
    assert "models" not in json.dumps(found["training"]["config"])
    save_potential(tmp_path / "x.safetensors", dataclasses.replace(old, card=found))
    assert "| y.npz |" in card.markdown(read_header(tmp_path / "x.safetensors")["card"])


def test_plots_without_labels_or_records(tmp_path):
    frames = morse(8)
    bare = dataclasses.replace(frames, energy=frames.energy * np.nan, stress=frames.stress * np.nan)
    plots.parity(bare, {"a": frames, "b": frames}, tmp_path / "parity.png")
    plots.learning_curves([], tmp_path / "curves.png")
    assert (tmp_path / "parity.png").stat().st_size > 1000
    assert (tmp_path / "curves.png").stat().st_size > 1000
