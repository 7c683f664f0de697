import json

import numpy as np

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
