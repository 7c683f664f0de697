import json

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from m3pot.benchmark import solids
from m3pot.benchmark.contender import Contender
from m3pot.benchmark.dimer import dimer
from m3pot.benchmark.efs import efs
from m3pot.benchmark.elastic import COLUMNS, elastic
from m3pot.benchmark.equilibrium import equilibrium
from m3pot.benchmark.phonon import phonon
from m3pot.benchmark.run import run
from m3pot.benchmark.speed import speed
from tests.helpers import random_potential

EMT_ONLY = [Contender("EMT", "emt", EMT)]


def test_elastic_against_published_pbe(tmp_path):
    chosen = {name: solid for name, solid in solids.elastic_pbe().items() if name in ("Cu", "Si")}
    outcome = run(elastic(chosen), EMT_ONLY, tmp_path)
    rows = {row["name"]: row for row in outcome.rows["EMT"]}
    assert rows["Si"]["status"] == "failed"  # EMT knows no Si
    copper = rows["Cu"]
    assert copper["a"] == pytest.approx(3.59, abs=0.01)  # EMT
    assert copper["a_error"] == pytest.approx(copper["a"] - 3.6293)
    assert copper["C11_GPa_error"] == pytest.approx(copper["C11_GPa"] - 146.432)
    assert "mp-30" in copper["source"]
    assert copper["bulk_GPa"] == pytest.approx((copper["C11_GPa"] + 2 * copper["C12_GPa"]) / 3)
    assert outcome.summaries[0]["bulk_GPa_mae"] == pytest.approx(abs(copper["bulk_GPa_error"]))
    assert (tmp_path / "elastic.png").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_phonons_at_the_zone_boundary(tmp_path):
    pytest.importorskip("phonopy")
    chosen = {name: solid for name, solid in solids.phonon_pbe().items() if name in ("Al", "Si")}
    outcome = run(phonon(chosen), EMT_ONLY, tmp_path)
    rows = {row["name"]: row for row in outcome.rows["EMT"]}
    assert rows["Si"]["status"] == "failed"
    aluminium = rows["Al"]
    assert aluminium["supercell"] == [[2, 0, 0], [0, 2, 0], [0, 0, 2]]
    assert aluminium["Gamma_highest_THz"] == pytest.approx(0, abs=1e-3)  # one atom: acoustic branches only
    assert 0 < aluminium["X_lowest_THz"] < aluminium["X_highest_THz"] <= aluminium["highest_THz"]
    assert aluminium["L_highest_THz_error"] == pytest.approx(aluminium["L_highest_THz"] - 9.706)
    assert (tmp_path / "phonon.png").exists()


def test_efs_of_a_file(tmp_path):
    frames = [bulk("Cu", cubic=True) * (1, 1, k) for k in (1, 2)]
    for k, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=k)
        atoms.calc = EMT()
        atoms.get_forces(), atoms.get_stress()
    path = tmp_path / "labelled.extxyz"
    ase.io.write(path, frames)
    models = [*EMT_ONLY, Contender("random", "random", lambda: random_potential("matgl", units=4, blocks=1))]
    outcome = run(efs([str(path)], dtype="float64"), models, tmp_path)
    itself, other = outcome.summaries
    assert itself["labelled.extxyz: forces_mae"] == pytest.approx(0, abs=1e-6)
    assert other["labelled.extxyz: forces_mae"] > 0.01
    assert (tmp_path / "efs.png").exists()
    again = run(efs([str(path)], dtype="float64"), models, tmp_path, resume=True)
    assert again.rows == outcome.rows


def test_records_of_matcalc(tmp_path):
    from pymatgen.io.ase import AseAtomsAdaptor

    structure = AseAtomsAdaptor.get_structure(bulk("Cu")).as_dict()
    record = {"mp_id": "mp-30", "structure": structure, "bulk_modulus_vrh": 145.0, "shear_modulus_vrh": None}
    path = tmp_path / "data.json"
    path.write_text(json.dumps([record]))
    ((name, solid),) = solids.read(path, COLUMNS).items()
    assert (name, solid.reference) == ("mp-30", {"bulk_GPa": 145.0})
    assert solid.atoms.get_chemical_formula() == "Cu"
    path.write_text('{"a": 1}')
    with pytest.raises(ValueError, match="not a list of crystals"):
        solids.read(path, COLUMNS)


def test_equilibrium_finds_the_minimum(tmp_path):
    structures = {"Cu": bulk("Cu", a=3.7), "overlap": Atoms("Cu2", cell=[3, 3, 3], pbc=True)}
    outcome = run(equilibrium(structures), EMT_ONLY, tmp_path)
    copper, broken = outcome.rows["EMT"]
    assert copper["volume_change"] == pytest.approx((3.59 / 3.7) ** 3 - 1, abs=0.01)  # EMT: 3.59 A
    assert broken["status"] == "failed"
    assert outcome.summaries[0]["failed"] == 1


def test_dimers_of_some_elements(shared_data, tmp_path, monkeypatch):
    monkeypatch.setenv("M3POT_DATA", str(shared_data("dimers").parent))
    outcome = run(dimer(elements=["Cu", "N", "U"]), EMT_ONLY, tmp_path)
    rows = {row["name"]: row for row in outcome.rows["EMT"]}
    assert rows["U"]["status"] == "failed"
    assert rows["N"]["bond_reference"] == pytest.approx(1.11, abs=0.05)
    assert rows["Cu"]["bond_reference"] == pytest.approx(2.22, abs=0.1)
    assert np.isfinite(rows["Cu"]["depth_error"])


def test_speed_counts_atoms(tmp_path, monkeypatch):
    from ase.calculators.lj import LennardJones

    outcome = run(speed([8], calls=2), [Contender("LJ", "lj", LennardJones)], tmp_path)
    (row,) = outcome.rows["LJ"]
    assert row["atoms"] == 8
    assert row["atoms_per_s"] == pytest.approx(8 / row["call_s"])
    with pytest.raises(ValueError, match="choose among them"):
        speed([7])
