from pathlib import Path

import numpy as np
import pytest

from m3pot.models.m3gnet import M3GNet
from m3pot.train.config import ConfigError, load_config, make_config
from m3pot.train.loss import LossWeights

MINIMAL = '[data]\ntrain = ["a.extxyz"]\n'


@pytest.fixture
def file(tmp_path):
    def write(text: str):
        path = tmp_path / "run.toml"
        path.write_text(text)
        return path

    return write


def test_a_minimal_file_is_enough(file):
    config = load_config(file(MINIMAL))
    assert config.data.train == ["a.extxyz"]
    assert config.optim.kind == "adamw"
    assert config.replay is None


def test_overrides_have_toml_types_and_win(file):
    config = load_config(
        file(MINIMAL),
        ["optim.lr=3e-4", 'data.train=["b", "c"]', "output=here", "optim.rates={node_embedding = 0.0}", "card.name=x"],
    )
    assert config.optim.lr == 3e-4
    assert config.data.train == ["b", "c"]
    assert config.output == "here"
    assert config.optim.rates == {"node_embedding": 0.0}
    assert config.card == {"name": "x"}


def test_large_forces_count_in_full_where_their_scale_is_infinite(file):
    config = load_config(file(MINIMAL), ["loss.forces_scale=inf"])
    assert LossWeights(**config.loss.model_dump()) == LossWeights(forces_scale=np.inf)


@pytest.mark.parametrize(
    ("text", "overrides", "named"),
    [
        (MINIMAL + "[optim]\nlearning_rate = 1\n", [], "optim.learning_rate"),
        (MINIMAL + "[optim]\nlr = -1\n", [], "optim.lr"),
        (MINIMAL, ["data.stress_unit=bar"], "data.stress_unit"),
        (MINIMAL, ["loss.forces_knee=0"], "loss.forces_knee"),
        (MINIMAL, ["optim.kind=sgd"], "optim.kind"),
        (MINIMAL, ["data.train=[]"], "data.train"),
        (MINIMAL, ["seed.x=1"], "seed"),
        (MINIMAL, ["data.train.x=1"], "data.train.x"),
        (MINIMAL, ["nothing"], "nothing"),
        ("[data]\n", [], "data.train"),
        ("", [], "data"),
        ("[data\n", [], "run.toml"),
    ],
)
def test_errors_name_the_key(file, text, overrides, named):
    with pytest.raises(ConfigError, match=named.replace(".", r"\.")) as caught:
        load_config(file(text), overrides)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml is not a readable TOML file"):
        load_config(tmp_path / "nowhere.toml")


def test_overrides_leave_the_given_tree_alone():
    tree = {"data": {"train": ["a"]}}
    make_config(tree, ["optim.steps=3"])
    assert tree == {"data": {"train": ["a"]}}


def test_the_example_shows_the_defaults():
    example = load_config(Path(__file__).parents[2] / "examples" / "train.toml").model_dump()
    defaults = make_config({"data": {"train": ["labelled.extxyz"]}}).model_dump()
    assert example.pop("card") == {"name": "my-model", "licence": "CC-BY-4.0"}
    fields = example["model"].pop("fields")
    assert {key: getattr(M3GNet(), key) for key in fields} == fields
    assert defaults.pop("card") == defaults["model"].pop("fields") == {}
    assert example == defaults
