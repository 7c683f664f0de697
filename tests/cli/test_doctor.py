import json
import sys

import numpy as np
import pytest

from m3pot.io.checkpoint import load_potential, save_potential


def test_a_page_for_people(m3pot, model):
    code, out, err = m3pot("doctor", "-m", model)
    assert (code, err) == (0, "")
    assert "jaxlib" in out
    assert "stress = dE/d(strain)/V" in out


def test_a_model_that_breaks_a_law(m3pot, model, tmp_path):
    import dataclasses

    potential = load_potential(model)
    broken = dataclasses.replace(potential, shift=np.full(95, np.nan, np.float32))
    save_potential(tmp_path / "broken.safetensors", broken)
    code, out, _ = m3pot("doctor", "-m", "broken.safetensors", "--json")
    found = json.loads(out)
    assert code == 1
    assert found["ok"] is False
    assert {"law", "worst", "limit", "verdict"} <= set(found["laws"][0])


def test_not_a_model(m3pot, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"no")
    code, out, err = m3pot("doctor", "-m", "x.safetensors")
    assert (code, out) == (2, "")
    assert err.startswith("m3pot: x.safetensors is not a readable")


NOISY = """
from ase.calculators.emt import EMT


def emt():
    print("hello")
    return EMT()
"""


def test_any_ase_calculator(m3pot, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    (tmp_path / "noisy.py").write_text(NOISY)
    code, out, err = m3pot("doctor", "--model", "noisy:emt", "--elements", "Cu,Ag", "--json")
    found = json.loads(out)
    assert (code, err) == (0, "hello\n")
    assert found["model"] == "noisy:emt"
    assert (found["ok"], found["notes"]) == (True, [])
    assert {law["verdict"] for law in found["laws"]} == {"pass"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-m", "ase.calculators.emt:EMT"], "The calculator fails for the crystal of LiOSi (NotImplementedError: "),
        (["-m", "ase.calculators.emt:EMT", "--elements", "Cu,Qq"], "Expected symbols of elements, got Cu, Qq"),
        (["-m", "ase.calculators.emt:Nothing"], "ase.calculators.emt:Nothing gives no calculator (AttributeError"),
        (["-m", "builtins:dict"], "Expected builtins:dict to return an ASE calculator, got dict."),
        (["-m", "nothing"], "Expected a model name"),
    ],
)
def test_no_verdict(m3pot, arguments, sentence):
    code, out, err = m3pot("doctor", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"m3pot: {sentence}")
    assert err.count("\n") == 1
