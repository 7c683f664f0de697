import json

import ase.io
import numpy as np
import pytest
from ase.build import bulk

from m3pot.cli.main import main

EMT = ("--model", "ase.calculators.emt:EMT", "-q")


@pytest.fixture
def m3pot(capsys, tmp_path, monkeypatch):
    """Run a command in an empty folder: ``code, out, err = m3pot("eos", "a.cif")``."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(a) for a in arguments])
        return code, *capsys.readouterr()

    return call


def test_eos(m3pot, tmp_path):
    ase.io.write(tmp_path / "a.extxyz", [bulk("Cu", a=3.7), bulk("Al"), bulk("Si")])
    code, out, err = m3pot("eos", "a.extxyz", "-o", "out", "--json", *EMT)
    assert code == 1
    assert "a.extxyz@2" in err  # EMT knows no Si
    rows = json.loads(out)
    assert [row["formula"] for row in rows] == ["Cu", "Al"]
    assert rows[0]["V0"] == pytest.approx(3.59**3 / 4, rel=0.01)
    stored = json.loads((tmp_path / "out" / "eos.json").read_text())
    assert len(stored[0]["energies"]) == 7
    assert (tmp_path / "out" / "eos.csv").exists()
    assert (tmp_path / "out" / "eos.png").exists()


def test_elastic(m3pot, tmp_path):
    ase.io.write(tmp_path / "cu.xyz", bulk("Cu"), format="extxyz")
    code, out, _ = m3pot("elastic", "cu.xyz", "-o", "out", *EMT)
    assert code == 0
    assert "Fm-3m (225)" in out
    (row,) = json.loads((tmp_path / "out" / "elastic.json").read_text())
    assert np.shape(row["tensor_GPa"]) == (6, 6)
    assert len(list((tmp_path / "out").glob("*.png"))) == 1


def test_dimer(m3pot, tmp_path):
    code, out, _ = m3pot("dimer", "Cu-Al", "Al", "--points", 40, "-o", "out", *EMT)
    assert code == 0
    assert "Cu-Al" in out
    assert (tmp_path / "out" / "dimer.png").exists()
    code, out, err = m3pot("dimer", "Qq", *EMT)
    assert (code, out) == (2, "")
    assert "pair of elements" in err


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_phonons(m3pot, tmp_path):
    pytest.importorskip("phonopy")
    ase.io.write(tmp_path / "cu.xyz", bulk("Cu"), format="extxyz")
    code, out, err = m3pot("phonons", "cu.xyz", "--supercell", "3,3,3", "--mesh", 15, "-o", "out", "--json", *EMT)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["stable"] is True
    assert len(found["thermal"]) == 101
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"phonons.png", "thermal.png", "thermal.csv"}
    code, _, err = m3pot("phonons", "cu.xyz", "--supercell", "3,3", *EMT)
    assert code == 2
    assert "three whole numbers" in err


def test_formation(m3pot, tmp_path):
    structures = {"Cu": bulk("Cu"), "Au": bulk("Au"), "CuAu": bulk("Cu", cubic=True, a=3.8)}
    structures["CuAu"].symbols[:2] = "Au"
    for name, atoms in structures.items():
        ase.io.write(tmp_path / f"{name}.xyz", atoms, format="extxyz")
    references = ("-r", "Cu.xyz", "-r", "Au.xyz", "--save-references", "hull.json")
    code, out, _ = m3pot("formation", "CuAu.xyz", *references, "--json", *EMT)
    assert code == 0
    (row,) = json.loads(out)
    assert row["formation_energy"] == pytest.approx(row["hull_distance"])
    assert -0.2 < row["formation_energy"] < 0
    code, again, _ = m3pot("formation", "CuAu.xyz", "-r", "hull.json", "--json", *EMT)
    assert json.loads(again) == json.loads(out)
    code, _, err = m3pot("formation", "CuAu.xyz", "-r", "hull.json", "--no-relax", *EMT)
    assert code == 2
    assert "one scale" in err


def test_neb_of_a_path_that_is_too_short(m3pot, tmp_path):
    start = bulk("Al", cubic=True)
    del start[0]
    end = start.copy()
    end[0].position = bulk("Al", cubic=True)[0].position
    ase.io.write(tmp_path / "a.xyz", start, format="extxyz")
    ase.io.write(tmp_path / "b.xyz", end, format="extxyz")
    code, _, err = m3pot("neb", "a.xyz", "b.xyz", "--images", 3, "-n", 2, "--no-relax", "-o", "out", *EMT)
    assert code == 1
    assert "not converged" in err
    assert (tmp_path / "out" / "neb.extxyz").exists()


def test_bench(m3pot, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/usr/bin/m3pot", "bench", "speed"])
    code, out, err = m3pot(
        "bench", "speed", "--sizes", 8, "--calls", 1, "-o", "out", "-m", "ase.calculators.lj:LennardJones"
    )
    assert code == 0, err
    assert "lj_LennardJones" in out
    assert json.loads((tmp_path / "out" / "speed.json").read_text())["command"] == "m3pot bench speed"
    code, _, err = m3pot("bench", "speed", "--sizes", "a", *EMT)
    assert code == 2
    assert "Expected sizes" in err
