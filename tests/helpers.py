"""What the tests share: tiny random potentials of every dialect and a table of awkward structures."""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from ase import Atoms
from ase.build import bulk, molecule

from m3pot.execution import numerics
from m3pot.graph import Graph, Properties, Sizes, as_dtype, batch
from m3pot.models.m3gnet import DIALECTS, M3GNet
from m3pot.models.zbl import ADDED, LEARNED
from m3pot.potential import Potential, jit_predict
from m3pot.structure import from_ase

DTYPES = ("float32", "float64")
FADES = {"zbl": LEARNED, "added": ADDED, "": None}
POTENTIALS = ("tensorflow+zbl", "matgl", "matgl-bessel", "mattersim+added")  # every dialect; repulsion: FADES
CAPACITY = Sizes(structures=14, atoms=40, edges=1408)  # one shape for nearly everything: compilations take the time
QUICK = {"xla_backend_optimization_level": 0}  # halves the time of a compilation: for programs that run only once

SEEDS = {"tensorflow": 11, "matgl": 1, "matgl-bessel": 9, "mattersim": 9}  # of weights without saturated layers
STRONG = {"three_update": 8, "edge_embedding": 3}  # so that forces are eV/A and every term matters
TOLERANCE = {"float32": 1e-4, "float64": 1e-11}  # summation noise, as :func:`deviation` measures it


@functools.cache
def random_potential(name: str, dtype: str = "float64", *, units: int = 8, blocks: int = 2) -> Potential:
    """The dialect ``name``, "+" a key of FADES; every parameter random, biases and references included."""
    dialect, _, zbl = name.partition("+")
    model = M3GNet(**{**DIALECTS[dialect], "units": units, "blocks": blocks})
    bare = from_ase(Atoms("H"), 1.0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), bare, np.zeros((0, 3), np.float32))["params"]
    rng = np.random.default_rng(SEEDS[dialect])

    def draw(path, leaf):
        kind = path[-1].key
        spread = {"kernel": 1.5 / np.sqrt(leaf.shape[0]), "bias": 0.3, "table": 1.0}[kind.split("_")[-1]]
        strong = next((factor for key, factor in STRONG.items() if key in path[0].key), 1)
        return strong * spread * rng.normal(size=leaf.shape)

    params = jax.tree_util.tree_map_with_path(draw, shapes)
    scale, shift = rng.uniform(0.5, 1.5, 95), rng.normal(0, 3, 95)
    return Potential(model, params, scale, shift, np.array(0.7), zbl=FADES[zbl]).astype(dtype)


def without_threebody(potential: Potential) -> Potential:
    """The same potential with kernels of zero behind the three-body sums, which then add exactly nothing."""

    def silence(path, leaf):
        return leaf * (0 if "three_update" in path[0].key else 1)

    params = jax.tree_util.tree_map_with_path(silence, potential.params)
    return Potential(potential.model, params, potential.scale, potential.shift, potential.offset, potential.zbl)


def structures() -> dict[str, Atoms]:
    """Awkward structures; all fit into ``CAPACITY`` together, with a skin of 1 A."""
    table = {}
    table["dense metal"] = bulk("Cu", cubic=True, a=3.45)
    table["dense metal"].numbers[0] = 79
    table["skewed"] = Atoms(
        "LiFeO",
        cell=[[4.1, 0.1, 0], [3.7, 2.9, 0], [-3.5, 2.2, 3.6]],
        scaled_positions=[[0, 0, 0], [0.85, 0.5, 0.71], [0.32, 0.34, 0.38]],
        pbc=True,
    )
    table["left-handed"] = Atoms(
        "MgO", cell=[[2.1, 0, 2.1], [2.1, 2.1, 0.2], [0, 2.0, 2.1]][::-1], positions=np.diag([0.1, 2.0])[:, [0, 0, 1]]
    )
    table["left-handed"].pbc = True
    table["one atom"] = bulk("Fe", a=2.87)
    table["tiny skewed"] = Atoms("Al", cell=[[2.3, 0, 0], [1.9, 2.2, 0], [0.4, -1.7, 2.6]], pbc=True)
    table["slab"] = Atoms(
        "Pt2H", cell=[[2.8, 0, 0], [0.3, 2.9, 0], [0, 0, 15]], positions=[[0, 0, 0], [1.5, 1.4, 1.9], [0.2, 0.1, 3.4]]
    )
    table["slab"].pbc = (True, True, False)
    table["chain"] = Atoms("CF", cell=[[2.5, 0, 0], [0, 0, 0], [0, 0, 0]], positions=[[0, 0, 0], [0.3, 1.2, 0.5]])
    table["chain"].pbc = (True, False, False)
    table["molecule"] = molecule("CH3OH")
    table["isolated atom"] = Atoms("He")
    table["no edges"] = Atoms("NaU", positions=[[0, 0, 0], [9, 9, 9]], cell=np.eye(3) * 18, pbc=True)
    table["no triplets"] = Atoms("KCl", positions=[[0, 0, 0], [0, 0, 4.4]])
    table["unwrapped"] = Atoms("GaAs", cell=bulk("GaAs", "zincblende", a=5.4).cell, pbc=True)
    table["unwrapped"].positions = [[-0.1, 0, 0.2], [1.4, 1.3, 1.2]] + np.array([[7, -3, 2], [-1, 0, 4]]) @ [
        *table["unwrapped"].cell
    ]
    for k, name in enumerate(("dense metal", "skewed", "left-handed", "molecule")):
        table[name].rattle(0.07, seed=k)
    return table


def graph_of(atoms: Atoms, *, skin: float = 0.0, cutoff: float = 5.0) -> Graph:
    return from_ase(atoms, cutoff + skin)


def split(properties: Properties, counts: Sequence[int]) -> list[Properties]:
    """Predictions of a batch, one item for each structure (numpy, ``energy`` a number, ``stress`` (3, 3))."""
    ends = np.cumsum(counts)
    energy, forces, stress, energies = (np.asarray(x) for x in properties)
    return [
        Properties(energy[k], forces[end - n : end], stress[k], energies[end - n : end])
        for k, (n, end) in enumerate(zip(counts, ends, strict=True))
    ]


def evaluate_graphs(
    potential: Potential, graphs: Sequence[Graph], dtype: str, capacity: Sizes = CAPACITY
) -> list[Properties]:
    with numerics(dtype):
        result = jit_predict(potential, as_dtype(batch(graphs, capacity), dtype))
    return split(result, [len(graph.species) for graph in graphs])


def evaluate(
    name: str, dtype: str, atoms: Sequence[Atoms], *, skin: float = 0.0, capacity: Sizes = CAPACITY
) -> list[Properties]:
    """Predictions of the random potential ``name`` for each structure."""
    graphs = [graph_of(a, skin=skin) for a in atoms]
    return evaluate_graphs(random_potential(name, dtype), graphs, dtype, capacity)


@functools.cache
def reference(name: str, dtype: str) -> list[Properties]:
    """Predictions for the table of structures; do not write into them."""
    return evaluate(name, dtype, [*structures().values()])


SMALL = Properties(energy=1.0, forces=0.5, stress=0.02, energies=1.0)  # below this a relative error means little


def deviation(a: Properties, b: Properties) -> float:
    """Largest difference of two predictions relative to the size of each quantity; inf if NaNs differ."""
    largest = 0.0
    for x, y, small in zip(a, b, SMALL, strict=True):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        if x.shape != y.shape or (np.isnan(x) != np.isnan(y)).any():
            return np.inf
        x, y = np.nan_to_num(x), np.nan_to_num(y)
        largest = max(largest, np.abs(x - y).max(initial=0) / (small + np.abs(y).max(initial=0)))
    return float(largest)
