"""PyTorch zip files (.pt, .pth) without torch: arrays and plain values come out, nothing in the file is run.

The format: ``<root>/data.pkl`` is a pickle whose tensors refer to raw buffers ``<root>/data/<key>``. Only ordered
dictionaries and tensors are rebuilt; every other object of the pickle becomes an :class:`Inert` placeholder, so that
checkpoints which also hold an optimiser load, and a pickle with code in it stays harmless.
"""

import collections
import io
import os
import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from m3pot.io.checkpoint import CheckpointError

_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}


def _nothing(*ignored, **also) -> None:
    pass


class Inert:
    """Stands for an object of the file that is neither array nor plain value; accepts everything, does nothing."""

    def __new__(cls, *ignored, **also) -> "Inert":  # noqa: D102
        return object.__new__(cls)

    def __call__(self, *ignored, **also) -> "Inert":  # noqa: D102
        return self

    __init__ = __setstate__ = __setitem__ = append = extend = add = _nothing


def read_torch(path: str | os.PathLike) -> Any:
    """The object that ``torch.save`` wrote, with numpy arrays for tensors and :class:`Inert` for foreign objects.

    Raises CheckpointError for anything but an intact, little-endian zip checkpoint.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive, str(path))
    except CheckpointError:
        raise
    except Exception as error:  # a damaged zip or pickle may raise anything
        raise CheckpointError(
            f"{path} is not an intact PyTorch checkpoint ({type(error).__name__}: {error}); download or save it again."
        ) from error


def state_dict(tree: Any, source: str) -> dict[str, np.ndarray]:
    """``tree`` as names and arrays; raises CheckpointError if it is anything else."""
    if not isinstance(tree, Mapping) or not tree:
        raise CheckpointError(f"{source} holds no weights (a dictionary of tensors was expected); save it again.")
    for key, value in tree.items():
        if not isinstance(key, str) or not isinstance(value, np.ndarray):
            raise CheckpointError(f"{source}: the entry {key!r} is not a tensor; save plain weights (state_dict).")
    return dict(tree)


def _read(archive: zipfile.ZipFile, source: str) -> Any:
    names = archive.namelist()
    if any("/code/" in name or name.endswith("constants.pkl") for name in names):
        raise CheckpointError(f"{source} is a TorchScript program; save the weights (state_dict) instead.")
    roots = [name.removesuffix("data.pkl") for name in names if name.endswith("data.pkl")]
    if len(roots) != 1:
        raise CheckpointError(f"{source} is a zip file but not a PyTorch checkpoint; give a .pt or .pth file.")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        raise CheckpointError(f"{source} was compressed after PyTorch wrote it; unpack it or take the original.")
    root = roots[0]
    if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
        raise CheckpointError(f"{source} was written on a big-endian machine; save it again on another one.")
    return _Reader(archive, root).load()


class _Reader(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, root: str):
        data = archive.read(f"{root}data.pkl")
        for code, argument, _ in pickletools.genops(data):  # a huge place in the memo would exhaust the memory
            if "PUT" in code.name and argument is not None and argument > len(data):
                raise pickle.UnpicklingError(f"memo {argument} in a pickle of {len(data)} bytes")
        super().__init__(io.BytesIO(data))
        self._archive, self._root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *arguments: _tensor(*arguments)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda data, *ignored: data
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _STORAGES[name]
        return Inert

    def persistent_load(self, pid: Any) -> Any:
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(key, str) or not key.isdigit():
            raise pickle.UnpicklingError(f"storage {pid!r} is not of the known form")
        if not isinstance(dtype, str):
            return Inert()
        values = np.frombuffer(self._archive.read(f"{self._root}data/{key}"), dtype)
        if len(values) != count:
            raise pickle.UnpicklingError(f"storage {key} has {len(values)} elements instead of {count}")
        return values


def _tensor(storage: Any, offset: int, size: tuple, stride: tuple, *ignored) -> Any:
    if not isinstance(storage, np.ndarray):
        return Inert()
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or not all(isinstance(k, int) and k >= 0 for k in numbers):
        raise pickle.UnpicklingError(f"tensor with offset {offset}, size {size}, stride {stride}")
    count = int(np.prod(size, dtype=object))
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count and (last >= len(storage) or count > len(storage)):
        raise pickle.UnpicklingError(f"tensor of size {size} reaches outside its storage")
    if not count:
        return np.zeros(size, storage.dtype)
    steps = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps).copy()
