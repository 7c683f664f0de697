import dataclasses

import numpy as np
import pytest

from m3pot.execution import numerics
from m3pot.potential import jit_predict
from m3pot.train.accuracy import accuracy, by_element, residuals
from m3pot.train.predictions import predict_frames
from m3pot.units import GPA
from tests.train.toy import edges, iter_graphs, morse, pair


def shifted(frames):
    """Predictions that are off by known amounts."""
    forces = frames.forces.copy()
    forces[frames.numbers == 29] += [0.3, 0.0, 0.4]
    return dataclasses.replace(
        frames,
        energy=frames.energy + 4 * np.where(np.arange(len(frames)) % 2, 0.02, -0.01),
        forces=forces,
        stress=frames.stress + 2 * GPA,
    )


def test_errors_are_what_was_planted():
    frames = morse(8)
    found = accuracy(residuals(frames, shifted(frames)))
    copper = (frames.numbers == 29).mean()
    assert (found.structures, found.atoms) == (8, 32)
    assert found.energy_mae == pytest.approx(0.015)
    assert found.energy_rmse == pytest.approx(np.sqrt((0.02**2 + 0.01**2) / 2))
    assert found.energy_median == pytest.approx(0.015)
    assert found.forces_mae == pytest.approx(0.5 * copper)
    assert found.forces_component_mae == pytest.approx(0.7 / 3 * copper)
    assert found.forces_rmse == pytest.approx(np.sqrt(0.25 / 3 * copper))
    assert found.stress_mae == pytest.approx(2)
    assert found.stress_rmse == pytest.approx(2)


def test_errors_per_element():
    frames = morse(8)
    found = by_element(frames, residuals(frames, shifted(frames)))
    assert set(found) == {29, 47}
    assert found[29].forces_mae == pytest.approx(0.5)
    assert found[47].forces_mae == 0
    holds_silver = np.array([(frames[k].numbers == 47).any() for k in range(8)])
    assert found[47].structures == holds_silver.sum()


def test_missing_labels_are_left_out():
    frames = morse(8)
    nothing = dataclasses.replace(frames, stress=frames.stress * np.nan, energy=np.where(np.arange(8) < 2, 0, np.nan))
    found = accuracy(residuals(nothing, shifted(frames)))
    assert found.structures == 2
    assert np.isnan(found.stress_mae)
    assert found.forces_mae > 0


def test_predictions_in_batches_are_those_of_single_frames():
    frames, potential = morse(8), pair()
    result = predict_frames(potential, edges(frames), edge_budget=300, dtype="float64")
    for k, (graph, _) in enumerate(iter_graphs(frames, 1)):
        with numerics("float64"):
            expected = jit_predict(potential.astype(np.float64), graph)
        assert result.energy[k] == pytest.approx(float(expected.energy[0]), abs=1e-9)
        np.testing.assert_allclose(result.forces[4 * k : 4 * k + 4], expected.forces[:4], atol=1e-10)
        np.testing.assert_allclose(result.stress[k], expected.stress[0], atol=1e-10)
    with pytest.raises(ValueError, match="before the cutoff"):
        predict_frames(potential, edges(frames, 2.0))


def test_a_model_that_needs_more_memory_is_evaluated_in_smaller_batches(monkeypatch):
    cache, potential, batches = edges(morse(8)), pair(), []
    predict_frames(potential, cache, advance=batches.append)
    assert batches == [8]
    monkeypatch.setattr(type(potential.model), "appetite", 64, raising=False)
    predict_frames(potential, cache, advance=batches.append)
    assert len(batches) > 2
    assert sum(batches) == 16
