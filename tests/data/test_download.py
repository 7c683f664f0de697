import hashlib
import http.server
import os
import re
import threading

import pytest

from m3pot.data.download import download, fetch
from m3pot.data.manifest import DataError, File, parse

CONTENT = os.urandom(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves ``server.content``; breaks off after ``server.stop_after`` bytes; remembers the ranges asked for."""

    def do_GET(self):
        server = self.server
        wanted = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        server.asked.append(int(wanted[1]) if wanted else 0)
        if self.path == "/absent":
            self.send_error(404)
            return
        unchanged = self.headers.get("If-Range") in (None, server.tag)
        start = int(wanted[1]) if wanted and unchanged and server.ranges else 0
        if start >= len(server.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(server.content) - start))
        self.send_header("ETag", server.tag)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.end_headers()
        body = server.content[start:]
        self.wfile.write(body if server.stop_after is None else body[: server.stop_after])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as running:
        running.content, running.tag, running.stop_after, running.ranges, running.asked = (
            CONTENT,
            '"v1"',
            None,
            True,
            [],
        )
        running.url = f"http://127.0.0.1:{running.server_address[1]}/file"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def the_file(server, sha256=SHA256, size=0):
    return File("sub/file.bin", sha256, size, (server.url,))


def test_a_file_arrives_whole_and_alone(server, tmp_path):
    counted = []
    path = download(the_file(server), tmp_path / "sub" / "file.bin", counted.append)
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]
    assert sum(counted) == len(CONTENT)


@pytest.mark.parametrize("sha256", [SHA256, ""], ids=["checked", "unchecked"])
def test_an_interrupted_download_goes_on_where_it_stopped(server, tmp_path, sha256):
    target = tmp_path / "file.bin"
    server.stop_after = 100_000
    with pytest.raises(DataError, match=r"100000 of 300000 bytes arrived.*what has arrived is kept"):
        download(the_file(server, sha256), target)
    assert not target.exists()
    server.stop_after = None
    counted = []
    download(the_file(server, sha256), target, counted.append)
    assert target.read_bytes() == CONTENT
    assert server.asked == [0, 100_000]
    assert counted[0] == 100_000
    assert sum(counted) == len(CONTENT)
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_that_changed_meanwhile_is_fetched_anew(server, tmp_path, ranges):
    server.stop_after = 100_000
    with pytest.raises(DataError):
        download(the_file(server, ""), tmp_path / "file.bin")
    server.stop_after, server.ranges = None, ranges
    server.content, server.tag = CONTENT[::-1], '"v2"'
    download(the_file(server, ""), tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT[::-1]


def test_a_wrong_hash_or_size_leaves_nothing_behind(server, tmp_path):
    (tmp_path / "file.bin").write_text("old")
    for file in (the_file(server, "0" * 64), the_file(server, "", size=7)):
        with pytest.raises(DataError, match="damaged or the file was replaced"):
            download(file, tmp_path / "file.bin")
        assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]
    assert (tmp_path / "file.bin").read_text() == "old"


def test_a_part_that_is_too_long_is_dropped(server, tmp_path):
    part = tmp_path / "file.bin.part"
    part.write_bytes(CONTENT + b"more")
    (tmp_path / "file.bin.part.tag").write_text(f'{server.url}\n"v1"')
    with pytest.raises(DataError, match="did not fit"):
        download(the_file(server), tmp_path / "file.bin")
    assert download(the_file(server), tmp_path / "file.bin").read_bytes() == CONTENT


def test_the_next_address_is_tried(server, tmp_path):
    file = File("file.bin", SHA256, 0, (server.url.replace("/file", "/absent"), server.url))
    assert download(file, tmp_path / "file.bin").read_bytes() == CONTENT
    gone = File("file.bin", SHA256, 0, (server.url.replace("/file", "/absent"),))
    with pytest.raises(DataError, match=r"could not be downloaded from .*absent \(Not Found\)"):
        download(gone, tmp_path / "other.bin")


def test_places_that_take_no_file_and_files_without_address(server, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"no public address.*M3POT_DATA"):
        download(File("made/here.npz", SHA256), tmp_path / "here.npz")
    with pytest.raises(DataError, match="begins with https"):
        download(File("a", SHA256, 0, ("file:///etc/passwd",)), tmp_path / "a")

    class Full:
        free = 1000

    monkeypatch.setattr("m3pot.data.download.shutil.disk_usage", lambda folder: Full)
    with pytest.raises(DataError, match=r"has no room for sub/file\.bin"):
        download(the_file(server), tmp_path / "file.bin")

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.undo()
    monkeypatch.setattr("m3pot.data.download.os.replace", full)
    with pytest.raises(DataError, match=r"cannot take sub/file.bin \(No space left on device\); give another folder"):
        download(the_file(server), tmp_path / "file.bin")


def test_data_sets(server, tmp_path, monkeypatch):
    monkeypatch.setenv("M3POT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("M3POT_DATA", raising=False)
    head = 'about = "x"\nformat = "x"\nsource = "x"\nlicence = "x"\ncitation = "x"\nallowed_use = ["train"]\n'
    known = f'[[files]]\npath = "s/a.bin"\nsha256 = "{SHA256}"\nurls = ["{server.url}"]\n'
    unknown = f'[[files]]\npath = "s/b.bin"\nurls = ["{server.url}"]\n'
    dataset = parse(head + known + unknown, "mine")
    states = fetch(dataset)
    assert [s.status for s in states] == ["ok", "unverified"]
    assert states[1].sha256 == SHA256
    assert states[0].path == tmp_path / "home" / "data" / "s" / "a.bin"
    assert len(server.asked) == 2
    assert [s.status for s in fetch(dataset)] == ["ok", "unverified"]
    assert len(server.asked) == 2, "what is there is not fetched again"
    states[0].path.write_text("spoilt")
    with pytest.raises(DataError, match="remove it and fetch it again"):
        fetch(dataset)
    assert states[0].path.read_text() == "spoilt"
    elsewhere = fetch(parse(head + known.replace("s/a", "s/c"), "other"), tmp_path / "disk")
    assert elsewhere[0].path == tmp_path / "disk" / "s" / "c.bin"
