"""A toy world: copper and silver bound by a Morse potential, and a model that compiles in a second."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ase.build import bulk
from ase.calculators.morse import MorsePotential

from m3pot.data.frames import Frames, make
from m3pot.data.graphs import EdgeCache
from m3pot.graph import real_edges, sum_receivers
from m3pot.io import checkpoint
from m3pot.math import safe
from m3pot.math.radial import smooth_basis
from m3pot.models import MODELS
from m3pot.models.m3gnet import M3GNet
from m3pot.potential import Potential
from m3pot.train.config import TrainConfig, make_config
from m3pot.train.prepare import random_potential

CUTOFF = 3.6
REFERENCES = {29: -3.0, 47: 2.0}  # eV, put on top of the Morse energy


class Pair(nn.Module):
    """Density of neighbours through a small network: has kernels, biases and an embedding, as the real models do."""

    units: int = 8
    cutoff: float = CUTOFF

    @nn.compact
    def __call__(self, graph, vectors):
        r = safe.norm(vectors)
        near = real_edges(graph) & (r < self.cutoff)
        radial = jnp.where(near[:, None], smooth_basis(r, 3, self.cutoff), 0)
        table = self.param("node_embedding", nn.initializers.normal(1.0), (95, self.units))
        species = jnp.asarray(graph.species)
        pairs = nn.Dense(self.units, use_bias=False, name="radial")(radial) * (1 + table[species[graph.senders]])
        density = sum_receivers(pairs, graph)
        hidden = nn.silu(nn.Dense(self.units, name="hidden")(density) + table[species])
        return nn.Dense(1, name="energy")(hidden)[:, 0]


def register() -> None:
    """Let model files hold a Pair, in this process."""
    MODELS["Pair"] = Pair
    checkpoint.parameter_shapes.cache_clear()


@functools.cache
def morse(count: int, seed: int = 0) -> Frames:
    """Strained and rattled fcc cells of four atoms, two frames of each parent."""
    rng = np.random.default_rng(seed)
    cells = []
    for _ in range(count):
        atoms = bulk("Cu", "fcc", a=3.6, cubic=True)
        atoms.numbers[rng.random(4) < 0.4] = 47
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0, 0.02, (3, 3))), scale_atoms=True)
        atoms.positions += rng.normal(0, 0.08, (4, 3))
        atoms.calc = MorsePotential(epsilon=0.3, r0=2.6, rho0=4.0, rcut1=3.0, rcut2=3.55)
        cells.append(atoms)
    shifts = [sum(REFERENCES[z] for z in atoms.numbers) for atoms in cells]
    return make(
        [4] * count,
        np.concatenate([atoms.numbers for atoms in cells]),
        np.concatenate([atoms.positions for atoms in cells]),
        np.stack([atoms.cell.array for atoms in cells]),
        energy=[atoms.get_potential_energy() + shift for atoms, shift in zip(cells, shifts, strict=True)],
        forces=np.concatenate([atoms.get_forces() for atoms in cells]),
        stress=np.stack([atoms.get_stress(voigt=False) for atoms in cells]),
        group=[f"parent {seed} {k // 2}" for k in range(count)],
        name=[f"cell {k}" for k in range(count)],
    )


def edges(frames: Frames, cutoff: float = CUTOFF) -> EdgeCache:
    return EdgeCache.build(frames, cutoff)


def pair(seed: int = 0, units: int = 8) -> Potential:
    """A Pair with random parameters and the right references."""
    register()
    config = make_config({"data": {"train": ["-"]}, "model": {"name": "Pair", "fields": {"units": units}}})
    potential = random_potential(config.model, morse(8), seed)
    potential.shift[list(REFERENCES)] = [z - 2.0 for z in REFERENCES.values()]
    return potential


def m3gnet(seed: int = 0) -> Potential:
    """A tiny M3GNet with random parameters."""
    model = M3GNet(units=8, blocks=1, max_l=2, max_n=2, cutoff=CUTOFF, threebody_cutoff=CUTOFF)
    graph, _ = next(iter_graphs(morse(2), 1))
    params = model.init(jax.random.key(seed), graph, np.ones((len(graph.senders), 3), np.float32))["params"]
    params = jax.tree.map(np.asarray, params)
    return Potential(model, params, np.ones(95, np.float32), np.zeros(95, np.float32), np.float32(0), card={})


def iter_graphs(frames: Frames, count: int):
    """Batches of ``count`` frames as (graph, labels) in float64."""
    from m3pot.data.batching import assemble
    from m3pot.graph import Sizes

    cache = edges(frames)
    capacity = Sizes(count + 1, 4 * count + 1, int(cache.n_edges.max()) * count)
    for first in range(0, len(frames), count):
        yield assemble(cache, np.arange(first, first + count), capacity, np.float64)


def configured(folder, steps: int = 40, **changes) -> TrainConfig:
    """A configuration for :func:`m3pot.train.fit.fit` on these frames; ``changes`` as ``optim__lr=1e-3``."""
    tree = {
        "output": str(folder),
        "valid_every": 10,
        "save_every": 10,
        "data": {"train": ["-"], "edge_budget": 1200},
        "optim": {"steps": steps, "lr": 5e-3, "warmup": 5, "ema": 0.9},
    }
    return make_config(tree, [f"{key.replace('__', '.')}={value}" for key, value in changes.items()])
