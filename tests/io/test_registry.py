import contextlib
import functools
import hashlib
import http.server
import json
import shutil
import threading
import zipfile

import pytest

from m3pot.cli.main import main
from m3pot.io import catalogue, registry
from m3pot.io.checkpoint import CheckpointError, save_potential, save_property_model
from tests.golden import model_of
from tests.helpers import random_potential


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("M3POT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def stored(home):
    potential = random_potential("matgl", "float32")
    potential.card.update(elements=[1, 8], about="a test")
    save_potential(home / "mine.safetensors", potential)
    return home / "mine.safetensors"


def test_load_by_name_and_path(stored):
    for name in ("mine", "mine.safetensors", stored, str(stored)):
        assert registry.load(name).card["about"] == "a test"


def test_the_first_shipped_model_is_the_default(stored, tmp_path, monkeypatch):
    monkeypatch.setattr(registry.resources, "files", lambda package: tmp_path)
    with pytest.raises(CheckpointError, match="no shipped model"):
        registry.load()
    for name in reversed(registry.SHIPPED):
        (tmp_path / "weights").mkdir(exist_ok=True)
        shutil.copy(stored, tmp_path / "weights" / f"{name}.safetensors")
        assert registry.find().stem == name
        assert registry.find(name).stem == name
    monkeypatch.undo()
    shipped = [entry.name for entry in registry.available() if entry.origin == "shipped"]
    assert shipped == [name for name in registry.SHIPPED if name in shipped]


def test_what_cannot_be_loaded(stored, tmp_path):
    with pytest.raises(CheckpointError, match="mine"):
        registry.load("another")
    with pytest.raises(CheckpointError, match="models fetch"):
        registry.load("MatterSim-v1.0.0-1M")
    with pytest.raises(CheckpointError, match="models convert"):
        registry.load(tmp_path)
    save_property_model(tmp_path / "p.safetensors", model_of("matgl_property_set2set"))
    with pytest.raises(CheckpointError, match="M3GNetProperty"):
        registry.load(tmp_path / "p.safetensors")


def test_available_and_info(stored, home):
    (home / "broken.safetensors").write_bytes(b"")
    entries = {entry.name: entry for entry in registry.available()}
    assert entries["mine"] == ("mine", "user", stored, "a test")
    assert entries["broken"].about.startswith("unreadable")
    assert entries["M3GNet-MP-2021.2.8-EFS"].path is None
    info = registry.info("mine")
    assert info["path"] == str(stored)
    assert info["card"]["elements"] == [1, 8]
    potential = registry.load("mine")
    assert info["parameters"] == sum(x.size for part in potential.params.values() for x in part.values())


def test_the_folder_of_the_platform_is_used_without_m3pot_home(monkeypatch):
    monkeypatch.delenv("M3POT_HOME", raising=False)
    assert registry.home().name == "m3pot"


def test_catalogue():
    entries = catalogue.published()
    for entry in entries.values():
        assert entry.url.startswith("https://")
        assert entry.url.endswith("/") != bool(entry.archive)
        assert entry.licence
        assert entry.files
        assert all(len(value) == 64 for value in entry.files.values())
    efs = entries["M3GNet-MP-2021.2.8-EFS"]
    assert catalogue.identify({f"renamed {k}": v for k, v in efs.files.items()}) == efs
    assert catalogue.identify({}) is None
    assert catalogue.identify({"m3gnet.json": efs.files["m3gnet.json"]}) is None


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serve(folder):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def entry(url, folder, names, **changes):
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names} | changes
    return catalogue.Published("tested", "about", "tensorflow", "MIT", "data", "paper", url, files)


def test_fetch(home, golden, tmp_path):
    folder = golden / "files" / "tf_random"
    names = ["m3gnet.index", "m3gnet.data-00000-of-00001", "m3gnet.json"]
    fetch = functools.partial(registry.fetch_published, folder=home)
    with serve(folder) as url:
        good = entry(url, folder, names)
        wrong = entry(url, folder, names, **{"m3gnet.json": "0" * 64})
        with pytest.raises(CheckpointError, match="sha256 0000"):
            fetch(wrong)
        absent = entry(url, folder, names, absent="1" * 64)
        with pytest.raises(CheckpointError, match="could not be downloaded"):
            fetch(absent)
        assert not (home / "tested.safetensors").exists()
        assert fetch(good) == home / "tested.safetensors"
        card = registry.load("tested").card
        assert (card["name"], card["licence"], card["paper"]) == ("tested", "MIT", "paper")
        assert set(card["sha256"].values()) == set(good.files.values())
    with serve(golden / "files") as url:
        single = entry(url, golden / "files", ["mattersim_random.pth"])
        assert registry.load(fetch(single)).card["dialect"] == "mattersim"
        archive = tmp_path / "package.whl"
        with zipfile.ZipFile(archive, "w") as out:
            out.write(golden / "files" / "mattersim_random.pth", "deep/mattersim_random.pth")
            out.writestr("deep/other", "not wanted")
    with serve(tmp_path) as url:
        files = {"deep/mattersim_random.pth": single.files["mattersim_random.pth"]}
        packed = single._replace(name="packed", url=f"{url}package.whl", files=files)
        with pytest.raises(CheckpointError, match="sha256 0000"):
            fetch(packed._replace(archive="0" * 64))
        packed = packed._replace(archive=hashlib.sha256(archive.read_bytes()).hexdigest())
        assert registry.load(fetch(packed)).card["sha256"] == single.files
        assert not list(home.rglob("other"))
    with pytest.raises(CheckpointError, match="choose one"):
        registry.fetch("something else")


def test_command_line(home, golden, tmp_path, capsys):
    source, output = golden / "files" / "matgl_random_smooth", tmp_path / "x.safetensors"
    assert main(["models", "convert", str(source), "-o", str(output)]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == str(output)
    assert "MatGL files" in err
    assert main(["models", "info", str(output)]) == 0
    out = capsys.readouterr().out
    assert "elements: H C O Na Al Si Cl K Ti Fe Cu Ba" in out
    assert main(["models", "info", str(output), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["card"]["dialect"] == "matgl"
    assert main(["models", "list", "--json"]) == 0
    assert {"name", "origin", "path", "about"} == json.loads(capsys.readouterr().out)[0].keys()
    assert main(["models", "list"]) == 0
    assert "MatterSim-v1.0.0-1M" in capsys.readouterr().out

    def refused(*arguments):
        assert main(["models", *map(str, arguments)]) == 2
        out, err = capsys.readouterr()
        assert not out
        assert err.count("\n") == 1
        return err

    before = sorted(tmp_path.iterdir())
    assert "does not exist" in refused("convert", tmp_path / "nowhere", "-o", tmp_path / "y.safetensors")
    assert ".safetensors" in refused("convert", golden / "files" / "tf_random", "-o", tmp_path / "y.pt")
    (tmp_path / "empty.pth").touch()
    assert "empty" in refused("convert", tmp_path / "empty.pth", "-o", tmp_path / "y.safetensors")
    (tmp_path / "empty.pth").unlink()
    assert sorted(tmp_path.iterdir()) == before
