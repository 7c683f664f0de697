import csv
import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from m3pot.simulate.hdf5 import read_atoms

EXAMPLES = Path(__file__).parents[2] / "examples"
SALT = EXAMPLES / "NaCl.cif"
SHORT = ("--steps", 12, "--every", 4, "--temperature", 50)


def frames(path: Path) -> list[Atoms]:
    return read_atoms(path) if path.suffix == ".h5" else ase.io.read(path, ":")


@pytest.fixture
def md(m3pot, model):
    """``m3pot md`` with a tiny model."""
    return lambda *arguments: m3pot("md", *arguments, "-m", model)


@pytest.mark.parametrize("suffix", [".extxyz", ".traj", ".h5"])
def test_writes_trajectory_log_and_restart_file_and_goes_on(md, tmp_path, suffix):
    code, out, err = md(SALT, *SHORT, "-o", f"whole{suffix}", "--quiet")
    assert (code, out, err) == (0, "", "")
    code, out, err = md(SALT, "--steps", 8, *SHORT[2:], "-o", f"parts{suffix}")
    assert code == 0
    assert out.split("\n")[0].split() == ["step", "time_fs", "T_K", "E_pot_eV", "P_GPa", "V_A3", "conserved_eV"]
    assert "8 steps" in err
    code, out, err = md(SALT, *SHORT, "-o", f"parts{suffix}", "--resume", "--json")
    assert code == 0
    summary = json.loads(out)
    assert (summary["status"], summary["step"]) == ("done", 12)
    assert summary["trajectories"] == [f"parts{suffix}"]
    whole, parts = (frames(tmp_path / f"{name}{suffix}") for name in ("whole", "parts"))
    assert [atoms.info["step"] for atoms in parts] == [0, 4, 8, 12]
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(a.positions, b.positions)
        np.testing.assert_array_equal(a.get_momenta(), b.get_momenta())
        assert a.get_potential_energy() == b.get_potential_energy()
    assert Path("whole.csv").read_text() == Path("parts.csv").read_text()
    code, out, err = md(SALT, *SHORT, "-o", f"parts{suffix}", "--resume")
    assert (code, out) == (0, "")
    assert "12 steps" in err


def test_existing_output_is_not_lost(md, tmp_path):
    arguments = SALT, *SHORT, "-o", "a.extxyz"
    assert md(*arguments)[0] == 0
    before = Path("a.extxyz").read_bytes()
    code, _, err = md(*arguments, "--seed", 1)
    assert code == 2
    assert "a.extxyz exists; go on with --resume, replace it with --overwrite" in err
    code, _, err = md(SALT, *SHORT, "-o", "a.h5")
    assert (code, err) == (2, err)
    assert "a.csv exists" in err
    assert Path("a.extxyz").read_bytes() == before
    assert md(*arguments, "--seed", 1, "--overwrite")[0] == 0
    assert Path("a.extxyz").read_bytes() != before


def test_npt_ramp_supercell_and_replicas(md, tmp_path):
    ase.io.write("si.cif", bulk("Si"))
    options = "--ensemble", "npt", "--temperature", "50:100", "--pressure", "0:1", "--thermostat", "csvr"
    arguments = "si.cif", "--steps", 6, "--every", 3, "--supercell", 1, 1, 2, "--replicas", 2, *options
    code, out, err = md(*arguments, "--json", "--dtype", "float64")
    assert code == 0, err
    assert json.loads(out)["trajectories"] == ["si-md-0.extxyz", "si-md-1.extxyz"]
    first, second = (frames(Path(f"si-md-{k}.extxyz")) for k in range(2))
    assert len(first) == len(second) == 3
    assert len(first[0]) == 4
    assert np.abs(first[-1].positions - second[-1].positions).max() > 1e-3
    assert np.abs(first[-1].cell - first[0].cell).max() > 0
    with open("si-md.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["replica"]) for row in rows] == [(str(s), r) for s in range(7) for r in "01"]


def test_a_run_that_explodes_keeps_its_last_good_frame(md):
    code, out, err = md(SALT, "--steps", 500, "--timestep", 80, "--temperature", 3000, "--ensemble", "nve", "--json")
    assert code == 1
    summary = json.loads(out)
    assert summary["status"] in ("exploded", "nan")
    assert summary["step"] < 500
    assert err.startswith(f"m3pot: {SALT}: {summary['status']}: ")
    last = frames(Path("NaCl-md.extxyz"))[-1]
    assert last.info["step"] == summary["step"]
    assert np.isfinite(last.positions).all()


def test_shipped_model(m3pot):
    code, out, err = m3pot("md", EXAMPLES / "Si.cif", "--steps", 10, "--every", 5, "--ensemble", "nve", "--quiet")
    assert (code, out, err) == (0, "", "")
    with open("Si-md.csv") as file:
        energies = np.array([float(row["conserved_eV"]) for row in csv.DictReader(file)])
    assert len(energies) == 11
    assert np.ptp(energies) < 2e-3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--ensemble", "nvp"], ["nve", "nvt", "npt"]),
        (["--thermostat", "berendsen"], ["langevin"]),
        (["--temperature", "hot"], ["--temperature", "300:900"]),
        (["--temperature", "1:2:3"], ["--temperature", "300:900"]),
        (["--temperature", -5], ["0 K"]),
        (["--timestep", 0], ["timestep", "positive"]),
        (["--steps", -1], ["steps"]),
        (["--every", 0], ["every", "positive"]),
        (["--log-every", 0], ["log_every", "positive"]),
        (["--restart-every", 0], ["restart_every", "positive"]),
        (["--replicas", 0], ["replicas", "positive"]),
        (["--supercell", 0, 1, 1], ["--supercell"]),
        (["--pressure", 3], ["--ensemble npt"]),
        (["--max-disagreement", 0.1], ["ensemble"]),
        (["--output", "t.pdb"], [".extxyz"]),
        (["--resume", "--overwrite"], ["choose one"]),
    ],
)
def test_bad_options(md, tmp_path, arguments, words):
    code, out, err = md(SALT, "--steps", 1, *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert all(word in err for word in words), err
    assert not list(tmp_path.iterdir())


def test_bad_input(md, m3pot, tmp_path):
    (tmp_path / "broken.cif").write_text("data_")
    ase.io.write("fm.cif", Atoms("Fm", cell=[4, 4, 4], pbc=True))
    ase.io.write("molecule.xyz", Atoms("CO", positions=[[0, 0, 0], [0, 0, 1.2]]))
    cases = [
        (["lost.cif"], "lost.cif does not exist"),
        (["broken.cif"], "broken.cif"),
        (["fm.cif"], "Fm"),
        (["molecule.xyz", "--ensemble", "npt"], "three directions"),
    ]
    for arguments, words in cases:
        code, out, err = md(*arguments, "--quiet")
        assert (code, out) == (2, "")
        assert words in err
        assert err.count("\n") == 1
    code, _, err = m3pot("md", SALT, "-m", "nobody")
    assert code == 2
    assert "nobody" in err


def test_resume_tells_what_does_not_fit(md):
    arguments = SALT, *SHORT, "-o", "a.extxyz"
    assert md(*arguments)[0] == 0
    code, _, err = md(*arguments, "--resume", "--seed", 3)
    assert code == 2
    assert "another seed (then 0, now 3)" in err
    code, _, err = md(SALT, *SHORT, "-o", "a.h5", "--resume")
    assert code == 2
    assert "another trajectory (then .extxyz, now .h5)" in err
    Path("a.extxyz").unlink()
    code, _, err = md(*arguments, "--resume")
    assert code == 2
    assert "a.extxyz is gone" in err
    assert err.count("\n") == 1
    Path("a.restart.npz").unlink()
    code, _, err = md(*arguments, "--resume")
    assert code == 0
    assert "starting from the beginning" in err


def test_report(m3pot, md, tmp_path):
    assert md(SALT, *SHORT, "--ensemble", "nve", "-o", "a.h5", "-q")[0] == 0
    code, out, err = m3pot("md-report", "a.h5", "-o", "page")
    assert code == 0
    assert "temperature_K" in out
    assert "page/report.html" in err
    assert sorted(path.name for path in (tmp_path / "page").iterdir()) == [
        *("a-series.png", "a-structure.png", "report.html", "report.json")
    ]
    (numbers,) = json.loads((tmp_path / "page" / "report.json").read_text())
    assert numbers["about"]["formula"] == "Na4Cl4"
    assert set(numbers["curves"]["rdf"]) == {"r_A", "Na-Na", "Na-Cl", "Cl-Cl"}
    code, out, err = m3pot("md-report", "a.h5", "lost.h5", "-o", "page", "--json", "--skip", 0)
    assert code == 1
    assert "lost.h5 does not exist" in err
    assert json.loads(out)[0]["about"]["frames"] == 4
    for arguments, words in (
        (["lost.h5"], "lost.h5"),
        (["a.h5", "--skip", 9], "skip"),
        (["a.h5", "--radius", 0], "radius"),
    ):
        code, out, err = m3pot("md-report", *arguments, "--quiet")
        assert (code, out) == (2, "")
        assert words in err
        assert err.count("\n") == 1
