import gzip
import io
import json
import zipfile

import ase.db
import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from m3pot.data.frames import Keys, convert_stress, to_atoms, write_hdf5, write_npz
from m3pot.data.guard import LabelError
from m3pot.data.json_items import json_items
from m3pot.data.readers import read
from m3pot.units import GPA

VOIGT = [0, 4, 8, 5, 2, 1]


@pytest.fixture
def crystals(frames):
    """Periodic frames with all labels, as ASE structures in one file."""
    keep = np.flatnonzero(frames.pbc.all(axis=1) & np.isfinite(frames.energy))[:6]
    return frames[keep]


@pytest.fixture
def extxyz(crystals, tmp_path):
    path = tmp_path / "labels.extxyz"
    ase.io.write(path, [to_atoms(crystals, k) for k in range(len(crystals))])
    return path


def assert_same(found, expected, atol=1e-7):
    np.testing.assert_array_equal(found.ptr, expected.ptr)
    np.testing.assert_array_equal(found.numbers, expected.numbers)
    np.testing.assert_array_equal(found.pbc, expected.pbc)
    for name in ("positions", "cell", "energy", "forces", "stress"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=atol, err_msg=name)


def test_extxyz(extxyz, crystals):
    count = []
    frames = read(extxyz, advance=count.append)
    assert_same(frames, crystals)
    assert frames.name[2] == "labels.extxyz@2"
    assert sum(count) == len(crystals)
    both = read([extxyz, str(extxyz)])
    assert len(both) == 2 * len(crystals)


def test_compressed_files_are_read_once_from_front_to_back(extxyz, crystals, monkeypatch):
    path = extxyz.with_name("labels.extxyz.gz")
    path.write_bytes(gzip.compress(extxyz.read_bytes()))

    def seek(*args):
        raise AssertionError("a compressed file is decompressed anew at each seek")

    monkeypatch.setattr(gzip.GzipFile, "seek", seek)
    assert_same(read(path), crystals)


def test_zip_of_one_file_per_crystal(extxyz, crystals, tmp_path):
    with zipfile.ZipFile(tmp_path / "all.extxyz.zip", "w") as archive:
        archive.writestr("set/mp-7.extxyz", extxyz.read_text())
        archive.writestr("set/readme.txt", "no structure")
    frames = read(tmp_path / "all.extxyz.zip")
    assert_same(frames, crystals)
    assert set(frames.group) == {"mp-7"}


def test_labels_under_other_names_and_in_other_units(crystals, tmp_path):
    structures = []
    for k in range(len(crystals)):
        atoms = to_atoms(crystals, k)
        results, atoms.calc = atoms.calc.results, None
        atoms.info |= {"dft_energy": results["energy"], "virial": -crystals.stress[k] * atoms.cell.volume}
        atoms.info |= {"parent": f"crystal {k // 2}", "kbar": -10 / GPA * results["stress"], "name": f"frame {k}"}
        atoms.arrays["dft_forces"] = results["forces"]
        structures.append(atoms)
    ase.io.write(tmp_path / "a.xyz", structures, format="extxyz")
    for stress, unit in (("kbar", "kbar"), ("virial", "eV")):
        keys = Keys("dft_energy", "dft_forces", stress, unit, -1)
        frames = read(tmp_path / "a.xyz", keys)
        assert_same(frames, crystals)
    assert frames.group.tolist() == [f"crystal {k // 2}" for k in range(len(crystals))]
    assert frames.name[1] == "frame 1"
    assert read(tmp_path / "a.xyz", keys, group_key="name").group[3] == "frame 3"
    with pytest.raises(LabelError, match=r"no labels.*dft_energy, dft_forces.*set energy_key"):
        read(tmp_path / "a.xyz")
    assert np.isnan(read(tmp_path / "a.xyz", labelled=False).energy).all()
    with pytest.raises(LabelError, match=r"no frame has stress under 'REF_stress'.*kbar.*correct stress_key"):
        read(tmp_path / "a.xyz", Keys("dft_energy", "dft_forces", "REF_stress"))


def as_dict(frames, k):
    """As pymatgen writes it."""
    from ase.data import chemical_symbols

    atoms = slice(frames.ptr[k], frames.ptr[k + 1])
    sites = [
        {"species": [{"element": chemical_symbols[z], "occu": 1}], "xyz": x.tolist(), "label": chemical_symbols[z]}
        for z, x in zip(frames.numbers[atoms], frames.positions[atoms], strict=True)
    ]
    return {"@class": "Structure", "lattice": {"matrix": frames.cell[k].tolist()}, "sites": sites}


def stress_of_vasp(frames, k):
    return -10 / GPA * frames.stress[k]


def mptrj(frames):
    table = {}
    for k in range(len(frames)):
        forces = frames.forces[frames.ptr[k] : frames.ptr[k + 1]].tolist()
        record = {"structure": as_dict(frames, k), "uncorrected_total_energy": frames.energy[k], "force": forces}
        record |= {"stress": stress_of_vasp(frames, k).tolist(), "magmom": None, "energy_per_atom": 1.0}
        table.setdefault(f"mp-{k // 2}", {})[f"mp-{k // 2}-0-{k}"] = record
    return table, Keys("uncorrected_total_energy", "force", "stress", "kbar", -1)


def matpes(frames):
    records = []
    for k in range(len(frames)):
        forces = frames.forces[frames.ptr[k] : frames.ptr[k + 1]].tolist()
        stress = stress_of_vasp(frames, k).reshape(9)[VOIGT].tolist()
        record = {"structure": as_dict(frames, k), "energy": frames.energy[k], "forces": forces, "stress": stress}
        records.append(record | {"matpes_id": f"matpes-{k}", "functional": "PBE", "material_id": f"mp-{k // 2}"})
    return records, Keys("energy", "forces", "stress", "kbar", -1)


def mlearn(frames):
    records, keys = matpes(frames)
    nested = [
        {"structure": r["structure"], "outputs": {k: r[k] for k in ("energy", "forces", "stress")}} for r in records
    ]
    return nested, keys._replace(energy="outputs.energy", forces="outputs.forces", stress="outputs.stress")


@pytest.mark.parametrize("dialect", [mptrj, matpes, mlearn])
@pytest.mark.parametrize("ending", [".json", ".json.gz", ".jsonl"])
def test_json_of_pymatgen_structures(crystals, tmp_path, dialect, ending):
    table, keys = dialect(crystals)
    text = json.dumps(table, indent=1)
    if ending == ".jsonl":
        entries = table if isinstance(table, list) else [{key: value} for key, value in table.items()]
        entries = [next(iter(e.values())) if dialect is mptrj else e for e in entries]
        text = "\n".join(map(json.dumps, entries)) + "\n\n"
    path = tmp_path / f"a{ending}"
    path.write_bytes(gzip.compress(text.encode()) if ending.endswith("gz") else text.encode())
    frames = read(path, keys)
    assert_same(frames, crystals)
    if dialect is not mlearn and ending != ".jsonl":
        assert frames.group.tolist() == [f"mp-{k // 2}" for k in range(len(crystals))]
        assert frames.name[1] == {"mptrj": "mp-0-0-1", "matpes": "matpes-1"}[dialect.__name__]


@pytest.mark.parametrize("chunk", [1, 7, 10**6])
@pytest.mark.parametrize(
    "value", [[], {}, [1, 23, 4.5e-3], {"a": [1, {"b": "]},"}], 'q"\\': None, "c": 12}, [[[]], {}]]
)
def test_json_entries_one_by_one(value, chunk):
    for text in (json.dumps(value), json.dumps(value, indent=2) + "\n"):
        found = list(json_items(io.StringIO(text), chunk))
        assert found == (list(value.items()) if isinstance(value, dict) else [("", v) for v in value])


@pytest.mark.parametrize("text", ["", "17", "[1, 2", '{"a" 1}', '{"a": 1', "[1 2]", "[1, nonsense]"])
def test_json_that_is_broken(text):
    with pytest.raises(ValueError, match=r"JSON|Expecting"):
        list(json_items(io.StringIO(text), 2))


@pytest.mark.parametrize("kind", ["db", "aselmdb"])
def test_ase_databases(crystals, tmp_path, kind):
    if kind == "aselmdb":
        pytest.importorskip("ase_db_backends", reason="reading .aselmdb needs ase-db-backends and lmdb")
    path = tmp_path / f"a.{kind}"
    database = ase.db.connect(str(path))
    for k in range(len(crystals)):
        atoms = to_atoms(crystals, k)
        data = {"other": {"energy": 2 * crystals.energy[k]}, "forces2": 2 * crystals[k].forces}
        database.write(atoms, parent=f"crystal {k // 2}", data=data)
    if hasattr(database, "close"):
        database.close()
    frames = read(path)
    assert_same(frames, crystals)
    assert frames.group[2] == "crystal 1"
    doubled = read(path, Keys("other.energy", "forces2"))
    np.testing.assert_allclose(doubled.energy, 2 * crystals.energy)
    np.testing.assert_allclose(doubled.forces, 2 * crystals.forces)


def test_arrays_and_folders(crystals, extxyz, tmp_path):
    write_npz(crystals, tmp_path / "shard_1.npz")
    write_hdf5(crystals[:2], tmp_path / "shard_2.h5")
    (tmp_path / "notes.txt").write_text("not data")
    frames = read(tmp_path)
    n = len(crystals)
    assert len(frames) == 2 * n + 2
    assert_same(frames[n : 2 * n], crystals, atol=0)
    assert_same(frames[2 * n :], crystals[:2], atol=0)
    write_npz(crystals[[]], tmp_path / "empty.npz")
    with pytest.raises(LabelError, match="no frames"):
        read(tmp_path / "empty.npz")


def test_partly_labelled_frames(crystals, tmp_path):
    first, second = (to_atoms(crystals, k) for k in (0, 1))
    first.calc = SinglePointCalculator(first, energy=-1.0)
    second.calc = SinglePointCalculator(second, forces=crystals[1].forces)
    ase.io.write(tmp_path / "a.extxyz", [first, second])
    frames = read(tmp_path / "a.extxyz")
    assert frames.energy[0] == -1
    assert np.isnan(frames.energy[1])
    assert np.isfinite(frames.forces).all(axis=1).tolist() == [False] * len(first) + [True] * len(second)
    assert np.isnan(frames.stress).all()


HEADER = 'Lattice="4 0 0 0 4 0 0 0 4" pbc="T T T" Properties=species:S:1:pos:R:3'


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.extxyz", f"1\n{HEADER} energy=nan\nCu 0 0 0\n", r"frame 0 .*energy is NaN.*remove this frame"),
        ("a.extxyz", f"1\n{HEADER}:forces:R:3 energy=1\nCu 0 0 0 0 inf 0\n", "forces is NaN or infinite"),
        ("a.extxyz", f"1\n{HEADER}:forces:R:1 energy=1\nCu 0 0 0 5\n", r"forces of shape \(1, 3\)"),
        ("a.extxyz", f"1\n{HEADER} energy=low\nCu 0 0 0\n", "energy under 'energy' is not numeric"),
        ("a.extxyz", "", "no frames"),
        ("a.extxyz", "what is this\n", "cannot be read"),
        ("a.extxyz", f"3\n{HEADER} energy=1\nCu 0 0 0\n", "cannot be read"),
        ("a.json", "{", "cannot be read"),
        ("a.json", '{"a": {"energy": 3}}', "neither"),
        ("a.json", "[]", "no frames"),
        ("a.npz", "text", "cannot be read"),
        ("a.h5", "text", "cannot be read"),
        ("a.db", "text", "cannot be read"),
        ("a.extxyz.gz", "text", "cannot be read"),
        ("a.pickle", "text", "Expected a file ending in"),
    ],
)
def test_bad_files_are_one_sentence(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read(path)
    assert str(path) in str(error.value)


def test_functionals_disorder_and_absent_files(crystals, tmp_path):
    records, keys = matpes(crystals)
    records[3]["functional"] = "r2SCAN"
    (tmp_path / "a.json").write_text(json.dumps(records))
    with pytest.raises(LabelError, match=r"mix functionals: PBE .*and r2SCAN .*frame 3"):
        read(tmp_path / "a.json", keys)
    records[0]["structure"]["sites"][0]["species"].append({"element": "H", "occu": 0.5})
    (tmp_path / "a.json").write_text(json.dumps(records[:1]))
    with pytest.raises(LabelError, match="shared by several species"):
        read(tmp_path / "a.json", keys)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read(tmp_path / "b.json")
    with pytest.raises(ValueError, match="has no files"):
        read(tmp_path.joinpath("empty").mkdir() or tmp_path / "empty")
    cut = gzip.compress(json.dumps(records[1:]).encode())[:-20]
    (tmp_path / "c.json.gz").write_bytes(cut)
    with pytest.raises(ValueError, match="cannot be read"):
        read(tmp_path / "c.json.gz", keys)


def test_stress_of_a_file_is_converted_once(crystals):
    keys = Keys(stress_unit="kbar", stress_sign=-1)
    np.testing.assert_allclose(convert_stress(stress_of_vasp(crystals, 0), crystals.cell[0], keys), crystals.stress[0])


def test_validation_sets(shared_data):
    frames = read(shared_data("dft/alexandria_random_500.extxyz.gz"), group_key="alexandria_id")
    assert len(frames) == 500
    assert frames.energy[0] == -17.52450881
    assert frames.stress[0, 0, 0] == pytest.approx(-0.0011608826242086182)
    assert frames.group[0] == "agm002190202"
