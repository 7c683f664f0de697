"""From the names of a foreign checkpoint to ours: every array is used exactly once, every shape is checked."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
from flax.traverse_util import unflatten_dict

from m3pot.io.checkpoint import CheckpointError, parameter_shapes

_OURS = re.compile(
    r"(?:block_(?P<block>\d+)_)?(?P<part>[a-z][\w/]*?)"
    r"(?:/(?:(?P<branch>value|gate|layer|lstm)_(?P<layer>\d+)[_/])?(?P<leaf>\w+))?"
)


class NameMap(NamedTuple):
    """How a dialect names what we call ``block_B_part/branch_m_leaf``."""

    templates: Mapping[str, str]  # part -> name with {block} {branch} {layer} {even} {leaf}; even = 2 * layer
    words: Mapping[str, str]  # what the dialect calls our branches and leaves
    transposed: bool  # kernels are stored as (out, in)


def take(arrays: dict[str, np.ndarray], key: str, shape: tuple[int, ...] | None, source: str) -> np.ndarray:
    """Remove ``key`` from ``arrays`` and return its value; raises CheckpointError unless it has that shape."""
    if key not in arrays:
        raise CheckpointError(f"{source}: {key} is missing; the file is damaged or of another kind.")
    value = arrays.pop(key)
    if shape is not None and value.shape != shape:
        raise CheckpointError(f"{source}: {key} has shape {value.shape} instead of {shape}; the file is damaged.")
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise CheckpointError(f"{source}: {key} holds NaN or infinite numbers; take another checkpoint.")
    return value


def parameters(
    model: nn.Module, names: NameMap, arrays: dict[str, np.ndarray], ignored: Sequence[str], source: str
) -> dict[str, Any]:
    """Parameters of ``model`` from the foreign ``arrays``, which are used up.

    Raises CheckpointError, with the foreign name, for an array that is missing, left over (unless a pattern of
    ``ignored`` matches its name), or of another shape.
    """
    flat = {}
    for ours, shape in parameter_shapes(model).items():
        turned = names.transposed and ours.endswith("kernel")
        value = take(arrays, _foreign(ours, names), shape[::-1] if turned else shape, source)
        flat[ours] = np.array(value.T if turned else value, order="C")
    left = [key for key in arrays if not any(re.fullmatch(pattern, key) for pattern in ignored)]
    if left:
        raise CheckpointError(
            f"{source}: {left[0]} (one of {len(left)}) has no place in an M3GNet of this configuration; "
            "the model is of another kind or version."
        )
    return unflatten_dict(flat, sep="/")


def _foreign(ours: str, names: NameMap) -> str:
    found = _OURS.fullmatch(ours)
    if found is None:
        raise KeyError(ours)
    layer = int(found["layer"] or 0)
    word = {k: names.words.get(found[k], found[k]) for k in ("branch", "leaf")}
    return names.templates[found["part"]].format(block=found["block"], layer=layer, even=2 * layer, **word)


def atom_rows(table: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
    """``table`` (one row for each of ``numbers``) as 95 rows by atomic number, zero where there is none."""
    rows = np.zeros((95, *table.shape[1:]), table.dtype)
    rows[list(numbers)] = table
    return rows


def known_elements(references: np.ndarray) -> list[int]:
    """Atomic numbers with a reference energy; all up to 94 if no element has one.

    The least-squares fit of reference energies leaves 0 where the training data had no such element.
    """
    known = [z for z in range(1, 95) if abs(references[z]) > 1e-8]
    return known or list(range(1, 95))


def checksums(files: Sequence[Path]) -> dict[str, str]:
    """sha256 of each file under its name, for the model card."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def positive(options: Mapping[str, Any], integers: Sequence[str], lengths: Sequence[str], source: str) -> None:
    """Raise CheckpointError unless the named options are positive integers, and positive lengths."""
    for key in (*integers, *lengths):
        value = options.get(key)
        kinds = int if key in integers else int | float
        if not isinstance(value, kinds) or isinstance(value, bool) or not value > 0:
            raise CheckpointError(f"{source}: {key} is {value!r} but must be a positive number; the file is damaged.")
