"""Download the files of a data set: resumed after an interruption, checked, and in place only when complete."""

import contextlib
import errno
import http.client
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from m3pot.data.manifest import DataError, DataSet, File, Status, checksum, folders, verify

_BLOCK = 1 << 20
_TIMEOUT = 60  # s without any byte


def fetch(
    dataset: DataSet,
    folder: str | os.PathLike[str] | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> list[Status]:
    """Download what is not on this machine yet; returns the status of every file.

    Args:
        dataset: what to fetch.
        folder: where to put it; default: the user's folder, the last of the search path.
        advance: called with the number of bytes that have arrived.

    Raises:
        DataError: a file that is there is wrong, a file has no public address, no address answers, the download is
            incomplete or has another sha256, or the disk is full. What has arrived of an interrupted download stays
            beside the target (``.part``), and the next call goes on from there.
    """
    target = Path(folder) if folder is not None else folders()[-1]
    result = []
    for state in verify(dataset):
        if state.status == "wrong":
            raise DataError(f"{dataset.name}: {state.sentence}")
        if state.status == "missing":
            path = download(state.file, target / state.file.path, advance)
            found = checksum(path)
            state = Status(state.file, path, "ok" if state.file.sha256 else "unverified", found)
        result.append(state)
    return result


def download(file: File, target: Path, advance: Callable[[int], None] = lambda count: None) -> Path:
    """Get one file from the first of its addresses that answers, and return ``target``."""
    if not file.urls:
        raise DataError(
            f"{file.path} has no public address; put a copy below a folder and name the folder in M3POT_DATA."
        )
    reasons = []
    for url in file.urls:
        try:
            _get(url, file, target, advance)
            return target
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
                raise DataError(
                    f"{target.parent} cannot take {file.path} ({error.strerror}); give another folder."
                ) from None
            reasons.append(f"{url} ({error.reason if isinstance(error, urllib.error.URLError) else error})")
        except http.client.HTTPException as error:
            reasons.append(f"{url} ({type(error).__name__})")
    raise DataError(
        f"{file.path} could not be downloaded from {' or '.join(reasons)}; check the network and repeat: "
        "what has arrived is kept."
    )


def _get(url: str, file: File, target: Path, advance: Callable[[int], None]) -> None:
    if not url.startswith(("https://", "http://")):
        raise DataError(f"Expected an address that begins with https://, got {url}; correct the manifest.")
    target.parent.mkdir(parents=True, exist_ok=True)
    part, tag = target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.part.tag")
    with _open(url, part, tag) as (response, start):
        length = response.headers.get("Content-Length")
        total = start + int(length) if length is not None else file.size
        if total and shutil.disk_usage(target.parent).free < total - start:
            raise DataError(
                f"{target.parent} has no room for {file.path} ({total / 1e9:.1f} GB); free some or give another folder."
            )
        if start == 0:
            tag.write_text(f"{url}\n{_validator(response)}")
        advance(start)
        with open(part, "ab" if start else "wb") as out:
            while block := response.read(_BLOCK):
                out.write(block)
                advance(len(block))
        if total and part.stat().st_size != total:
            raise ConnectionError(f"{part.stat().st_size} of {total} bytes arrived")
    found = checksum(part) if file.sha256 else ""
    if found != file.sha256 or (file.size and part.stat().st_size != file.size):
        got = (
            f"sha256 {found}, expected {file.sha256}"
            if file.sha256
            else f"{part.stat().st_size} bytes, expected {file.size}"
        )
        part.unlink()
        tag.unlink(missing_ok=True)
        raise DataError(
            f"{url} sent a file with {got}: the download is damaged or the file was replaced, so it was deleted; "
            "repeat, and if that does not help, look for the right version at the source."
        )
    os.replace(part, target)
    tag.unlink(missing_ok=True)


@contextlib.contextmanager
def _open(url: str, part: Path, tag: Path) -> Iterator[tuple[Any, int]]:
    """The answer of the server and the number of bytes that it does not send again."""
    start, validator = 0, ""
    if part.is_file() and tag.is_file():
        origin, _, validator = tag.read_text().partition("\n")
        start = part.stat().st_size if origin == url and validator else 0
    headers = {"User-Agent": "m3pot", "Accept-Encoding": "identity"}
    if start:
        # If the file has changed since, the server sends all of the new one.
        headers |= {"Range": f"bytes={start}-", "If-Range": validator}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416 or not start:
            raise
        part.unlink()  # it was as long as the file or longer
        raise ConnectionError("the part that was there did not fit the file; it was deleted") from error
    with response:
        resumed = response.status == 206 and re.match(rf"bytes {start}-", response.headers.get("Content-Range", ""))
        yield response, start if resumed else 0


def _validator(response: Any) -> str:
    """What identifies this version of the file; a weak ETag does not."""
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")
