from types import SimpleNamespace

import numpy as np
import pytest
from ase.build import bulk

from m3pot import explore
from m3pot.data.crystal import Rejected, from_atoms
from m3pot.data.recipe import Source, draw
from m3pot.simulate.output import Frame
from m3pot.units import GPA

SOURCE = Source([from_atoms(bulk("Cu")), from_atoms(bulk("Al"))], ["Cu", "Al"], seed=2)


@pytest.fixture
def runs(monkeypatch) -> list[dict]:
    """Molecular dynamics that moves all atoms by 0.01 A per step and stops after 6; the arguments of each run."""
    calls = []

    def md(atoms, potential, *, steps, every, **options):
        calls.append({"atoms": atoms, "potential": potential, **options})
        last = min(steps, 6)
        frames = []
        for step in [*range(0, last + 1, every), *([last] if last < steps else [])]:
            positions = (atoms.positions + 0.01 * step)[None]
            zeros = np.zeros(1), np.zeros(positions.shape), np.zeros((1, 3, 3)), np.zeros(1)
            frames.append(Frame(step, float(step), positions, zeros[1], atoms.cell.array[None], *zeros))
        return SimpleNamespace(status="done" if last == steps else "exploded", frames=frames)

    monkeypatch.setattr(explore, "md", md)
    return calls


def test_snapshots_of_parents_in_turn(runs):
    kinds = {"md": explore.dynamics("model", temperature=(300, 600), pressure=(5, 10), steps=6, every=2)}
    drawn = [draw(SOURCE, ["md"], n, kinds) for n in range(7)]
    assert [one.group for one in drawn] == ["Cu"] * 3 + ["Al"] * 3 + ["Cu"]
    assert len(runs) == 3
    for run in runs:
        assert len(run["atoms"]) >= 5
        assert run["ensemble"] == "npt"
        assert 300 <= run["temperature"] <= 600
        assert 5 * GPA <= run["pressure"] <= 10 * GPA
    assert len({run["seed"] for run in runs}) == 3
    for k, one in enumerate(drawn[3:6]):
        np.testing.assert_allclose(one.crystal.positions - runs[1]["atoms"].positions, 0.02 * (k + 1))
    again = draw(SOURCE, ["md"], 4, {"md": explore.dynamics("model", steps=6, every=2, temperature=(300, 600))})
    np.testing.assert_array_equal(again.crystal.positions, drawn[4].crystal.positions)


def test_what_follows_an_explosion_is_rejected(runs):
    kinds = {"md": explore.dynamics(None, steps=8, every=4)}
    first, second = (draw(SOURCE, ["md"], n, kinds) for n in range(2))
    assert first.crystal is not None
    assert (second.crystal, second.reason) == (None, "exploded")


def test_slabs_keep_their_cell(runs):
    slab = bulk("Cu", cubic=True)
    slab.pbc = (True, True, False)
    make = explore.dynamics(None, steps=2, every=2)
    make(Source([from_atoms(slab)], ["slab"]), 0, np.random.default_rng(0))
    assert (runs[0]["ensemble"], runs[0]["pressure"]) == ("nvt", 0.0)


def test_senseless_settings(runs):
    with pytest.raises(ValueError, match="Expected 1 <= every <= steps"):
        explore.dynamics(None, steps=2, every=4)
    with pytest.raises(ValueError, match="temperatures above 0 K"):
        explore.dynamics(None, temperature=(0, 4))
    with pytest.raises(Rejected, match="no parent"):
        explore.dynamics(None)(Source(), 0, np.random.default_rng(0))
