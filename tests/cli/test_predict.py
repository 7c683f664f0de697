import csv
import json

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from m3pot.inference import predict

GOOD = bulk("NaCl", "rocksalt", a=5.6)
GOOD.rattle(0.1, seed=0)


@pytest.fixture
def inputs(tmp_path):
    ase.io.write(tmp_path / "good.extxyz", GOOD)
    ase.io.write(tmp_path / "many.extxyz", [bulk("Cu"), Atoms("Fm"), bulk("Si")])
    (tmp_path / "broken.cif").write_text("")
    return tmp_path


def test_table(m3pot, model, inputs):
    code, out, err = m3pot("predict", "good.extxyz", "-m", model)
    assert (code, err) == (0, "")
    assert "energy_per_atom" in out
    assert "good.extxyz  ClNa" in out


def test_json(m3pot, model, inputs):
    code, out, _ = m3pot("predict", "good.extxyz", "-m", model, "--json", "--dtype", "float64")
    (row,) = json.loads(out)
    from m3pot.io.checkpoint import load_potential

    (expected,) = predict(GOOD, load_potential(model), dtype="float64")
    assert code == 0
    assert row["energy"] == pytest.approx(expected.get_potential_energy(), abs=1e-6)
    np.testing.assert_allclose(row["forces"], expected.get_forces(), atol=1e-6)
    np.testing.assert_allclose(row["stress"], expected.get_stress(), atol=1e-8)


@pytest.mark.parametrize("ending", ["extxyz", "traj"])
def test_structures_with_results_in_order_and_failures_listed(m3pot, model, inputs, ending):
    arguments = "predict", "many.extxyz", "broken.cif", "good.extxyz", "-o", f"out.{ending}", "-m", model
    code, out, err = m3pot(*arguments)
    assert (code, out) == (1, "")
    assert "2 of 5 inputs failed" in err
    assert "many.extxyz@1: Fm has elements" in err
    assert "broken.cif: the file is empty." in err
    frames = ase.io.read(f"out.{ending}", ":")
    assert [a.info["name"] for a in frames] == ["many.extxyz@0", "many.extxyz@1", "many.extxyz@2", "good.extxyz"]
    assert [a.info["status"] for a in frames] == ["done", "failed", "done", "done"]
    assert "Fm" in frames[1].info["reason"]
    for atoms in (frames[0], frames[2], frames[3]):
        assert np.isfinite(atoms.get_potential_energy())
        assert atoms.get_forces().shape == (len(atoms), 3)
        assert atoms.get_stress().shape == (6,)


def test_csv_and_json_files(m3pot, model, inputs):
    for ending in ("csv", "json"):
        assert m3pot("predict", "many.extxyz", "-o", f"out.{ending}", "-m", model)[0] == 1
    with open("out.csv") as file:
        rows = list(csv.DictReader(file))
    full = json.loads((inputs / "out.json").read_text())
    assert [row["status"] for row in rows] == [row["status"] for row in full] == ["done", "failed", "done"]
    assert float(rows[0]["energy"]) == full[0]["energy"]
    assert len(full[2]["forces"]) == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["broken.cif"], "m3pot: broken.cif: the file is empty.\n"),
        (
            ["nothing.cif"],
            "m3pot: nothing.cif does not exist; give structure files, globs, folders or names of data sets.\n",
        ),
        (["good.extxyz", "-o", "out.doc"], "m3pot: Expected an output file ending in"),
        (["good.extxyz", "-m", "broken.cif"], "m3pot: broken.cif is not a readable .safetensors model"),
        (["good.extxyz", "-m", "unheard-of"], "m3pot: Expected a model name"),
    ],
)
def test_nothing_done_nothing_written(m3pot, model, inputs, arguments, sentence):
    options = [] if "-m" in arguments else ["-m", model]
    output = [] if "-o" in arguments else ["-o", "out.extxyz"]
    before = sorted(p.name for p in inputs.iterdir())
    code, out, err = m3pot("predict", *arguments, *options, *output)
    assert (code, out) == (2, "")
    assert err.startswith(sentence)
    assert err.count("\n") == 1
    assert sorted(p.name for p in inputs.iterdir()) == before


def test_interrupted_keeps_what_is_done(m3pot, model, inputs, monkeypatch):
    from m3pot import inference

    monkeypatch.setattr("m3pot.cli.predict._CHUNK", 1)
    real, calls = inference.predict, []

    def stop(*args, **kw):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **kw)

    monkeypatch.setattr(inference, "predict", stop)
    code, _, err = m3pot("predict", "many.extxyz", "-o", "out.extxyz", "-m", model)
    assert code == 130
    assert "interrupted" in err
    assert len(ase.io.read("out.extxyz", ":")) == 2
