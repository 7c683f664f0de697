"""The scheduler: who sits in which batch decides nothing but the time."""

import collections

import numpy as np
import pytest

from m3pot.relaxation import engine, relax
from tests.relaxation.helpers import distorted, morse, problems

TIGHT = dict(fmax=1e-4, smax=1e-6, steps=400, dtype="float64", max_edges=1024)


def test_the_last_ones_move_over_to_another_batch_and_end_as_alone(monkeypatch):
    """Nobody ever waits: two batches of eight seats, with room to spare, take twelve structures at once."""
    table, names = problems(), ("metal", "alloy", "molecule")
    structures = [distorted(table[name], seed, strain=0) for seed in range(1, 5) for name in names]
    send, seatings = engine._Engine._send, []

    def watch(self, lane, *arguments):
        seatings.append((id(lane), [job.index for job in lane.jobs]))
        send(self, lane, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(engine._Engine, "_send", watch)
        together = relax(structures, morse(), **TIGHT)
    assert sorted(index for _, seated in seatings[:2] for index in seated) == list(range(len(structures)))
    visits = collections.defaultdict(list)
    for lane, seated in seatings:
        assert len(set(seated)) == len(seated)
        for index in seated:
            visits[index].append(lane)
    assert sum(len(set(lanes)) == 2 for lanes in visits.values()) > 1
    assert [result.index for result in together] == list(range(len(structures)))
    for result, structure in zip(together, structures, strict=True):
        assert len(visits[result.index]) <= result.steps + 1  # no step is made twice
        (alone,) = relax(structure, morse(), **TIGHT)
        assert result.status == alone.status == "converged"
        assert result.steps == alone.steps
        assert result.energy == pytest.approx(alone.energy, abs=1e-10)
        np.testing.assert_allclose(result.atoms.positions, alone.atoms.positions, atol=1e-9)
        np.testing.assert_allclose(result.atoms.cell.array, alone.atoms.cell.array, atol=1e-9)
