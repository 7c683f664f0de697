import csv
import json

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

ARGUMENTS = ("--steps", 3, "--max-edges", 1024)


@pytest.fixture
def inputs(tmp_path):
    salt = bulk("NaCl", "rocksalt", a=5.6)
    salt.rattle(0.1, seed=0)
    ase.io.write(tmp_path / "salt.cif", salt)
    ase.io.write(tmp_path / "many.extxyz", [bulk("Cu"), Atoms("Fm", cell=[4, 4, 4], pbc=True), bulk("Si")])
    (tmp_path / "broken.cif").write_text("")
    return tmp_path


def test_files_in_the_order_of_the_input(m3pot, model, inputs):
    arguments = ("relax", "many.extxyz", "broken.cif", "salt.cif", "-o", "out.extxyz", "-m", model, "--mattergen", "mg")
    code, out, err = m3pot(*arguments, *ARGUMENTS)
    assert code in (1, 2)
    assert "broken.cif: failed: the file is empty." in err
    assert "many.extxyz@1: unsupported_element: Fm has elements" in err
    with open("out.csv") as file:
        rows = list(csv.DictReader(file))
    names = ["many.extxyz@0", "many.extxyz@1", "many.extxyz@2", "broken.cif", "salt.cif"]
    assert [row["name"] for row in rows] == names
    assert all(name in out for name in names)
    frames = ase.io.read("out.extxyz", ":")
    assert [a.info["name"] for a in frames] == [*names[:3], names[4]]
    assert len(ase.io.read("mg/structures.extxyz", ":")) == len(np.load("mg/energies.npy"))
    code, out, err = m3pot(*arguments, *ARGUMENTS, "--resume")
    assert (code, out) == (0, "")
    assert "complete" in err


def test_json_trajectory_and_the_route_of_ase(m3pot, model, inputs):
    for engine in ("batch", "ase"):
        arguments = ("relax", "salt.cif", "-m", model, "--json", "--cell", "fixed", "--minimizer", "fire")
        code, out, _ = m3pot(*arguments, "--engine", engine, "--trajectory", "path", "--dtype", "float64", *ARGUMENTS)
        (row,) = json.loads(out)
        assert row["steps"] <= 3
        assert code in (0, 2)
        if engine == "batch":
            batch = row
    assert row["energy"] == pytest.approx(batch["energy"], abs=1e-5)
    assert len(ase.io.read("path/000000.extxyz", ":")) == batch["steps"] + 1


def test_usage(m3pot, model, inputs):
    code, _, err = m3pot("relax", "salt.cif", "-m", model, "--mask", "xx,zx")
    assert code == 2
    assert "xx, yy, zz, yz, xz, xy" in err
    code, _, err = m3pot("relax", "salt.cif", "-m", model, "-o", "out.cif")
    assert code == 2
    assert ".extxyz" in err
