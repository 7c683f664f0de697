"""Import of models that other packages wrote, without those packages: M3GNet (TensorFlow), MatGL, MatterSim."""

import os
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

from m3pot.io.checkpoint import FORMAT, CheckpointError
from m3pot.io.convert import matgl, mattersim, tensorflow
from m3pot.io.convert.torch_file import read_torch
from m3pot.potential import Potential
from m3pot.readout import PropertyModel

_KINDS = (
    "a TensorFlow M3GNet folder (m3gnet.index, m3gnet.json) or its .npz, a MatGL folder (model.json, state.pt), "
    "or a MatterSim .pth"
)


def convert(source: str | os.PathLike) -> Potential | PropertyModel:
    """Read a model of another package; the kind is recognised from the content.

    ``source`` is a folder or a file: a TensorFlow checkpoint folder (or a file of it) or an ``.npz`` of its arrays, a
    MatGL folder (or a file of it), a MatterSim ``.pth``. Doubts about the file (see ``card["warnings"]``) are issued
    as UserWarning. Raises CheckpointError with one sentence for everything else.
    """
    model = _convert(Path(source))
    for doubt in model.card["warnings"]:
        warnings.warn(f"{source}: {doubt}", UserWarning, stacklevel=2)
    return model


def _convert(path: Path) -> Potential | PropertyModel:
    if path.is_dir():
        if (path / "model.json").is_file() or (path / "state.pt").is_file():
            return matgl.from_folder(path)
        if any(path.glob("*.index")):
            return tensorflow.from_folder(path)
        raise CheckpointError(f"{path} holds no model that can be imported; give {_KINDS}.")
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; give {_KINDS}.")
    with path.open("rb") as file:
        start = file.read(16)
    if not start:
        raise CheckpointError(f"{path} is empty; download or copy it again.")
    if zipfile.is_zipfile(path):
        return _convert_zip(path)
    folder = path.parent
    if path.name == "model.json" or (path.suffix == ".json" and (folder / "state.pt").is_file()):
        return matgl.from_folder(folder)
    beside = path.suffix == ".json" or path.name == "checkpoint" or ".data-" in path.name
    if path.suffix == ".index" or (beside and any(folder.glob("*.index"))):
        return tensorflow.from_folder(folder)
    raise CheckpointError(f"{path} {_guess(path, start)}; give {_KINDS}.")


def _convert_zip(path: Path) -> Potential | PropertyModel:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if names and all(name.endswith(".npy") for name in names):
        return tensorflow.from_npz(path)
    if path.name in ("state.pt", "model.pt") and (path.parent / "model.json").is_file():
        return matgl.from_folder(path.parent)
    checkpoint = read_torch(path)
    if isinstance(checkpoint, Mapping) and "model_args" in checkpoint:
        return mattersim.from_checkpoint(checkpoint, path)
    raise CheckpointError(f"{path} is a PyTorch file but not a MatterSim checkpoint; for MatGL give its whole folder.")


def _guess(path: Path, start: bytes) -> str:
    if path.suffix == ".safetensors":
        return f"is a .safetensors file: if its format is {FORMAT} it needs no import, otherwise none is possible"
    if path.suffix == ".nqx":
        return "is a model of nequix, which needs no import: give it as --model"
    if start[:1] == b"\x80":
        return "is an old PyTorch file or a bare pickle, which could run code; save it again with PyTorch >= 1.6"
    if start.startswith(b"\x89HDF"):
        return "is an HDF5 file, which holds no M3GNet that can be imported"
    if start[:2] == b"PK":
        return "is a damaged or truncated zip file; download it again"
    return "is not a model file that can be recognised"
