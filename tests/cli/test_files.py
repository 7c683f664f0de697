import zipfile

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from pymatgen.core import Lattice, Structure

from m3pot.cli import files
from m3pot.structure import StructureError

FRAMES = [bulk("Cu"), bulk("Si"), bulk("NaCl", "rocksalt", a=5.6)]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def formulas(*patterns: str) -> list[tuple[str, str]]:
    return [(e.name, e.atoms.get_chemical_formula() if e.atoms else e.reason) for e in files.read(patterns)]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.cif", {}),
        ("a.cif.gz", {"format": "cif"}),
        ("a.vasp", {"format": "vasp"}),
        ("POSCAR_x", {"format": "vasp"}),
        ("a.xyz", {"format": "extxyz"}),
        ("a.traj", {}),
        ("a.xsf", {}),
        ("a.json", {}),
    ],
)
def test_formats_through_ase(name, options):
    ase.io.write(name, FRAMES[2], **options)
    ((found, formula),) = formulas(name)
    assert (found, formula) == (name, "ClNa")


@pytest.mark.parametrize("name", ["a.json", "b.cif", "POSCAR"])
def test_files_of_pymatgen(name):
    Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]).to(name)
    assert formulas(name) == [(name, "ClNa")]


def test_many_frames_carry_their_number():
    ase.io.write("a.extxyz", FRAMES)
    assert formulas("a.extxyz") == [("a.extxyz@0", "Cu"), ("a.extxyz@1", "Si2"), ("a.extxyz@2", "ClNa")]
    assert files.read_one("a.extxyz").get_chemical_formula() == "ClNa"


def test_order_of_files_globs_and_folders(folder):
    (folder / "d").mkdir()
    for k in (10, 9, 1):
        ase.io.write(f"d/s{k}.cif", FRAMES[0])
    (folder / "d" / "notes.txt").write_text("not a structure")
    ase.io.write("a.cif", FRAMES[1])
    names = [path.as_posix() for path in files.find(["d", "a.cif", "d/s1*.cif"])]
    assert names == ["d/s1.cif", "d/s9.cif", "d/s10.cif", "a.cif", "d/s1.cif", "d/s10.cif"]


def test_zip_of_structures():
    ase.io.write("a.cif", FRAMES[0])
    ase.io.write("b.extxyz", FRAMES)
    with zipfile.ZipFile("g.zip", "w") as archive:
        for name in ("b.extxyz", "a.cif"):
            archive.write(name)
        archive.writestr("readme.md", "text")
    assert [name for name, _ in formulas("g.zip")] == [
        "g.zip/a.cif",
        "g.zip/b.extxyz@0",
        "g.zip/b.extxyz@1",
        "g.zip/b.extxyz@2",
    ]


DISORDERED = Structure(Lattice.cubic(4), [{"Na": 0.5, "K": 0.5}, "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
VACANT = Structure(Lattice.cubic(4), [{"Na": 0.8}, "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


@pytest.mark.parametrize("structure", [DISORDERED, VACANT])
@pytest.mark.parametrize("name", ["a.cif", "a.json"])
def test_shared_and_partly_occupied_sites_are_refused(structure, name):
    structure.to(name)
    (entry,) = files.read([name])
    assert entry.atoms is None
    assert "ordered cell" in entry.reason


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.cif", b"", "empty"),
        ("a.cif", b"\x80\x04\x95garbage\xff\x00", "repair"),
        ("a.xyz", bytes(range(256)), "use cif"),
        ("a.xyz", b"just words\nand more\n", "use cif"),
        ("a.traj", b"no trajectory", "use cif"),
        ("a.json", b"{}", "repair"),
        ("a.pkl", b"cos\nsystem\n(S'touch bad'\ntR.", "use cif"),
    ],
)
def test_unreadable_files_give_a_reason(folder, name, content, reason):
    (folder / name).write_bytes(content)
    ((_, found),) = formulas(name)
    assert reason in found
    assert found.endswith(".")
    assert "\n" not in found
    assert not (folder / "bad").exists()


def test_a_file_that_breaks_off_keeps_its_whole_frames(folder):
    ase.io.write("a.extxyz", FRAMES)
    text = (folder / "a.extxyz").read_text().splitlines()
    (folder / "a.extxyz").write_text("\n".join(text[:-1]))
    found = formulas("a.extxyz")
    assert found[:2] == [("a.extxyz@0", "Cu"), ("a.extxyz@1", "Si2")]
    assert "frame 2 cannot be read" in found[2][1]
    with pytest.raises(StructureError, match="frame 2"):
        files.read_one("a.extxyz")


@pytest.mark.parametrize("pattern", ["nope.cif", "*.nope", "empty_folder"])
def test_nothing_there_is_an_error_at_once(folder, pattern):
    (folder / "empty_folder").mkdir()
    with pytest.raises(FileNotFoundError, match=r"give structure files"):
        files.read([pattern])


def test_what_cannot_be_stored_is_dropped():
    Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]).to("a.cif")
    atoms = files.read_one("a.cif")
    assert atoms.info == {}
    assert set(atoms.arrays) == {"numbers", "positions"}


def test_replacing_is_all_or_nothing(folder):
    target = folder / "new" / "out.txt"

    def write(text: str, error: BaseException | None = None) -> None:
        with files.replacing(target) as path:
            path.write_text(text)
            assert not target.exists() or target.read_text() != text
            if error is not None:
                raise error

    write("one")
    assert target.read_text() == "one"
    with pytest.raises(RuntimeError):
        write("two", RuntimeError())
    assert target.read_text() == "one"
    with pytest.raises(KeyboardInterrupt):
        write("three", KeyboardInterrupt())
    assert target.read_text() == "three"
    assert [p.name for p in target.parent.iterdir()] == ["out.txt"]


def test_atoms_without_cell():
    ase.io.write("a.xyz", Atoms("H2", positions=np.eye(3)[:2]))
    assert not files.read_one("a.xyz").pbc.any()


def test_a_data_set_stands_for_its_files(folder, monkeypatch):
    ase.io.write("crystals.extxyz", FRAMES)
    monkeypatch.setattr("m3pot.data.manifest.available", lambda: {"mine": None})
    monkeypatch.setattr("m3pot.data.manifest.find_set", lambda name: name)
    monkeypatch.setattr("m3pot.data.manifest.locate", lambda found: [folder / "crystals.extxyz"])
    assert [formula for _, formula in formulas("mine")] == ["Cu", "Si2", "ClNa"]
    with pytest.raises(FileNotFoundError, match="names of data sets"):
        files.find(["yours"])
