import csv
import dataclasses
import json

import numpy as np
import pytest
from ase.calculators.emt import EMT

from m3pot import evaluation
from m3pot.data.calculators import CalculatorError
from m3pot.data.frames import concatenate, make
from m3pot.io.checkpoint import CheckpointError
from m3pot.train.references import composition
from tests.train.toy import morse, pair


@pytest.fixture(scope="module")
def frames():
    return morse(12)


def test_a_model_against_its_own_labels_has_no_error(frames):
    potential = pair()
    labelled, failures = evaluation.predict(potential, frames)
    assert failures == {}
    (row, *elements) = evaluation.evaluate({"toy": labelled}, {"pair": potential}).rows
    assert (row["set"], row["model"], row["element"], row["structures"]) == ("toy", "pair", "all", 12)
    assert row["energy_mae"] < 1e-6
    assert row["forces_mae"] < 1e-5
    assert row["stress_mae"] < 1e-3
    assert [element["element"] for element in elements] == ["Cu", "Ag"]


def test_calculators_of_ase_are_models(frames):
    found = evaluation.evaluate({"toy": frames}, {"emt": evaluation.find_model("ase.calculators.emt:EMT")})
    atoms = evaluation.to_atoms(frames, 3)
    atoms.calc = EMT()
    assert found.predictions["toy"]["emt"].energy[3] == pytest.approx(atoms.get_potential_energy())
    np.testing.assert_allclose(found.predictions["toy"]["emt"].stress[3], atoms.get_stress(voigt=False))
    assert found.failures == []
    energies = [evaluation.overall(found)[0]["energy_mae"], np.abs(found.labels["toy"].energy).mean()]
    assert np.isfinite(energies).all()


def test_another_energy_scale_is_aligned(frames):
    potential = pair()
    labelled, _ = evaluation.predict(potential, frames)
    moved = dataclasses.replace(labelled, energy=labelled.energy + composition(frames)[:, [29, 47]] @ [7.0, -3.0])
    (plain, *_), (aligned, *_) = (
        evaluation.evaluate({"toy": moved}, {"pair": potential}, align=align).rows for align in (False, True)
    )
    assert plain["energy_mae"] > 1
    assert aligned["energy_mae"] < 0.01
    assert aligned["forces_mae"] == plain["forces_mae"]


def test_few_frames_are_not_aligned(frames):
    with pytest.raises(ValueError, match="Expected at least 10 frames to fit 2 element references, got 4"):
        evaluation.evaluate({"toy": frames[:4]}, {"pair": pair()}, align=True)


def test_all_models_are_measured_on_what_all_can_evaluate(frames):
    """One model does not know silver; one frame has overlapping atoms; one calculator does not know oxygen."""
    copper_only = pair()
    copper_only.card["elements"] = [8, 29]
    everything = pair()
    everything.card["elements"] = [8, 29, 47]
    overlapping = make([2], [29, 29], [[0, 0, 0], [0, 0, 0.01]], [np.eye(3) * 4], energy=[1.0], name=["overlap"])
    oxide = make([2], [8, 29], [[0, 0, 0], [0, 0, 1.9]], [np.eye(3) * 4], energy=[1.0], name=["oxide"])
    copper = make([1], [29], [[0, 0, 0]], [np.eye(3) * 2.6], energy=[1.0], name=["copper"])
    silver = np.flatnonzero([(frames[k].numbers == 47).any() for k in range(8)])[:1]
    joined = concatenate([frames[silver], overlapping, oxide, copper])
    found = evaluation.evaluate({"mix": joined}, {"a": copper_only, "b": everything})
    assert found.labels["mix"].name.tolist() == ["oxide", "copper"]
    reasons = dict(found.failures)
    assert reasons[f"mix: {joined.name[0]} with a"] == "the model does not know Ag."
    assert "closer than" in reasons["mix: overlap with a"]
    assert "closer than" in reasons["mix: overlap with b"]
    assert len(reasons) == 3
    assert [row["structures"] for row in evaluation.overall(found)] == [2, 2]


def test_files(frames, tmp_path):
    found = evaluation.evaluate({"toy": frames}, {"pair": pair(), "other": pair(seed=1)})
    paths = evaluation.write(tmp_path / "out", found, {"command": "x"})
    assert [path.name for path in paths] == ["errors.csv", "errors.json", "parity_toy.png"]
    with open(paths[0], newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["element"]) for row in rows] == [
        (model, element) for model in ("pair", "other") for element in ("all", "Cu", "Ag")
    ]
    document = json.loads(paths[1].read_text())
    assert document["command"] == "x"
    assert document["rows"][0]["forces_mae"] == float(rows[0]["forces_mae"])
    assert paths[2].read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "error"),
    [("nothing", CheckpointError), ("nowhere:factory", CalculatorError), ("os:getcwd", CalculatorError)],
)
def test_models_that_are_none(name, error):
    with pytest.raises(error):
        evaluation.find_model(name)
