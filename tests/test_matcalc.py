"""matcalc's property calculators run unchanged on M3PotCalculator and agree with the properties of this package.

Not part of ``.[test]``: ``pip install '.[test,peers]' && pytest -m matcalc``. Skipped where matcalc is absent.
"""

import numpy as np
import pytest
from ase.build import bulk

import m3pot
from m3pot.properties import elastic, eos, phonons
from m3pot.units import GPA

pytestmark = [
    pytest.mark.matcalc,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of matcalc, and of the packages that it imports
    pytest.mark.filterwarnings("ignore:Elastic strain-stress fits:RuntimeWarning"),  # of components that are zero
    pytest.mark.filterwarnings("ignore:.*acoustic mode.* at Gamma"),  # matcalc leaves them in phonopy's sums
]
PRIMITIVE = {"Si": ("diamond", 5.43), "NaCl": ("rocksalt", 5.7)}


@pytest.fixture(scope="module")
def matcalc():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")  # importing matcalc asks Hugging Face for its models
        return pytest.importorskip("matcalc", reason="matcalc is not installed: pip install '.[test,peers]'")


@pytest.fixture(scope="module")
def calculator(matcalc):
    return m3pot.M3PotCalculator(dtype="float64")


@pytest.fixture(scope="module", params=PRIMITIVE)
def crystal(request, calculator):
    """Relaxed by this package."""
    name, (kind, a) = request.param, PRIMITIVE[request.param]
    (done,) = m3pot.relax([bulk(name, kind, a)], fmax=1e-4, smax=1e-5, dtype="float64", fix_symmetry=True)
    assert done.status == "converged"
    return done.atoms


def test_relaxation(matcalc, calculator, crystal):
    start = crystal.copy()
    start.set_cell(start.cell * 1.02, scale_atoms=True)
    start.rattle(0.03, seed=0)
    found = matcalc.RelaxCalc(calculator, optimizer="BFGS", fmax=1e-3).calc(start)
    assert found["is_converged"]
    assert [found[key] for key in "abc"] == pytest.approx(crystal.cell.lengths(), abs=2e-3)
    assert found["energy"] == pytest.approx(crystal.get_potential_energy(), abs=1e-5)


def test_equation_of_state(matcalc, calculator, crystal):
    task = matcalc.EOSCalc(
        calculator, max_abs_strain=0.02, n_points=7, relax_structure=False, allow_shape_change=False, fmax=0.01
    )
    found = task.calc(crystal)
    (ours,) = eos([crystal], volumes=[found["eos"]["volumes"]])
    assert found["eos"]["energies"] == pytest.approx(ours.energies, abs=1e-6)
    assert found["bulk_modulus_bm"] == pytest.approx(ours.fit.bulk_modulus / GPA, rel=5e-3)


@pytest.mark.parametrize("relaxed", [False, True], ids=["clamped", "relaxed"])
def test_elastic_tensor(matcalc, calculator, crystal, relaxed):
    strains = (-0.005, 0.005)
    task = matcalc.ElasticityCalc(
        calculator,
        norm_strains=strains,
        shear_strains=strains,
        fmax=1e-3,
        relax_structure=False,
        relax_deformed_structures=relaxed,
        units_GPa=True,
    )
    found = task.calc(crystal)
    ours = elastic(crystal, calculator, relax=False, relax_ions=relaxed)
    assert found["bulk_modulus_vrh"] == pytest.approx(ours.bulk / GPA, rel=0.01)
    assert found["shear_modulus_vrh"] == pytest.approx(ours.shear / GPA, rel=0.02)
    tensor = ours.tensor / GPA
    assert np.array(found["elastic_tensor"].voigt) == pytest.approx(tensor, abs=0.02 * tensor.max())


def test_phonons(matcalc, calculator, crystal):
    task = matcalc.PhononCalc(
        calculator, supercell_matrix=2 * np.eye(3, dtype=int), relax_structure=False, t_step=100, write_phonon=False
    )
    found = task.calc(crystal)
    ours = phonons(crystal, calculator, supercell=(2, 2, 2), relax=False, temperatures=(100, 300))
    assert found["frequencies"].max() == pytest.approx(ours.highest, rel=5e-3)
    thermal = found["thermal_properties"]
    heat = dict(zip(thermal["temperatures"], thermal["heat_capacity"], strict=True))
    for temperature in (100, 300):
        assert heat[temperature] == pytest.approx(ours.at(ours.heat_capacity, temperature), rel=5e-3)


def test_molecular_dynamics(matcalc, calculator, crystal):
    task = matcalc.MDCalc(
        calculator, ensemble="nve", temperature=600, timestep=1.0, steps=60, frames=60, seed=0, relax_structure=False
    )
    frames = task.calc(crystal)["trajectory"]
    totals, kinetic = np.array([(a.get_total_energy(), a.get_kinetic_energy()) for a in frames]).T
    assert np.ptp(kinetic) > 0.01
    assert np.ptp(totals) < 0.02 * np.ptp(kinetic)
