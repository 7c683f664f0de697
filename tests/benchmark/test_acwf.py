import json

import numpy as np
import pytest
from ase.calculators.emt import EMT

from m3pot.benchmark import acwf as module
from m3pot.benchmark.contender import Contender
from m3pot.benchmark.periodic_table import box
from m3pot.benchmark.run import run
from m3pot.properties.eos import BirchMurnaghan, fit_birch_murnaghan
from m3pot.units import GPA

CURVE = BirchMurnaghan(60.0, 0.0, 100 * GPA, 4.5)


def test_a_curve_against_itself():
    found = module.compare(CURVE, CURVE, 3)
    assert found == {"dV0": 0, "dB0": 0, "dB1": 0, "epsilon": 0, "delta_meV": 0, "nu": 0}


def test_metrics_of_a_shifted_curve():
    """A shift dV of a parabola changes E by B/V0 (V - V0) dV: delta and epsilon follow by hand."""
    shifted = CURVE._replace(volume=60.06)
    found = module.compare(shifted, CURVE, 3)
    stiffness, half = CURVE.bulk_modulus / 60, 3.6  # of the scan
    assert found["dV0"] == pytest.approx(1e-3)
    assert found["nu"] == pytest.approx(0.1, rel=1e-3)
    assert found["delta_meV"] == pytest.approx(1000 * stiffness * 0.06 * half / np.sqrt(3) / 3, rel=0.02)
    spread = stiffness / 2 * half**2 * np.sqrt(1 / 5 - 1 / 9)
    assert found["epsilon"] == pytest.approx(stiffness * 0.06 * half / np.sqrt(3) / spread, rel=0.05)


def test_our_fit_of_the_vasp_points_is_the_published_one(shared_data):
    crystals = module.read(shared_data("acwf/acwf_oxides_pbe.json.gz"))
    assert len(crystals) == 576
    for name in ("Mg-XO", "Al-X2O3", "Ti-XO2", "Na-X2O"):
        crystal = crystals[name]
        fit = fit_birch_murnaghan(crystal["volumes_A3"], crystal["energies_eV"])
        known = crystal["vasp_fit"]
        assert fit.volume == pytest.approx(known["V0_A3"], rel=2e-5)
        assert fit.bulk_modulus / GPA == pytest.approx(known["B0_GPa"], rel=2e-4)
        assert fit.derivative == pytest.approx(known["B1"], rel=5e-3)


def test_a_run_with_a_calculator(shared_data, tmp_path, monkeypatch):
    monkeypatch.setenv("M3POT_DATA", str(shared_data("acwf").parent))
    benchmark = module.acwf(elements=["Cu", "Na"])
    assert len(benchmark.items) == 12
    outcome = run(benchmark, [Contender("EMT", "emt", EMT)], tmp_path)
    vasp, emt = outcome.summaries
    assert vasp["median_V0_percent"] < 0.5
    assert emt["failed"] >= 6  # EMT knows no Na
    document = json.loads((tmp_path / "acwf.json").read_text())
    assert len(document["rows"]["EMT"]) == 12
    assert (tmp_path / "acwf_EMT.png").stat().st_size > 1000


def test_every_element_has_its_box():
    boxes = [box(number) for number in range(1, 119)]
    assert len(set(boxes)) == 118
    assert [box(z) for z in (1, 2, 5, 26, 57, 72, 86, 104)] == [
        (0, 0),
        (0, 17),
        (1, 12),
        (3, 7),
        (7.5, 2),
        (5, 3),
        (5, 17),
        (6, 3),
    ]
