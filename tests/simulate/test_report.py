"""The report on runs: every format, replicas, files that a killed run left, and numbers that are known."""

import numpy as np
import pytest

from m3pot.simulate import analysis, md
from m3pot.simulate.report import measure
from m3pot.simulate.report_page import draw, page
from m3pot.simulate.stored import Run, load
from tests.simulate.helpers import MORSE, copper
from tests.simulate.test_analysis import trajectory

FORMATS = (".extxyz", ".traj", ".h5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs of 60 frames in every format, of one replica and of two."""
    folder = tmp_path_factory.mktemp("runs")
    for suffix in FORMATS:
        for replicas in (1, 2):
            path = folder / f"{suffix[1:]}{replicas}" / f"cu{suffix}"
            files = {"log": path.with_suffix(".csv"), "restart_file": path.with_suffix(".restart.npz")}
            options = {"ensemble": "npt", "steps": 300, "every": 5, "log_every": 5, "replicas": replicas}
            md(copper(1), MORSE, trajectory=path, **files, **options)
    return folder


@pytest.mark.parametrize("replicas", [1, 2])
def test_every_format_gives_the_same_report(folder, replicas):
    found = [measure(load(folder / f"{suffix[1:]}{replicas}" / f"cu{suffix}")) for suffix in FORMATS]
    first = found[0]
    assert first.about["replicas"] == replicas
    assert (first.about["formula"], first.about["atoms"], first.about["ensemble"]) == ("Cu4", 4, "npt")
    assert (first.about["frames"], first.about["time_ps"], first.about["skipped_ps"]) == (55, 0.3, 0.03)
    assert set(first.diffusion) == {"Cu"}
    for other in found[1:]:
        assert other.averages == first.averages
        assert other.drift == first.drift
        assert other.flags == first.flags
        for name in ("rdf", "msd", "vdos"):
            (x, table), (x2, table2) = getattr(first, name), getattr(other, name)
            np.testing.assert_allclose(x, x2)
            for key in table:
                np.testing.assert_allclose(table[key], table2[key], rtol=0.02, atol=1e-3 * table[key].max())


def test_replicas_together_and_alone(folder):
    paths = [folder / "extxyz2" / name for name in ("cu.extxyz", "cu-0.extxyz", "cu-1.extxyz")]
    both, first, second = (measure(load(path)) for path in paths)
    for name, value in both.averages.items():
        assert value.mean == pytest.approx((first.averages[name].mean + second.averages[name].mean) / 2)
        errors = first.averages[name].error, second.averages[name].error
        assert value.error == pytest.approx(np.hypot(*errors) / 2)
    assert first.averages["temperature_K"] != second.averages["temperature_K"]


def test_without_a_log_the_frames_tell_temperature_and_volume(folder, tmp_path):
    for suffix in FORMATS:
        whole = folder / f"{suffix[1:]}1" / f"cu{suffix}"
        copy = tmp_path / f"cu{suffix}"
        copy.write_bytes(whole.read_bytes())
        with_log, without = measure(load(whole)), measure(load(copy))
        for name in ("temperature_K", "volume_A3", "density_g_cm3"):
            assert without.averages[name].mean == pytest.approx(with_log.averages[name].mean, rel=1e-4)
        assert without.drift is None
        assert "There is no log" in without.notes[0]


def test_what_a_killed_run_has_left(folder, tmp_path):
    for name, cut in (("cu.extxyz", 100), ("cu.csv", 10)):
        data = (folder / "extxyz1" / name).read_bytes()
        (tmp_path / name).write_bytes(data[:-cut])
    run = load(tmp_path / "cu.extxyz")
    assert len(run.trajectories[0].time) == len(run.logs[0]["time_fs"]) == 60
    assert np.isfinite(measure(run).averages["temperature_K"].mean)


def made_up(*, slope=0.0, temperature=300.0, settings=None, frames=400) -> Run:
    """A still crystal with a log of white noise."""
    rng, atoms = np.random.default_rng(0), copper(1, rattle=0)
    still = trajectory(np.repeat(atoms.positions[None], frames, 0), spacing=10.0, cell=atoms.cell.array)
    time = still.time
    log = {
        "time_fs": time,
        "temperature_K": temperature + 20 * rng.normal(size=frames),
        "conserved_eV": slope * 4e-6 * time + 1e-4 * rng.normal(size=frames),
        "volume_A3": np.full(frames, 1000.0),
    }
    return Run("made <up>", [still._replace(masses=np.full(4, 63.546))], [log], settings or {})


BATH = {"ensemble": "nvt", "temperature": [300.0, 300.0]}


def test_drift_density_and_errors():
    found = measure(made_up(slope=0.7))
    assert found.drift.mean == pytest.approx(0.7, abs=5 * found.drift.error)
    assert 1e-4 < found.drift.error < 0.01
    assert found.averages["density_g_cm3"].mean == pytest.approx(4 * 63.546 * 1.66053907 / 1000)
    assert found.averages["temperature_K"].error == pytest.approx(20 / np.sqrt(360), rel=0.5)
    slopes = [analysis.drift(np.arange(500.0), np.random.default_rng(k).normal(size=500)) for k in range(40)]
    means, errors = np.array(slopes).T
    assert means.std() == pytest.approx(errors.mean(), rel=0.4)


def test_sound_runs_are_not_flagged():
    assert measure(made_up()).flags == []
    assert measure(made_up(settings=BATH)).flags == []


def test_flags():
    (flag,) = measure(made_up(slope=-1.5)).flags
    assert flag.startswith("drift: ")
    assert measure(made_up(slope=-1.5), max_drift=2.0).flags == []
    (flag,) = measure(made_up(temperature=320, settings=BATH)).flags
    assert flag.startswith("temperature: the mean is off the thermostat's 300 K by +")
    assert measure(made_up(temperature=320, settings=BATH | {"temperature": [300.0, 340.0]})).flags == []
    warming = made_up()
    warming.logs[0]["temperature_K"][200:] += 40
    (flag,) = measure(warming).flags
    assert flag.startswith("temperature: the second half")
    peak = made_up()
    peak.logs[0]["temperature_K"][-1] = 5000
    assert any("it rises to 5000 K" in flag for flag in measure(peak).flags)
    broken = made_up()
    broken.trajectories[0].positions[-1, 1] += 3.0
    (flag,) = measure(broken).flags
    assert flag.startswith("bonds: ")
    assert "0-1" in flag


def test_what_cannot_be_measured(tmp_path):
    notes = measure(made_up(frames=30)).notes
    assert any("frames or more" in note for note in notes)
    assert any("No velocities" in note for note in notes)
    with pytest.raises(ValueError, match="skip less"):
        measure(made_up(), skip=1e6)
    with pytest.raises(FileNotFoundError, match=r"lost\.h5"):
        load(tmp_path / "lost.h5")
    (tmp_path / "a.extxyz").write_text("nonsense")
    with pytest.raises(ValueError, match="m3pot md"):
        load(tmp_path / "a.extxyz")
    copper(1).write(tmp_path / "b.extxyz")
    with pytest.raises(ValueError, match="without a time"):
        load(tmp_path / "b.extxyz")


def test_the_page_needs_no_other_file(folder):
    measured = [measure(load(folder / "h52" / "cu.h5")), measure(made_up(slope=5.0))]
    figures = [draw(one) for one in measured]
    assert list(figures[0]) == ["series", "structure"]
    assert all(data.startswith(b"\x89PNG") for one in figures for data in one.values())
    text = page(list(zip(measured, figures, strict=True)))
    assert text.count("src='data:image/png;base64,") == 4
    assert "http" not in text
    assert "made &lt;up&gt;" in text
    assert "drift: the conserved quantity" in text
