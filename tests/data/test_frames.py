import dataclasses

import numpy as np
import pytest
from ase.units import GPa

from m3pot.data import frames as F
from m3pot.structure import labels_from_ase


def assert_same(a: F.Frames, b: F.Frames):
    for field in dataclasses.fields(F.Frames):
        np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name), err_msg=field.name)


@pytest.mark.parametrize("kind", ["npz", "hdf5"])
def test_files_keep_every_bit(frames, tmp_path, kind):
    write, read = {"npz": (F.write_npz, F.read_npz), "hdf5": (F.write_hdf5, F.read_hdf5)}[kind]
    write(frames, tmp_path / f"a.{kind}")
    assert_same(read(tmp_path / f"a.{kind}"), frames)
    assert [p.name for p in tmp_path.iterdir()] == [f"a.{kind}"]


def test_indexing_and_joining_agree_with_the_structures(frames, structures):
    picked = frames[[7, 2, 2]]
    for k, j in enumerate([7, 2, 2]):
        atoms = F.to_atoms(picked, k)
        np.testing.assert_array_equal(atoms.numbers, structures[j].numbers)
        np.testing.assert_array_equal(atoms.positions, structures[j].positions)
        labels = labels_from_ase(atoms)
        assert labels.energy[0] == frames.energy[j]
        np.testing.assert_array_equal(labels.forces, frames[j].forces)
        np.testing.assert_allclose(labels.stress[0], frames.stress[j], atol=1e-14)
    assert_same(F.concatenate([frames[:4], frames[4:4], frames[4:]]), frames)
    assert_same(frames[frames.n_atoms > 4], F.take(frames, np.flatnonzero(frames.n_atoms > 4)))
    assert_same(frames[-1], frames[len(frames) - 1 :])
    assert labels_from_ase(F.to_atoms(frames, 3)).energy[0] is not None
    assert np.isnan(labels_from_ase(F.to_atoms(frames, 3)).energy[0])


def test_teacher_shards_are_read(tmp_path):
    numbers = np.array([1, 8, 1], np.uint8)
    np.savez(
        tmp_path / "shard.npz",
        n_atoms=np.array([2, 1], np.int32),
        numbers=numbers,
        positions=np.arange(9.0, dtype=np.float32).reshape(3, 3),
        cell=np.tile(np.eye(3, dtype=np.float32), (2, 1, 1)),
        energy=np.array([-1.0, -2.0]),
        forces=np.ones((3, 3), np.float32),
        stress=np.ones((2, 3, 3), np.float32),
        kind=np.array([3, 0], np.int8),
        source=np.array([1, 0], np.int8),
        source_names=np.array(["pool", "extra"]),
        parent=np.array([17, -1], np.int32),
        group=np.array(["hot", "rare"]),
    )
    frames = F.read_npz(tmp_path / "shard.npz")
    assert frames.group.tolist() == ["17", ""]
    assert len(frames) == 2
    assert frames.pbc.all()
    assert frames.name.tolist() == ["extra/3/0", "pool/0/1"]
    assert frames.energy.tolist() == [-1, -2]


@pytest.mark.parametrize(
    ("unit", "sign", "factor"), [("eV/A^3", 1, 1), ("GPa", 1, GPa), ("kbar", -1, -0.1 * GPa), ("eV", -1, -1 / 24)]
)
@pytest.mark.parametrize("shape", [(6,), (9,), (3, 3)])
def test_stress_units_signs_and_shapes(unit, sign, factor, shape):
    full = np.array([[1.0, 6, 5], [6, 2, 4], [5, 4, 3]])
    stress = np.arange(1.0, 7) if shape == (6,) else full.reshape(shape)
    cell = np.diag([2.0, 3, -4])
    keys = F.Keys(stress_unit=unit, stress_sign=sign)
    np.testing.assert_allclose(F.convert_stress(stress, cell, keys), full * factor, rtol=1e-7)
    np.testing.assert_allclose(F.convert_stress(stress[None], cell[None], keys)[0], full * factor, rtol=1e-7)


def test_bad_input_says_what_is_wrong(frames, tmp_path):
    F.write_npz(frames, tmp_path / "a.npz")
    with pytest.raises(ValueError, match="dft_energy"):
        F.read_npz(tmp_path / "a.npz", F.Keys(energy="dft_energy"))
    with pytest.raises(ValueError, match="stress_unit"):
        F.read_npz(tmp_path / "a.npz", F.Keys(stress_unit="Pa"))
    np.savez(tmp_path / "b.npz", energy=np.zeros(3))
    with pytest.raises(ValueError, match=r"n_atoms.*found energy"):
        F.read_npz(tmp_path / "b.npz")
    with pytest.raises(ValueError, match="positions: expected shape"):
        F.make([2], [1, 1], np.zeros((3, 3)), np.zeros((1, 3, 3)))
    with pytest.raises(ValueError, match="atomic numbers"):
        F.make([1], [0], np.zeros((1, 3)), np.zeros((1, 3, 3)))


def test_a_failed_write_leaves_the_old_file(frames, tmp_path):
    path = tmp_path / "a.npz"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        F.write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
