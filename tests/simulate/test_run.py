"""The driver: independence of everything that must not matter, restarts, replicas, incidents, files."""

import dataclasses
import itertools

import ase.io
import numpy as np
import pytest

from m3pot.ensemble import stack
from m3pot.simulate import hdf5, loop, md
from m3pot.simulate.output import Log
from m3pot.structure import StructureError
from m3pot.units import GPA
from tests.simulate.helpers import MORSE, Broken, Morse, copper, potential

HOT = {"ensemble": "npt", "temperature": 900.0, "pressure": 1 * GPA, "pressure_time": 200.0, "skin": 0.3}


class Killed(BaseException):
    """Ends a run in the middle, as a signal would."""


def final(run, replica=0) -> np.ndarray:
    atoms = run.atoms[replica]
    return np.concatenate([atoms.positions, atoms.get_momenta(), atoms.cell.array])


def read(path):
    return hdf5.read_atoms(path) if path.suffix == ".h5" else ase.io.read(path, ":")


def test_result_does_not_depend_on_chunks_and_intervals(monkeypatch):
    reference = final(md(copper(1), MORSE, steps=120, every=120, **HOT))
    monkeypatch.setattr(loop, "CHUNK", 7)
    other = md(copper(1), MORSE, steps=120, every=11, log_every=5, **HOT)
    np.testing.assert_array_equal(final(other), reference)


def test_result_does_not_depend_on_the_skin():
    runs = [final(md(copper(1), MORSE, steps=120, **{**HOT, "skin": skin}, dtype="float64")) for skin in (0.2, 1.0)]
    np.testing.assert_allclose(runs[0], runs[1], atol=1e-8)


@pytest.mark.parametrize("suffix", [".extxyz", ".traj", ".h5"])
def test_a_killed_run_resumes_bit_by_bit(tmp_path, suffix):
    options = {"steps": 90, "every": 10, "log_every": 3, "restart_every": 20, **HOT}

    def run(folder, **extra):
        files = {"trajectory": folder / f"t{suffix}", "log": folder / "t.csv", "restart_file": folder / "r.npz"}
        return md(copper(1), MORSE, **options, **files, **extra)

    reference = run(tmp_path / "whole")
    for chunks in (14, 9):
        count = itertools.count(1)

        def progress(steps, count=count, chunks=chunks):
            if next(count) == chunks:
                raise Killed

        with pytest.raises(Killed):
            run(tmp_path / "killed", resume=True, progress=progress)
    resumed = run(tmp_path / "killed", resume=True)
    np.testing.assert_array_equal(final(resumed), final(reference))
    assert (tmp_path / "killed" / "t.csv").read_text() == (tmp_path / "whole" / "t.csv").read_text()
    whole, killed = (read(tmp_path / name / f"t{suffix}") for name in ("whole", "killed"))
    assert len(whole) == len(killed) == 10
    for a, b in zip(whole, killed, strict=True):
        assert a.info["step"] == b.info["step"]
        np.testing.assert_array_equal(a.positions, b.positions)
        np.testing.assert_array_equal(a.get_momenta(), b.get_momenta())
        np.testing.assert_array_equal(a.get_forces(), b.get_forces())


def test_a_finished_run_can_be_made_longer(tmp_path):
    files = {"trajectory": tmp_path / "t.extxyz", "restart_file": tmp_path / "r.npz"}
    md(copper(1), MORSE, steps=50, every=10, **files, **HOT)
    longer = md(copper(1), MORSE, steps=120, every=10, resume=True, **files, **HOT)
    np.testing.assert_array_equal(final(longer), final(md(copper(1), MORSE, steps=120, **HOT)))
    assert [a.info["step"] for a in read(tmp_path / "t.extxyz")] == list(range(0, 121, 10))


def test_restart_file_refuses_another_run(tmp_path):
    path = tmp_path / "r.npz"
    md(copper(1), MORSE, steps=5, restart_file=path, **HOT)
    for change, word in (({"timestep": 0.5}, "timestep"), ({"seed": 4}, "seed")):
        with pytest.raises(ValueError, match=word):
            md(copper(1), MORSE, steps=5, restart_file=path, resume=True, **HOT, **change)
    with pytest.raises(ValueError, match="another potential"):
        md(copper(1), potential(Morse(depth=0.3)), restart_file=path, resume=True, **HOT)
    for content in (b"no restart", path.read_bytes()[:-200]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a restart file"):
            md(copper(1), MORSE, restart_file=path, resume=True, **HOT)
    with pytest.raises(ValueError, match="resume needs restart_file"):
        md(copper(1), MORSE, resume=True)


def test_replicas_are_independent_and_do_not_feel_each_other(tmp_path):
    options = {"ensemble": "nvt", "steps": 40, "every": 20, "dtype": "float64", "seed": 7}
    alone = md(copper(1), MORSE, **options)
    three = md(copper(1), MORSE, replicas=3, trajectory=tmp_path / "t.extxyz", log=tmp_path / "t.csv", **options)
    np.testing.assert_allclose(final(three), final(alone), atol=1e-9)
    assert np.abs(final(three, 1) - final(three, 0)).max() > 0.1
    assert np.abs(final(three, 2) - final(three, 1)).max() > 0.1
    for k in range(3):
        frames = read(tmp_path / f"t-{k}.extxyz")
        assert [a.info["time"] for a in frames] == [0, 20, 40]
        np.testing.assert_allclose(frames[-1].positions, three.atoms[k].positions, atol=1e-7)
    table = np.genfromtxt(tmp_path / "t.csv", delimiter=",", names=True)
    assert table.dtype.names == tuple(Log.COLUMNS.split(","))
    np.testing.assert_allclose(table["temperature_K"][1::3], three.log["temperature"][:, 1], rtol=1e-6)
    np.testing.assert_allclose(table["pressure_GPa"][2::3] * GPA, three.log["pressure"][:, 2], rtol=1e-6)


def test_positions_far_from_the_origin_lose_nothing():
    near, far = copper(1), copper(1)
    far.positions += np.array([[9, -4, 7], [0, 0, 0], [-800, 3, 1], [2, 2, 2]]) @ far.cell.array
    runs = [md(atoms, MORSE, steps=30, ensemble="nve") for atoms in (near, far)]
    moved = [run.atoms[0].positions - atoms.positions for run, atoms in zip(runs, (near, far), strict=True)]
    np.testing.assert_allclose(moved[0], moved[1], atol=1e-5)


def test_nan_stops_at_the_last_good_frame(tmp_path):
    options = {"ensemble": "nve", "temperature": 6000, "steps": 500, "every": 100}
    run = md(copper(1, seed=2), potential(Broken()), trajectory=tmp_path / "t.extxyz", **options)
    assert run.status == "nan"
    assert 0 < run.step < 500
    assert f"step {run.step}" in run.reason
    last = read(tmp_path / "t.extxyz")[-1]
    assert last.info["step"] == run.step
    assert np.isfinite(last.get_potential_energy())
    assert np.isfinite(last.positions).all()


def test_explosion_and_collapse_stop():
    hot = copper(1)
    hot.positions[1] = hot.positions[0] + [0.4, 0.3, 0.2]
    run = md(hot, MORSE, ensemble="nve", steps=500)
    assert run.status == "exploded"
    assert np.isfinite(run.atoms[0].positions).all()
    squeezed = {"ensemble": "npt", "pressure": 1e5 * GPA, "cell": "isotropic", "max_temperature": 1e9}
    run = md(copper(1), MORSE, steps=2000, pressure_time=100.0, thermostat_time=5.0, **squeezed)
    assert run.status in ("collapsed", "exploded")
    assert run.step < 2000


def test_disagreement_of_an_ensemble_stops():
    one, atoms = MORSE, copper(1)
    other = dataclasses.replace(one, scale=1.5 * one.scale)
    free = md(atoms, [one, one], steps=0)
    assert free.log["disagreement"][0, 0] < 1e-4
    run = md(atoms, stack([one, other]), steps=3, log_every=1, max_disagreement=1e-3)
    assert run.status == "uncertain"
    assert run.log["disagreement"][-1, 0] > 1e-3
    with pytest.raises(ValueError, match="needs an ensemble"):
        md(atoms, one, max_disagreement=1.0)
    with pytest.raises(ValueError, match="one model"):
        stack([one, potential(Morse(cutoff=4.5))])


def test_cannot_start():
    slab = copper(1)
    slab.pbc = (True, True, False)
    cases = [
        ({"ensemble": "nph"}, ValueError, "ensemble"),
        ({"thermostat": "berendsen"}, ValueError, "thermostat"),
        ({"timestep": -1}, ValueError, "timestep"),
        ({"temperature": (1, 2, 3)}, ValueError, "ramp"),
        ({"temperature": 0, "thermostat": "csvr"}, ValueError, "above 0 K"),
        ({"steps": -1}, ValueError, "steps"),
        ({"every": 0}, ValueError, "every"),
        ({"trajectory": "t.pdb"}, ValueError, "ending"),
    ]
    for options, error, word in cases:
        with pytest.raises(error, match=word):
            md(copper(1), MORSE, **options)
    with pytest.raises(StructureError, match="three directions"):
        md(slab, MORSE, ensemble="npt")
