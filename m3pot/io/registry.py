"""Models by name: shipped with the package, in the user's folder, or published elsewhere."""

import math
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from m3pot.io.catalogue import Published, published
from m3pot.io.checkpoint import CheckpointError, load_potential, read_header, save_potential, save_property_model
from m3pot.io.nequix import SUFFIX as NEQUIX
from m3pot.io.nequix import describe_nequix, load_nequix
from m3pot.potential import Potential
from m3pot.readout import PropertyModel

SHIPPED = ("m3pot-m", "m3pot-s")  # the first that exists is the default
_SUFFIX = ".safetensors"


class Available(NamedTuple):
    """One line of ``m3pot models list``."""

    name: str
    origin: str  # shipped, user, or published (not on this machine)
    path: Path | None
    about: str


def home() -> Path:
    """Folder of the user's models: $M3POT_HOME, or the cache folder of the platform."""
    if os.environ.get("M3POT_HOME"):
        return Path(os.environ["M3POT_HOME"]).expanduser()
    import pooch

    return Path(pooch.os_cache("m3pot"))


def load(name: str | os.PathLike | None = None) -> Potential:
    """A potential: the shipped default (None), a name of :func:`available`, or the path of a ``.safetensors`` file.

    A ``.nqx`` file of the package nequix is a potential too, where that package is installed.
    Raises CheckpointError if there is no such model, or if it is not a potential.
    """
    path = find(name)
    return load_nequix(path) if path.suffix == NEQUIX else load_potential(path)


def find(name: str | os.PathLike | None = None) -> Path:
    """The file of a model given as in :func:`load`."""
    shipped = _shipped()
    if name is None:
        if not shipped:
            raise CheckpointError("This installation has no shipped model; install m3pot again or give a model file.")
        return next(iter(shipped.values()))
    path, text = Path(name), os.fspath(name)
    if text in shipped:
        return shipped[text]
    if path.is_file():
        return path
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; import it with `m3pot models convert {path} -o NAME{_SUFFIX}`.")
    if (users := home() / f"{text.removesuffix(_SUFFIX)}{_SUFFIX}").is_file():
        return users
    if text in published():
        raise CheckpointError(f"{text} is not on this machine; download it with `m3pot models fetch {text}`.")
    known = ", ".join(entry.name for entry in available() if entry.path) or "none"
    raise CheckpointError(
        f"Expected a model name ({known}) or a {_SUFFIX} file, got {text!r}; see `m3pot models list`."
    )


def available() -> list[Available]:
    """Shipped models, those in the user's folder, and those that :func:`fetch` can download."""
    users = {file.stem: file for file in sorted(home().glob(f"*{_SUFFIX}"))}
    found = [Available(name, "shipped", path, _about(path)) for name, path in _shipped().items()]
    found += [Available(name, "user", path, _about(path)) for name, path in users.items()]
    return found + [
        Available(entry.name, "published", None, entry.about)
        for entry in published().values()
        if entry.name not in users
    ]


def info(name: str | os.PathLike | None = None) -> dict[str, Any]:
    """Path, size, number of parameters and header (model, card ...) of a model given as in :func:`load`."""
    from safetensors import safe_open

    path = find(name)
    if path.suffix == NEQUIX:
        return {"path": str(path), "bytes": path.stat().st_size, **describe_nequix(load_nequix(path))}
    header = read_header(path)
    with safe_open(path, "np") as file:
        names = [key for key in file.keys() if key.startswith("params/")]  # noqa: SIM118 (no iterator)
        count = sum(math.prod(file.get_slice(key).get_shape()) for key in names)
    return {"path": str(path), "bytes": path.stat().st_size, "parameters": count, **header}


def fetch(name: str, *, progress: bool = False) -> Path:
    """Download a published model, check it, import it, and store it in the user's folder; returns the file.

    Raises CheckpointError for an unknown name, a failed download, or a wrong checksum.
    """
    entries = published()
    if name not in entries:
        raise CheckpointError(f"Expected one of {', '.join(entries)}, got {name!r}; choose one of them.")
    return fetch_published(entries[name], home(), progress=progress)


def fetch_published(entry: Published, folder: Path, *, progress: bool = False) -> Path:
    """:func:`fetch` for one entry of the catalogue, into ``folder``."""
    from m3pot.io.convert import convert

    sources = folder / "downloads" / entry.name
    if entry.archive:
        sources = _download(entry.url, entry.archive, sources / "archive.zip", progress, members=list(entry.files))
    else:
        for file, sha256 in entry.files.items():
            _download(f"{entry.url}{file}", sha256, sources / file, progress)
    model = convert(sources / next(iter(entry.files)) if len(entry.files) == 1 else sources)
    card = {"name": entry.name, "about": entry.about, "licence": entry.licence, "training_data": entry.training_data}
    model.card.update(card, paper=entry.paper, provenance=f"published at {entry.url}")
    return store(model, folder / f"{entry.name}{_SUFFIX}")


def import_model(source: str | os.PathLike, output: str | os.PathLike) -> Path:
    """Import the model of another package (see :func:`m3pot.io.convert.convert`) and write it to ``output``."""
    from m3pot.io.convert import convert

    return store(convert(source), output)


def store(model: Potential | PropertyModel, path: str | os.PathLike) -> Path:
    """Write a potential or property model to ``path``, which must end in .safetensors."""
    path = Path(path)
    if path.suffix != _SUFFIX:
        raise CheckpointError(f"Expected an output file ending in {_SUFFIX}, got {path}; rename it.")
    if isinstance(model, Potential):
        save_potential(path, model)
    else:
        save_property_model(path, model)
    return path


def _download(url: str, sha256: str, path: Path, progress: bool, *, members: Sequence[str] = ()) -> Path:
    """Download to ``path``; with ``members``, take these out of the zip file. Returns the folder that holds it all."""
    import pooch

    pooch.get_logger().setLevel("ERROR")
    folder = path.parent / path.stem if members else path.parent
    unzip = pooch.Unzip(members=members, extract_dir=path.stem) if members else None
    try:
        pooch.retrieve(url, sha256, path.name, path.parent, processor=unzip, progressbar=progress)
        return folder
    except ValueError as error:
        raise CheckpointError(
            f"{url} does not have the expected sha256 {sha256}: the download is damaged or the file was replaced; "
            "try again, or import your own copy with `m3pot models convert`."
        ) from error
    except OSError as error:  # no network, no such page, no room
        raise CheckpointError(
            f"{url} could not be downloaded ({type(error).__name__}); check the network, or download it elsewhere and "
            "import it with `m3pot models convert`."
        ) from error


def _shipped() -> Mapping[str, Path]:
    folder = resources.files("m3pot") / "weights"
    files = {name: Path(str(folder / f"{name}{_SUFFIX}")) for name in SHIPPED}
    return {name: path for name, path in files.items() if path.is_file()}


def _about(path: Path) -> str:
    try:
        card = read_header(path)["card"]
    except CheckpointError as error:
        return f"unreadable: {error}"
    return str(card.get("about") or card.get("name") or card.get("provenance") or "")
