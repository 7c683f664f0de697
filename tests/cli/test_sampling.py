import json

import ase.io
import numpy as np
import pytest
from ase.build import bulk

from m3pot.data import readers


@pytest.fixture
def parents(tmp_path):
    ase.io.write(tmp_path / "parents.extxyz", [bulk("Cu"), bulk("NaCl", "rocksalt", a=5.6), bulk("Al")])
    return "parents.extxyz"


def test_sample(m3pot, parents):
    arguments = "sample", parents, "-k", "rattle,strain", "-k", "dimer", "-n", 9, "--seed", 5
    code, out, err = m3pot(*arguments, "-o", "a.extxyz")
    assert (code, out) == (0, "")
    assert "9 frames in a.extxyz (dimer 3, rattle 3, strain 3)" in err
    frames = ase.io.read("a.extxyz", ":")
    assert [a.info["kind"] for a in frames] == ["rattle", "strain", "dimer"] * 3
    assert frames[4].info["name"] == "strain/4"
    assert frames[4].info["group"] == "parents.extxyz@1"
    m3pot(*arguments[:6], "-n", 4, "--first", 5, "--seed", 5, "-o", "b.extxyz")
    for later, again in zip(frames[5:], ase.io.read("b.extxyz", ":"), strict=True):
        np.testing.assert_array_equal(later.positions, again.positions)


def test_excluded_formulas(m3pot, parents):
    ase.io.write("validation.extxyz", [bulk("Cu", cubic=True)])
    code, out, _ = m3pot(
        "sample", parents, "-k", "pool", "-n", 3, "--exclude", "validation.extxyz", "--json", "-o", "a.traj"
    )
    assert code == 0
    assert json.loads(out)["rejected"] == {"pool: excluded formula": 1}
    assert {a.get_chemical_formula() for a in ase.io.read("a.traj", ":")} == {"ClNa", "Al"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-k", "rattle"], "m3pot: The kinds rattle need parents"),
        (["-k", "boil"], "m3pot: Expected --kind pool, near, rattle"),
        (["-k", "dimer", "-o", "a.cif"], "m3pot: Expected an output file ending in .extxyz"),
        (
            ["parents.extxyz", "-k", "pool", "--max-atoms", "0"],
            "m3pot: No structure was made of 5 items: pool: no parents",
        ),
        (["nothing.cif"], "m3pot: nothing.cif does not exist"),
        (["parents.extxyz", "-k", "md", "--steps", "2", "-m", "MODEL"], "m3pot: Expected 1 <= every <= steps"),
    ],
)
def test_nothing_made_nothing_written(m3pot, model, parents, tmp_path, arguments, sentence):
    before = sorted(tmp_path.iterdir())
    output = [] if "-o" in arguments else ["-o", "a.extxyz"]
    code, _, err = m3pot("sample", *[model if a == "MODEL" else a for a in arguments], "-n", 5, *output)
    assert code == 2
    assert err.startswith(sentence)
    assert sorted(tmp_path.iterdir()) == before


def test_label_by_a_model(m3pot, model, parents):
    code, out, _ = m3pot("label", parents, "-m", model, "-o", "labels", "--json")
    assert code == 0
    assert json.loads(out) == {"output": "labels", "labelled": 3, "failures": []}
    m3pot("predict", parents, "-m", model, "-o", "p.extxyz")
    expected = ase.io.read("p.extxyz", ":")
    frames = readers.read("labels")
    np.testing.assert_allclose(frames.energy, [a.get_potential_energy() for a in expected], atol=1e-6)
    np.testing.assert_allclose(frames.stress, [a.get_stress(voigt=False) for a in expected], atol=1e-6)
    assert frames.name.tolist() == [f"parents.extxyz@{k}" for k in range(3)]


def test_label_by_the_mean_of_two_models(m3pot, model, parents):
    m3pot("sample", parents, "-k", "rattle", "-n", 4, "-o", "frames.extxyz")
    arguments = "label", "frames.extxyz", "-m", model, "--and-model", "m3pot-s"
    assert m3pot(*arguments, "-o", "both")[0] == 0
    for name, folder in ((model, "one"), ("m3pot-s", "other")):
        m3pot("label", "frames.extxyz", "-m", name, "-o", folder)
    mean, one, other = (readers.read(folder) for folder in ("both", "one", "other"))
    for field in ("energy", "forces", "stress"):
        expected = (getattr(one, field) + getattr(other, field)) / 2
        np.testing.assert_allclose(getattr(mean, field), expected, atol=1e-5)
        assert np.abs(getattr(one, field) - expected).max() > 1e-3
    code, _, err = m3pot(*arguments, "-o", "agreed", "--max-disagreement", "1e-6")
    assert code == 1
    assert "models disagree on a force by" in err
    code, _, err = m3pot(*arguments, "-o", "both", "--resume", "--max-disagreement", "1")
    assert code == 2
    assert "max_disagreement differ" in err
    code, _, err = m3pot("label", "frames.extxyz", "-m", model, "-o", "alone", "--max-disagreement", "1")
    assert code == 2
    assert "give others with --and-model" in err


def test_label_by_a_calculator(m3pot, parents):
    arguments = "label", parents, "-c", "ase.calculators.emt:EMT", "-o", "labels"
    code, _, err = m3pot(*arguments)
    assert code == 1
    assert "2 of 3 frames labelled in labels" in err
    assert "parents.extxyz@1: NotImplementedError" in err
    code, _, err = m3pot(*arguments)
    assert code == 2
    assert "labels holds labels already; add --resume" in err
    assert m3pot(*arguments, "--resume")[0] == 1
    assert len(readers.read("labels")) == 2
    assert m3pot(*arguments[:2], "-c", "emt", "-o", "other")[0] == 2
    assert m3pot(*arguments, "-m", "m3pot-s")[0] == 2
