import json

import pytest

from m3pot.cli.training import _short
from m3pot.data.frames import write_npz
from m3pot.io.checkpoint import save_potential
from m3pot.models import MODELS
from tests.train.toy import Pair, morse, pair

CONFIG = """
output = "out"
valid_every = 5
[model]
name = "Pair"
[data]
train = ["data.npz"]
valid_fraction = 0.2
edge_budget = 1200
unit_guard = false
[optim]
steps = 10
"""


@pytest.fixture
def toy(m3pot, tmp_path, monkeypatch):
    """The command in a folder with labelled frames, a configuration and a model."""
    monkeypatch.setitem(MODELS, "Pair", Pair)
    write_npz(morse(36), tmp_path / "data.npz")
    write_npz(morse(12, seed=2), tmp_path / "old.npz")
    save_potential(tmp_path / "pair.safetensors", pair())
    (tmp_path / "run.toml").write_text(CONFIG)
    return m3pot


def test_train_then_evaluate(toy, tmp_path):
    code, out, err = toy("train", "run.toml", "--set", "card.name=mine", "--quiet")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split() == [
        *("set", "structures", "energy_mae", "energy_rmse", "forces_mae", "forces_component_mae", "stress_mae")
    ]
    assert (tmp_path / "out" / "model.md").read_text().startswith("# mine")
    code, _, err = toy("train", "run.toml")
    assert code == 2
    assert "holds a run already; go on with --resume" in err
    code, out, err = toy("train", "run.toml", "--resume", "--json", "--set", "card.name=mine")
    assert code == 0
    assert json.loads(out)["model"] == "out/model.safetensors"

    arguments = "evaluate", "data.npz", "old.npz", "-m", "out/model.safetensors", "-m", "pair.safetensors"
    code, out, err = toy(*arguments, "--no-unit-guard", "-o", "errors", "--json")
    assert code == 0, err
    assert [(row["set"], row["model"]) for row in json.loads(out)["rows"]] == [
        (s, m) for s in ("data", "old") for m in ("model", "pair")
    ]
    assert sorted(path.name for path in (tmp_path / "errors").iterdir()) == [
        "errors.csv",
        "errors.json",
        "parity_data.png",
        "parity_old.png",
    ]
    code, out, _ = toy("evaluate", "old.npz", "-m", "ase.calculators.emt:EMT", "--align", "--elements")
    assert code == 0
    assert [line.split()[2] for line in out.splitlines()] == ["element", "all", "Cu", "Ag"]


def test_finetune_with_replay(toy, tmp_path):
    arguments = "finetune", "data.npz", "-m", "pair.safetensors", "--replay", "old.npz", "--freeze", "node_embedding"
    changes = ["optim.steps=10", "data.unit_guard=false", "data.edge_budget=1200", "valid_every=5", "replay.probe=0.3"]
    code, out, err = toy(*arguments, *(part for change in changes for part in ("--set", change)))
    assert code == 0, err
    assert "step 10: loss" in err
    states = ["before", "references", "fine-tuned", "before", "fine-tuned"]
    assert [word for line in out.splitlines()[1:] for word in line.split() if word in states] == states
    assert (tmp_path / "finetuned" / "before_after.csv").exists()
    card = json.loads(toy("models", "info", "finetuned/model.safetensors", "--json")[1])["card"]
    assert card["training"]["config"]["optim"]["rates"] == {"node_embedding": 0.0}


def test_finetune_keeps_the_start_where_training_makes_it_worse(toy, tmp_path):
    changes = ["optim.steps=10", "optim.lr=3.0", "data.unit_guard=false", "data.edge_budget=1200", "valid_every=5"]
    arguments = "finetune", "data.npz", "-m", "pair.safetensors", *(p for change in changes for p in ("--set", change))
    code, out, err = toy(*arguments)
    assert code == 0, err
    assert "the start, which is kept" in err
    fitted, tuned = (line.split()[-5:] for line in out.splitlines()[2:4])
    assert fitted == tuned
    steps = [json.loads(line)["step"] for line in (tmp_path / "finetuned" / "log.jsonl").read_text().splitlines()]
    assert steps == [0, 5, 10]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "nowhere.toml"], "nowhere.toml is not a readable TOML file"),
        (["train", "run.toml", "--set", "optim.rate=1"], "optim.rate"),
        (["train", "run.toml", "--set", "data.train=['none.npz']"], "none.npz"),
        (["train", "run.toml", "--set", "optim.rates={block=0}"], "optim.rates names no parameter"),
        (["finetune", "data.npz", "--rate", "x"], "PREFIX=FACTOR"),
        (["finetune", "data.npz", "-m", "data.npz"], "is not a readable .safetensors model"),
        (["evaluate", "data.npz", "-m", "no.such:thing"], "no.such:thing"),
        (["evaluate", "none.npz", "-m", "pair.safetensors"], "none.npz"),
    ],
)
def test_errors_are_one_sentence(toy, arguments, sentence):
    code, _, err = toy(*arguments)
    assert code == 2
    assert sentence in err
    assert "Traceback" not in err
    assert err.count("m3pot:") == 1  # stages may have been announced before


def test_sets_and_models_go_by_their_file_names():
    names = [
        "a/MatterSim-v1.0.0-1M.safetensors",
        "b/frames.extxyz.gz",
        "x/run/model.safetensors",
        "y/model.safetensors",
    ]
    assert [_short(name, names) for name in names] == ["MatterSim-v1.0.0-1M", "frames", *names[2:]]
    assert _short("MatterSim-v1.0.0-1M", ["MatterSim-v1.0.0-1M"]) == "MatterSim-v1.0.0-1M"  # no file: a name
