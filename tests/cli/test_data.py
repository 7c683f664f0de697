import hashlib
import json

import pytest

HEAD = 'about = "x"\nformat = "x"\nsource = "x"\nlicence = "x"\ncitation = "x"\nallowed_use = ["train"]\n'


@pytest.fixture
def manifest(tmp_path, monkeypatch):
    """The manifest of one file on the search path, with the file."""
    folder = tmp_path / "disk"
    folder.mkdir()
    (folder / "a.txt").write_text("hello")
    monkeypatch.setenv("M3POT_DATA", str(folder))
    monkeypatch.setenv("M3POT_HOME", str(tmp_path / "home"))
    path = tmp_path / "mine.toml"
    sha256 = hashlib.sha256(b"hello").hexdigest()
    path.write_text(f'{HEAD}[[files]]\npath = "a.txt"\nsha256 = "{sha256}"\n')
    return path


def test_list(m3pot, manifest):
    code, out, err = m3pot("data", "list")
    assert (code, err) == (0, "")
    assert "mptrj-random-500" in out
    assert "0/1" in out
    code, out, _ = m3pot("data", "list", manifest, "mlearn", "--json")
    mine, mlearn = json.loads(out)
    assert mine["files"][0]["found"].endswith("a.txt")
    assert mlearn["labels"]["energy_key"] == "outputs.energy"
    assert len(mlearn["files"]) == 12
    code, out, err = m3pot("data", "list", "nonsense")
    assert (code, out) == (2, "")
    assert err == "m3pot: Expected a data set of `m3pot data list` or a manifest (.toml), got 'nonsense'.\n"


def test_verify(m3pot, manifest):
    code, out, err = m3pot("data", "verify", manifest)
    assert (code, err) == (0, "")
    assert out.splitlines()[1].split()[:2] == ["mine", "ok"]
    manifest.parent.joinpath("disk", "a.txt").write_text("hallo")
    code, out, err = m3pot("data", "verify", manifest, "--json")
    assert code == 2
    assert json.loads(out)[0]["status"] == "wrong"
    assert "remove it and fetch it again" in err
    code, out, err = m3pot("data", "verify", manifest, "mptrj")
    assert code == 2
    assert "2 of 2 inputs failed" in err
    code, out, err = m3pot("data", "verify")
    assert (code, out, err) == (0, "", "")


def test_unverified_is_said(m3pot, manifest):
    manifest.write_text(f'{HEAD}[[files]]\npath = "a.txt"\nurls = ["https://example.org/a.txt"]\n')
    code, out, err = m3pot("data", "verify", manifest)
    assert (code, err) == (0, "")
    assert "unverified" in out


def test_fetch_of_what_is_there_or_has_no_address(m3pot, manifest):
    code, out, err = m3pot("data", "fetch", manifest)
    assert (code, err) == (0, "")
    assert "ok" in out
    manifest.parent.joinpath("disk", "a.txt").unlink()
    code, out, err = m3pot("data", "fetch", manifest)
    assert (code, out) == (2, "")
    assert "mine: a.txt has no public address" in err
