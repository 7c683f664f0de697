import dataclasses
import hashlib

import numpy as np
import pytest

from m3pot.data import manifest, sources
from m3pot.data.frames import write_npz
from m3pot.data.guard import LabelError
from m3pot.data.manifest import DataError
from tests.data.physics import labelled, rattled

HEAD = 'about = "x"\nformat = "{format}"\nsource = "x"\nlicence = "x"\ncitation = "x"\nallowed_use = {use}\n'
FILE = '[[files]]\npath = "{path}"\nsha256 = "{sha256}"\n'


@pytest.fixture(scope="module")
def metals():
    rng = np.random.default_rng(0)
    return labelled([rattled(["Cu", "Au"], 1, rng) for _ in range(8)])


@pytest.fixture
def folder(metals, tmp_path, monkeypatch):
    """A right set, one with stresses in GPa, both with manifests; the manifests are all that is known."""
    from m3pot.units import GPA

    write_npz(metals, tmp_path / "right.npz")
    write_npz(dataclasses.replace(metals, stress=metals.stress / GPA), tmp_path / "gpa.npz")
    monkeypatch.setenv("M3POT_DATA", str(tmp_path))
    texts = {}
    for name, use, labels in (("right", ["train"], ""), ("gpa", ["validate"], 'stress_unit = "GPa"\n')):
        sha256 = hashlib.sha256((tmp_path / f"{name}.npz").read_bytes()).hexdigest()
        text = HEAD.format(format="npz", use=use) + 'functional = "PBE"\n[labels]\nenergy_key = "energy"\n' + labels
        texts[name] = text + FILE.format(path=f"{name}.npz", sha256=sha256)
    known = {name: manifest.parse(text, name) for name, text in texts.items()}
    for module in (manifest, sources):
        monkeypatch.setattr(module, "available", lambda: known)
    return tmp_path


def test_names_and_files_give_the_same_frames(folder, metals):
    by_name = sources.load(["right"])
    by_path = sources.load([folder / "right.npz"])
    np.testing.assert_array_equal(by_name.stress, metals.stress)
    np.testing.assert_array_equal(by_path.stress, metals.stress)
    in_gpa = sources.load(["gpa"], use="validate")
    np.testing.assert_allclose(in_gpa.stress, metals.stress, rtol=1e-6)
    assert len(sources.load(["right", str(folder / "right.npz")])) == 2 * len(metals)


def test_sets_that_are_only_for_validation_are_not_trained_on(folder):
    for source in ("gpa", folder / "gpa.npz"):
        with pytest.raises(DataError, match="gpa is for validate only, not for train"):
            sources.load([source])
    renamed = folder / "renamed.npz"
    renamed.write_bytes((folder / "gpa.npz").read_bytes())
    with pytest.raises(DataError, match="gpa is for validate only"):
        sources.load([renamed])
    assert len(sources.load(["gpa"], use=None)) == 8


def test_every_source_is_guarded_by_itself(folder, metals):
    write_npz(dataclasses.replace(metals, energy=metals.energy + 1, stress=metals.stress * 160), folder / "mine.npz")
    with pytest.raises(LabelError, match=r"mine.npz: .*stress_unit = \"GPa\""):
        sources.load(["right", folder / "mine.npz"])
    assert len(sources.load(["right", folder / "mine.npz"], unit_guard=False)) == 16
    with pytest.raises(LabelError, match=r"right: .*Au"):
        sources.load(["right"], elements=frozenset({29}))


def test_sets_without_labels_mixed_functionals_and_nothing(folder):
    own = folder / "curves.toml"
    own.write_text(HEAD.format(format="JSON of curves", use=["train"]) + FILE.format(path="right.npz", sha256=""))
    with pytest.raises(DataError, match="curves holds JSON of curves, not labelled frames"):
        sources.load([own])
    other = folder / "other.toml"
    right = manifest.available()["right"]
    text = HEAD.format(format="npz", use=["train"]) + 'functional = "r2SCAN"\n[labels]\nenergy_key = "energy"\n'
    other.write_text(text + FILE.format(path="right.npz", sha256=right.files[0].sha256))
    with pytest.raises(LabelError, match="mix functionals"):
        sources.load(["right", other])
    with pytest.raises(LabelError, match="at least one"):
        sources.load([])
    with pytest.raises(FileNotFoundError, match="does not exist"):
        sources.load([folder / "nothing.npz"])
