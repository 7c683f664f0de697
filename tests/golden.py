"""Reading the goldens: weights under their original names, structures, and what the original package computes."""

import functools
import json
from typing import NamedTuple

import numpy as np

from m3pot.graph import Graph, as_dtype, batch
from m3pot.io.convert import matgl, mattersim, tensorflow
from m3pot.neighbors import neighbor_list
from m3pot.potential import Potential
from m3pot.readout import PropertyModel
from tests.conftest import GOLDEN


class Golden(NamedTuple):
    header: dict
    weights: dict[str, np.ndarray]
    structures: list[dict[str, np.ndarray]]
    debug: dict[str, np.ndarray]


@functools.cache
def read(name: str) -> Golden:
    header = json.loads((GOLDEN / f"{name}.json").read_text())
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}

    def below(prefix: str) -> dict[str, np.ndarray]:
        return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}

    count = len(header["structures"])
    return Golden(header, below("weights/"), [below(f"structures/{k:02d}/") for k in range(count)], below("debug/"))


def document(name: str) -> matgl.Document:
    """What MatGL's model.json would say of a golden."""
    options = dict(read(name).header["config"])
    outer = {key: options.pop(key) for key in ("data_mean", "data_std", "element_refs") if key in options}
    return matgl.Document("Potential" if outer else "M3GNet", options, outer)


def model_of(name: str) -> Potential | PropertyModel:
    golden = read(name)
    if name.startswith("matgl"):
        return matgl.from_arrays(golden.weights, document(name), name, {})
    module = tensorflow if name.startswith("tf") else mattersim
    return module.from_arrays(golden.weights, golden.header["config"], name, {})


def exact_graph(structure: dict[str, np.ndarray], cutoff: float = 5.0) -> Graph:
    numbers, cell = structure["numbers"].astype(np.int32), structure["cell"].astype(np.float64)
    positions = structure["positions"].astype(np.float64)
    edges = neighbor_list(positions, cell, structure["pbc"], cutoff)
    return Graph(numbers, positions, cell[None], np.zeros(len(numbers), np.int32), *edges)


def all_in_one(name: str, dtype: str = "float64") -> Graph:
    return as_dtype(batch([exact_graph(s) for s in read(name).structures]), dtype)
