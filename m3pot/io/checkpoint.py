"""Model files: one ``.safetensors`` with the arrays and a JSON header. No pickle, no code.

Potentials and property models share the format; the header names the model and its fields.
"""

import functools
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from m3pot.graph import Graph
from m3pot.models import MODELS
from m3pot.models.zbl import ShortRange
from m3pot.potential import Potential
from m3pot.readout import PROPERTY_MODELS, M3GNetProperty, PropertyModel

FORMAT = "m3pot-1"


class CheckpointError(ValueError):
    """A file that is not a model of this package; the message says why and what to do."""


def write_atomically(path: str | os.PathLike, data: bytes) -> None:
    """Write to a temporary file in the same folder, then rename: readers never see half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def save_potential(path: str | os.PathLike, potential: Potential) -> None:
    """Store a potential; the header holds model name, fields, and the card (elements, units, provenance ...)."""
    arrays = {"scale": potential.scale, "shift": potential.shift, "offset": potential.offset}
    _write(path, potential, arrays, {"zbl": potential.zbl})


def save_property_model(path: str | os.PathLike, model: PropertyModel) -> None:
    """Store a property model in the format of :func:`save_potential`."""
    _write(path, model, {"scale": model.scale, "shift": model.shift}, {"exponential": model.exponential})


def read_header(path: str | os.PathLike) -> dict[str, Any]:
    """The JSON header of a model file: ``model``, ``card``, and ``zbl`` or ``exponential``. Raises CheckpointError."""
    return _read(path, arrays=False)[0]


def load_potential(path: str | os.PathLike) -> Potential:
    """Read a potential. Raises CheckpointError for anything else, or for a file that does not fit its own header."""
    header, arrays = _read(path, arrays=True)
    model, params = _rebuild(path, MODELS, header, arrays, {"scale": (95,), "shift": (95,), "offset": ()})
    try:
        zbl = ShortRange(*map(float, header["zbl"])) if header.get("zbl") else None
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: zbl is not four distances ({error}); the file is damaged or older.") from error
    return Potential(model, params, arrays["scale"], arrays["shift"], arrays["offset"], zbl, header["card"])


def load_property_model(path: str | os.PathLike) -> PropertyModel:
    """Read a property model. Raises CheckpointError as :func:`load_potential` does."""
    header, arrays = _read(path, arrays=True)
    model, params = _rebuild(path, PROPERTY_MODELS, header, arrays, {"scale": None, "shift": None})
    return PropertyModel(
        model, params, arrays["scale"], arrays["shift"], bool(header.get("exponential")), header["card"]
    )


@functools.cache
def parameter_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name (``module/parameter``) and shape of each parameter that a model declares."""
    one, row = np.zeros(1, np.int32), np.zeros((1, 3), np.float32)
    blank = Graph(one, row, np.zeros((1, 3, 3), np.float32), one, one, one, np.zeros((1, 3), np.int32))
    arguments: list[Any] = [blank, row]
    if isinstance(model, M3GNetProperty) and model.state:
        label = model.state == "label"
        size = model.state_size if model.state == "linear" else model.state_dim
        arguments.append(np.zeros(1, np.int32) if label else np.zeros((1, size), np.float32))
    declared = jax.eval_shape(lambda: model.init(jax.random.key(0), *arguments))
    return {k: v.shape for k, v in flatten_dict(declared["params"], sep="/").items()}


def _write(path: str | os.PathLike, stored: Potential | PropertyModel, arrays: dict, extra: dict) -> None:
    model = stored.model
    if not isinstance(model, nn.Module):  # see m3pot.io.nequix
        raise CheckpointError(
            f"{path}: a model of {type(model).__name__} cannot be written as .safetensors; keep its file."
        )
    fields = {k: getattr(model, k) for k in model.__dataclass_fields__ if k not in ("parent", "name")}
    header = {"format": FORMAT, "model": {type(model).__name__: fields}, "card": stored.card, **extra}
    arrays = arrays | {f"params/{k}": v for k, v in flatten_dict(stored.params, sep="/").items()}
    arrays = {k: np.asarray(v, order="C") for k, v in arrays.items()}
    write_atomically(path, save(arrays, metadata={"m3pot": json.dumps(header, sort_keys=True)}))


def _rebuild(
    path: str | os.PathLike, models: Mapping[str, Any], header: dict, arrays: dict, shapes: dict
) -> tuple[nn.Module, dict]:
    """Model and parameters, every array checked against what the header declares."""
    ((name, fields),) = header["model"].items()
    if name not in models:
        known = ", ".join(models)
        if name in MODELS or name in PROPERTY_MODELS:
            raise CheckpointError(f"{path} is a {name}, not one of {known}; choose another model for this task.")
        raise CheckpointError(f"{path}: model {name!r} is unknown to this version ({known}); upgrade m3pot.")
    try:
        model = models[name](**fields)
    except TypeError as error:
        raise CheckpointError(
            f"{path}: this version does not know all fields of {name} ({error}); upgrade m3pot."
        ) from error
    expected = {f"params/{k}": v for k, v in parameter_shapes(model).items()}
    expected |= {k: arrays[k].shape if v is None and k in arrays else v for k, v in shapes.items()}
    for key in sorted(expected.keys() | arrays.keys()):
        received = arrays[key].shape if key in arrays else None
        if received is None or expected.get(key) != received:
            raise CheckpointError(
                f"{path}: {key} has shape {received} but the model needs {expected.get(key)}; "
                "the file is damaged or belongs to another model."
            )
    params = {k.removeprefix("params/"): v for k, v in arrays.items() if k.startswith("params/")}
    return model, unflatten_dict(params, sep="/")


def _read(path: str | os.PathLike, *, arrays: bool) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        with safe_open(path, "np") as file:
            header = json.loads((file.metadata() or {}).get("m3pot", "{}"))
            if not isinstance(header, dict) or header.get("format") != FORMAT:
                raise CheckpointError(
                    f"{path} is a safetensors file but not a model of this version of m3pot ({FORMAT}); "
                    "import models of other packages with `m3pot models convert`."
                )
            if len(header["model"]) != 1 or not isinstance(header["card"], dict):
                raise ValueError("the header is not of the known form")
            return header, {k: file.get_tensor(k) for k in file.keys()} if arrays else {}  # noqa: SIM118 (no iterator)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; see `m3pot models list` for the shipped models.") from error
    except CheckpointError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is not a readable .safetensors model ({error}); import others with `m3pot models convert`."
        ) from error
