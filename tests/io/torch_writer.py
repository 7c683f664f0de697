"""Files as ``torch.save`` writes them, without torch, with any objects inside."""

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np


def named(module: str, name: str) -> type:
    """Something that a pickle refers to as ``module.name``."""
    return type(name, (), {"__module__": module, "__qualname__": name})


class Call:
    """An object whose pickle calls ``function`` with ``arguments`` and then sets ``state``."""

    def __init__(self, function: type, *arguments: Any, state: Any = None):
        self.recipe = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.recipe

    def __call__(self):
        raise AssertionError("pickled only")


class _Storage:
    def __init__(self, values: np.ndarray, key: str):
        self.values, self.key = values, key


class _Pickler(pickle._Pickler):
    def __init__(self, stream: io.BytesIO):
        super().__init__(stream, protocol=2)
        self.storages: list[_Storage] = []

    def save_global(self, obj, name=None):
        self.write(b"c" + f"{obj.__module__}\n{name or obj.__qualname__}\n".encode())
        self.memoize(obj)

    def reducer_override(self, obj):
        if not isinstance(obj, np.ndarray):
            return NotImplemented
        storage = _Storage(np.ascontiguousarray(obj), str(len(self.storages)))
        self.storages.append(storage)
        steps = tuple(step // obj.itemsize for step in storage.values.strides)[: obj.ndim]
        return named("torch._utils", "_rebuild_tensor_v2"), (storage, 0, obj.shape, steps, False, OrderedDict())

    def persistent_id(self, obj):
        if not isinstance(obj, _Storage):
            return None
        names = {"float32": "FloatStorage", "float64": "DoubleStorage", "int64": "LongStorage"}
        kind = named("torch", names[obj.values.dtype.name])
        return "storage", kind, obj.key, "cpu", obj.values.size


def write_torch(path: Path, tree: Any, *, byteorder: bytes = b"little") -> None:
    stream = io.BytesIO()
    pickler = _Pickler(stream)
    pickler.dump(tree)
    entries = {"data.pkl": stream.getvalue(), "byteorder": byteorder, "version": b"3\n"}
    entries |= {f"data/{storage.key}": storage.values.tobytes() for storage in pickler.storages}
    write_zip(path, {f"archive/{name}": content for name, content in entries.items()})


def write_zip(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def read_zip(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
