import dataclasses
import functools

import numpy as np
import pytest
from ase.units import GPa, Hartree

from m3pot.data.consistency import judge, work
from m3pot.data.frames import Frames, concatenate, make
from m3pot.data.guard import LabelError, check, same_functional
from m3pot.data.readers import read
from tests.data.physics import labelled, rattled

change = dataclasses.replace


def shuffled(frames: Frames) -> Frames:
    return change(frames, forces=frames.forces[np.random.default_rng(1).permutation(len(frames.forces))])


MISTAKES = {
    "GPa": (lambda f: change(f, stress=f.stress / GPa), 'stress_unit = "GPa"'),
    "kbar": (lambda f: change(f, stress=f.stress / GPa * 10), 'stress_unit = "kbar"'),
    "kbar of VASP": (lambda f: change(f, stress=-f.stress / GPa * 10), 'stress_unit = "kbar", stress_sign = -1'),
    "sign of the stress": (lambda f: change(f, stress=-f.stress), "stress_sign = -1"),
    "per atom": (lambda f: change(f, energy=f.energy / f.n_atoms), "energies per atom"),
    "sign of the forces": (lambda f: change(f, forces=-f.forces), "multiply them by -1"),
    "energies in hartree": (lambda f: change(f, energy=f.energy / Hartree), "hartree"),
    "shuffled forces": (shuffled, "do not belong together"),
}


@functools.cache
def some(path) -> Frames:
    return read(path)[:300]


@pytest.fixture(scope="module")
def trajectory() -> Frames:
    """Two crystals, many frames each."""
    rng = np.random.default_rng(0)
    still = [rattled(s, 1, rng, amount=0) for s in (["Cu", "Au"], ["Ni"]) for _ in range(6)]
    return labelled(still + [rattled(s, 2, rng) for s in (["Cu", "Au"], ["Ni"]) for _ in range(6)])


@pytest.fixture(scope="module")
def singles() -> Frames:
    """Many crystals, one frame each."""
    rng = np.random.default_rng(1)
    metals = ["Cu", "Ni", "Al", "Au", "Pt", "Ag"]
    names = [list(rng.permutation(metals)[: k % 3 + 1]) for k in range(30)]
    frames = labelled([rattled(s, k % 4 + 1, rng, scale=1 - 0.1 * (k % 2)) for k, s in enumerate(names)])
    return change(frames, group=np.array([str(k) for k in range(len(frames))]))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_work_between_frames_of_a_crystal_finds_every_mistake(trajectory, mistake):
    breaking, remedy = MISTAKES[mistake]
    check(trajectory)
    assert judge(work(trajectory)).mismatch < 0.1
    with pytest.raises(LabelError, match="pairs of frames") as error:
        check(breaking(trajectory))
    assert remedy in str(error.value)
    check(breaking(trajectory), units=False)


@pytest.mark.parametrize(
    "mistake", ["GPa", "kbar", "kbar of VASP", "sign of the stress", "per atom", "shuffled forces"]
)
def test_sizes_find_mistakes_where_every_crystal_has_one_frame(singles, mistake):
    check(singles)
    assert judge(work(singles)).pairs == 0
    with pytest.raises(LabelError):
        check(MISTAKES[mistake][0](singles))


def test_a_few_compounds_under_pressure_with_long_bonds_are_no_mistake(singles):
    calm = concatenate([singles[np.abs(singles.stress).max((1, 2)) < 0.1]] * 12)
    assert len(calm) > 100
    stress = calm.stress.copy()
    stress[:4] = -0.5 * np.eye(3)
    check(change(calm, stress=stress, group=np.arange(len(calm)).astype(str)))


@pytest.mark.parametrize("mistake", sorted(set(MISTAKES) - {"shuffled forces", "energies in hartree"}))
def test_predictions_of_a_potential_find_mistakes_in_any_data(singles, mistake):
    few = singles[:12]
    rng = np.random.default_rng(0)

    def predict(frames: Frames) -> Frames:  # wrong by a third
        def blur(x):
            return x * (1 + 0.3 * rng.normal(size=x.shape))

        assert len(frames) == len(few)
        return change(few, energy=blur(few.energy), forces=blur(few.forces), stress=blur(few.stress))

    check(few, predict=predict)
    with pytest.raises(LabelError):
        check(MISTAKES[mistake][0](few), predict=predict)


@pytest.mark.parametrize("mistake", ["GPa", "kbar of VASP", "per atom"])
@pytest.mark.parametrize("name", ["dft/alexandria_random_500.extxyz.gz", "labels/nequix_oam_1_perturbed.npz"])
def test_sets_of_the_field(shared_data, name, mistake):
    frames = some(shared_data(name))
    check(frames)
    with pytest.raises(LabelError):
        check(MISTAKES[mistake][0](frames))


def test_labels_that_are_not_there_or_not_finite(trajectory):
    with pytest.raises(LabelError, match="no frames"):
        check(trajectory[:0])
    nothing = change(trajectory, energy=trajectory.energy * np.nan, forces=trajectory.forces * np.nan)
    with pytest.raises(LabelError, match="neither energies nor forces"):
        check(nothing)
    forces = trajectory.forces.copy()
    forces[trajectory.ptr[3]] = np.nan
    with pytest.raises(LabelError, match=r"Frame 3 has forces that are NaN"):
        check(change(trajectory, forces=forces))
    stress = trajectory.stress.copy()
    stress[[2, 5], 0, 1] = np.nan
    with pytest.raises(LabelError, match=r"Frame 2 and 1 more have a stress"):
        check(change(trajectory, stress=stress))
    energy = trajectory.energy.copy()
    energy[4] = -np.inf
    with pytest.raises(LabelError, match="infinite energy"):
        check(change(trajectory, energy=energy))
    missing = trajectory.energy.copy()
    missing[::2] = np.nan
    check(change(trajectory, energy=missing, stress=trajectory.stress * np.nan))


def test_elements_that_the_model_does_not_know(trajectory):
    with pytest.raises(LabelError, match=r"11 more have elements .*\(Ni\)"):
        check(trajectory, elements=frozenset({29, 79}))
    with pytest.raises(LabelError, match="Cm"):
        check(make([1], [96], [[0, 0, 0]], np.eye(3)[None] * 3, energy=[-5.0]))


def test_unusual_but_right_data_pass(trajectory):
    rng = np.random.default_rng(3)
    curve = []
    for scale in np.linspace(0.86, 1.06, 9):  # up to about 100 GPa, all forces zero
        atoms = rattled(["Pt"], 1, rng, amount=0, strain=0)
        atoms.set_cell(atoms.cell * scale, scale_atoms=True)
        curve.append(atoms)
    check(labelled(curve))
    molecules = [rattled(["Cu"], 1, rng) for _ in range(6)]
    for atoms in molecules:
        atoms.pbc, atoms.cell = False, None
    frames = change(labelled_without_stress(molecules))
    check(frames)
    relative = change(trajectory, energy=trajectory.energy - trajectory.energy.mean())
    check(relative)
    check(make([1, 1], [29, 28], np.zeros((2, 3)), np.eye(3)[None] * [[[3]], [[4]]], energy=[-3.7, -5.5]))


def labelled_without_stress(structures):
    from ase.calculators.emt import EMT

    energy, forces = [], []
    for atoms in structures:
        atoms.calc = EMT()
        energy.append(atoms.get_potential_energy())
        forces.append(atoms.get_forces())
    n = [len(a) for a in structures]
    positions = np.concatenate([a.positions for a in structures])
    numbers = np.concatenate([a.numbers for a in structures])
    cell, pbc = np.zeros((len(n), 3, 3)), np.zeros((len(n), 3), bool)
    return make(n, numbers, positions, cell, pbc=pbc, energy=energy, forces=np.concatenate(forces))


def test_a_set_of_other_units_is_found_beside_a_right_one(trajectory):
    """Why sources are checked one by one: together they are refused as well, but without the remedy."""
    wrong = MISTAKES["GPa"][0](change(trajectory, group=np.full(len(trajectory), "b")))
    with pytest.raises(LabelError, match="GPa"):
        check(wrong)
    check(concatenate([trajectory] * 3 + [wrong[:2]]))


def test_functionals_are_not_mixed():
    same_functional({"a": "PBE", "b": "PBE+U", "c": "", "d": "PBE/PBE+U", "e": "GGA"})
    with pytest.raises(LabelError, match=r"PBE \(a\) and r2SCAN \(b\)"):
        same_functional({"a": "PBE", "b": "r2SCAN"})
    with pytest.raises(LabelError, match="no U"):
        same_functional({"a": "PBE/PBE+U", "b": "PBE, no U"})
