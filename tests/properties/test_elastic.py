import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from m3pot.properties.elastic import Elasticity, deformed, elastic, point_group, symmetrised
from m3pot.properties.eos import eos
from m3pot.structure import StructureError
from tests.helpers import random_potential


def isotropic(bulk_modulus: float, shear: float) -> np.ndarray:
    tensor = np.diag([2.0 * shear] * 3 + [shear] * 3)
    tensor[:3, :3] += bulk_modulus - 2 * shear / 3
    return tensor


def test_averages_of_an_isotropic_solid():
    found = Elasticity(bulk("Cu"), isotropic(0.9, 0.4), "", 0.0, 0.0)
    for value, expected in ((found.bulk_voigt, 0.9), (found.bulk_reuss, 0.9), (found.shear_voigt, 0.4)):
        assert value == pytest.approx(expected)
    assert found.shear_reuss == pytest.approx(0.4)
    assert found.anisotropy == pytest.approx(0, abs=1e-12)
    assert found.young == pytest.approx(9 * 0.9 * 0.4 / (2.7 + 0.4))
    assert found.poisson == pytest.approx(found.young / 0.8 - 1)  # E = 2 G (1 + nu)
    assert found.eigenvalues == pytest.approx([0.8] * 5 + [2.7])
    assert found.stable
    assert not Elasticity(bulk("Cu"), isotropic(0.9, -0.1), "", 0.0, 0.0).stable


@pytest.mark.parametrize(
    ("atoms", "constants"),
    [(bulk("Cu"), 3), (bulk("Ti"), 5), (bulk("Sn", "bct", a=5.8, c=3.2), 6), (bulk("NaCl", "rocksalt", a=5.6), 3)],
)
def test_symmetry_leaves_as_many_constants_as_it_should(atoms, constants):
    rotations, _ = point_group(atoms)
    noise = np.random.default_rng(0).normal(size=(40, 6, 6))
    tensors = np.array([symmetrised(x, rotations) for x in noise]).reshape(40, 36)
    assert np.linalg.matrix_rank(tensors, tol=1e-8) == constants
    again = symmetrised(tensors[0].reshape(6, 6), rotations)
    np.testing.assert_allclose(again.ravel(), tensors[0], atol=1e-12)


def test_the_bulk_modulus_is_that_of_the_equation_of_state():
    found = elastic(bulk("Cu"), EMT())
    (curve,) = eos(found.atoms, EMT(), strain=0.02)
    assert found.bulk == pytest.approx(curve.fit.bulk_modulus, rel=2e-3)
    assert found.bulk_voigt == pytest.approx(found.bulk_reuss)  # cubic
    assert "225" in found.spacegroup
    assert found.asymmetry < 1e-3
    assert found.stable
    assert found.summary()["reason"] == ""


def test_strained_cells_relaxed_with_one_calculator_keep_their_own_results():
    primitive, conventional = (elastic(bulk("Cu", cubic=cubic), EMT()) for cubic in (False, True))
    np.testing.assert_allclose(conventional.tensor, primitive.tensor, atol=1e-4)
    (rigid,), (relaxed,) = (eos(bulk("Cu", cubic=True), EMT(), relax=relax) for relax in ("none", "ions"))
    np.testing.assert_allclose(relaxed.energies, rigid.energies, atol=1e-6)
    np.testing.assert_allclose(relaxed.pressures, rigid.pressures, atol=1e-6)


def test_stress_strain_is_the_curvature_of_the_energy():
    start = bulk("Cu", cubic=True)
    start[0].symbol = "Au"
    atoms = elastic(start, EMT(), relax_ions=False).atoms
    found = elastic(atoms, EMT(), relax=False, relax_ions=False)
    h = 0.01
    for k in (0, 3):
        energies = []
        for amount in (-h, 0, h):
            strained = deformed(atoms, k, amount)
            strained.calc = EMT()
            energies.append(strained.get_potential_energy())
        curvature = (energies[0] - 2 * energies[1] + energies[2]) / h**2 / atoms.cell.volume
        assert found.tensor[k, k] == pytest.approx(curvature, rel=0.02)


def test_ions_that_follow_make_it_softer():
    atoms = Atoms("CuAuCu", cell=[2.6, 2.7, 8.0], positions=[[0, 0, 0], [1.3, 1.35, 2.4], [0, 0, 5.0]], pbc=True)
    stiff = elastic(atoms, EMT(), relax_ions=False)
    soft = elastic(stiff.atoms, EMT(), relax=False)
    assert (np.linalg.eigvalsh(stiff.tensor - soft.tensor) > -1e-3).all()
    assert np.abs(stiff.tensor - soft.tensor).max() > 1e-3


def test_a_potential_under_stress_warns():
    atoms = bulk("NaCl", "rocksalt", a=5.0)
    found = elastic(atoms, random_potential("matgl", units=4, blocks=1), relax=False, relax_ions=False)
    assert found.tensor[0, 0] == pytest.approx(found.tensor[2, 2])
    assert found.tensor[0, 3] == pytest.approx(0, abs=1e-9)
    assert "under stress" in found.reason


def test_a_slab_has_none():
    with pytest.raises(StructureError, match="need a crystal"):
        elastic(Atoms("Cu", cell=[2.5, 2.5, 10], pbc=(True, True, False)), EMT())
