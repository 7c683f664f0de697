import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from m3pot.benchmark import solids
from m3pot.benchmark.contender import Contender
from m3pot.benchmark.dimer import dimer
from m3pot.benchmark.elastic import COLUMNS, elastic
from m3pot.benchmark.equilibrium import equilibrium
from m3pot.benchmark.run import run
from m3pot.benchmark.speed import speed

EMT_ONLY = [Contender("EMT", "emt", EMT)]


def test_elastic_against_experiment(tmp_path):
    chosen = {name: solid for name, solid in solids.simple().items() if name in ("Cu", "Si")}
    outcome = run(elastic(chosen), EMT_ONLY, tmp_path)
    rows = {row["name"]: row for row in outcome.rows["EMT"]}
    assert rows["Si"]["status"] == "failed"  # EMT knows no Si
    copper = rows["Cu"]
    assert copper["C11_GPa_error"] == pytest.approx(copper["C11_GPa"] - 168.4)
    assert copper["bulk_GPa"] == pytest.approx((copper["C11_GPa"] + 2 * copper["C12_GPa"]) / 3)
    assert outcome.summaries[0]["bulk_GPa_mae"] == pytest.approx(abs(copper["bulk_GPa_error"]))
    assert (tmp_path / "elastic.png").exists()


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
