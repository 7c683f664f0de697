import hashlib

import numpy as np
import pytest

from m3pot.data import manifest as M
from m3pot.data.frames import Keys

TEXT = """
about = "two files"
format = "extxyz"
source = "here"
licence = "MIT"
citation = "nobody"
allowed_use = ["train", "validate"]
functional = "PBE"

[labels]
energy_key = "dft_energy"
stress_unit = "kbar"
stress_sign = -1
group_key = "parent"

[[files]]
path = "sub/a.txt"
sha256 = "{sha256}"

[[files]]
path = "b.txt"
size = 4
urls = ["https://example.org/b.txt"]
"""
GOOD = hashlib.sha256(b"hello").hexdigest()


@pytest.fixture
def dataset():
    return M.parse(TEXT.format(sha256=GOOD), "mine")


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """Two folders of the search path, and a home without data."""
    first, second = tmp_path / "first", tmp_path / "second"
    (second / "sub").mkdir(parents=True)
    first.mkdir()
    monkeypatch.setenv("M3POT_DATA", f"{first}:{second}")
    monkeypatch.setenv("M3POT_HOME", str(tmp_path / "home"))
    return first, second


def test_a_manifest_is_read(dataset):
    assert dataset.name == "mine"
    assert dataset.files[0] == M.File("sub/a.txt", GOOD)
    assert dataset.files[1] == M.File("b.txt", "", 4, ("https://example.org/b.txt",))
    assert dataset.keys == Keys(energy="dft_energy", stress_unit="kbar", stress_sign=-1)
    assert not dataset.verifiable
    M.require_use(dataset, "validate")
    with pytest.raises(M.DataError, match="mine is for train and validate only, not for benchmark"):
        M.require_use(dataset, "benchmark")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('licence = "MIT"', ""), r"no entries \['licence'\]"),
        (('licence = "MIT"', 'licence = "MIT"\nlicense = "MIT"'), r"unknown entries \['license'\]"),
        (('licence = "MIT"', "licence = MIT"), "not TOML"),
        (("{sha256}", "123"), "not 64 hex digits"),
        (('"train", "validate"', '"play"'), "allowed_use out of train"),
        (("energy_key", "energie"), "labels out of energy_key"),
        (("sub/a.txt", "/etc/a.txt"), "describes a file by"),
        (("sub/a.txt", "../a.txt"), "describes a file by"),
        (("size = 4", "bytes = 4"), "describes a file by"),
    ],
)
def test_a_wrong_manifest_is_refused(change, message):
    with pytest.raises(M.DataError, match=message):
        M.parse(TEXT.replace(*change).replace("{sha256}", GOOD), "mine")


def test_files_are_found_and_checked(dataset, disk):
    first, second = disk
    assert [s.status for s in M.verify(dataset)] == ["missing", "missing"]
    with pytest.raises(M.DataError, match=r"mine: sub/a.txt is in none of .*M3POT_DATA"):
        M.locate(dataset)
    (second / "sub" / "a.txt").write_text("hello")
    (second / "b.txt").write_text("1234")
    counted = []
    states = M.verify(dataset, counted.append)
    assert [s.status for s in states] == ["ok", "unverified"]
    assert sum(counted) == 9
    assert "not known" in states[1].sentence
    assert M.locate(dataset) == [second / "sub" / "a.txt", second / "b.txt"]
    (first / "b.txt").write_text("12345")  # an earlier folder of the path, of the wrong size
    assert [s.status for s in M.verify(dataset)] == ["ok", "wrong"]
    (first / "b.txt").unlink()
    (second / "sub" / "a.txt").write_text("hell0")
    with pytest.raises(M.DataError, match=f"expected {GOOD}.*damaged or another version"):
        M.locate(dataset)


def test_the_users_folder_is_searched_last(dataset, disk, tmp_path):
    assert M.folders() == [*disk, tmp_path / "home" / "data"]
    (tmp_path / "home" / "data").mkdir(parents=True)
    (tmp_path / "home" / "data" / "b.txt").write_text("1234")
    assert M.find_file(dataset.files[1]) == tmp_path / "home" / "data" / "b.txt"


def test_own_manifests(disk):
    path = disk[0] / "own.toml"
    path.write_text(TEXT.format(sha256=GOOD))
    assert M.find_set(path).name == "own"
    with pytest.raises(M.DataError, match="m3pot data list"):
        M.find_set("nothing of that name")


SETS = M.available()


@pytest.mark.parametrize("name", SETS)
def test_shipped_manifests_are_complete(name):
    dataset = SETS[name]
    assert dataset.about
    assert dataset.licence
    assert dataset.citation
    assert dataset.keys
    assert len({file.path for file in dataset.files}) == len(dataset.files)
    for file in dataset.files:
        assert all(url.startswith("https://") for url in file.urls)
        assert file.sha256 or file.urls, "a file without address and without sha256 cannot be told from another"
    if dataset.labels:
        assert dataset.functional
        assert dataset.energy_reference


def test_the_sets_of_the_field_are_there():
    assert {"mpf-2021.2.8", "mptrj", "matpes-pbe-2025.1", "matpes-r2scan-2025.1", "mattersim-benchmarks"} <= set(SETS)
    assert {"acwf-verification", "matcalc-benchmarks", "mlearn", "pool", "mptrj-random-500"} <= set(SETS)
    assert not SETS["mptrj"].verifiable
    assert "train" not in SETS["mptrj-random-500"].allowed_use


def test_files_on_disk_have_the_sha256_of_their_manifests(shared_data, monkeypatch):
    folder = shared_data("dft").parent
    monkeypatch.setenv("M3POT_DATA", str(folder))
    for name in ("mptrj-random-500", "alexandria-random-500", "heo-valid", "acwf-oxides", "diatomics-pbe", "golden"):
        assert {state.status for state in M.verify(SETS[name])} == {"ok"}, name
    assert M.identify(folder / "dft" / "mptrj_random_500.extxyz.gz").name == "mptrj-random-500"


def test_other_files_belong_to_no_set(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    assert M.identify(tmp_path / "a.npy") is None
