"""M3GNet with three-body interactions, in every published dialect, without a triplet list.

C. Chen, S. P. Ong, A universal graph deep learning interatomic potential for the periodic table,
Nat. Comput. Sci. 2, 718 (2022). Dialects: the original TensorFlow code, MatGL >= 4 (smooth and Bessel
basis), MatterSim v1 (H. Yang et al., arXiv:2405.04967). ``DIALECTS`` holds the fields of each.
"""

import math

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from m3pot.graph import Graph, real_edges, sum_receivers, sum_structures
from m3pot.math import safe, spherical
from m3pot.math.activation import sigmoid, silu
from m3pot.math.radial import bessel_basis, polynomial_cutoff, smooth_basis
from m3pot.models.layers import MLP, ElementEmbedding, GatedMLP

DIALECTS: dict[str, dict] = {
    "tensorflow": {},
    "matgl": dict(smooth_threebody=True, edge_bias=True, update_layers=3, node_radial_silu=False, readout_layers=4),
    "matgl-bessel": dict(smooth_pairs=False, edge_bias=True, update_layers=3, node_radial_silu=False, readout_layers=4),
    "mattersim": dict(units=128, max_l=4, max_n=4, gate_center=True),
}


class Trunk(nn.Module):
    """Embedding and interaction blocks: graph -> features of atoms (and of the state). Fields are the configuration."""

    units: int = 64  # features of atoms and edges
    hidden: int = 0  # width of the hidden layers; 0: as units
    blocks: int = 3
    max_l: int = 3  # angular orders l = 0 .. max_l-1
    max_n: int = 3  # radial functions of each order
    cutoff: float = 5.0  # A
    threebody_cutoff: float = 4.0  # A
    smooth_pairs: bool = True  # pair features: max_n smooth functions, or max_l*max_n Bessel functions
    smooth_threebody: bool = False  # the same choice for the radial part of the three-body sum
    gate_center: bool = False  # three-body gate reads the centre i instead of the far atom k
    edge_bias: bool = False  # bias in the embedding of edges
    update_layers: int = 2  # depth of the edge and node updates
    node_radial_silu: bool = True  # silu on the radial factor of the node update
    state: str = ""  # state of a structure: "" none, "label" integer, "linear" vector through a Dense, "raw" vector
    state_dim: int = 0  # features of the state
    state_size: int = 0  # number of labels, or length of the vector given to "linear"

    @nn.nowrap
    def features(
        self, graph: Graph, vectors: Float[Array, "e 3"], state: Array | None = None
    ) -> tuple[Float[Array, "n units"], Float[Array, "b state"] | None]:
        """Run all blocks. Edges beyond the cutoff change nothing: the list may carry a skin.

        Written for use inside a compact ``__call__``.
        """
        r = safe.norm(vectors)
        real = real_edges(graph)
        # Zero radial features end the message of an edge beyond the cutoff (no bias in the radial factor), and far
        # edges reach an atom in no other way: this one test makes a skin exact.
        radial = jnp.where((real & (r <= self.cutoff))[:, None], self._pair_basis(r), 0)
        threebody = self._threebody(graph, vectors, r, real)
        structure_of_edge = jnp.asarray(graph.owner)[graph.receivers]

        v = ElementEmbedding(self.units, name="node_embedding")(graph.species)
        e = silu(nn.Dense(self.units, use_bias=self.edge_bias, name="edge_embedding")(radial))
        u = self._embed_state(state)
        hidden = self.hidden or self.units
        widths = (hidden,) * (self.update_layers - 1) + (self.units,)
        for b in range(self.blocks):
            columns = self.max_l * self.max_n
            gate = sigmoid(nn.Dense(columns, name=f"block_{b}_three_gate")(v))
            t = threebody(gate)
            e = e + GatedMLP((self.units,), use_bias=False, name=f"block_{b}_three_update")([(t, None)])

            state_part = [] if u is None else [(u, structure_of_edge)]
            ends = [(v, graph.receivers), (v, graph.senders)]
            factor = nn.Dense(self.units, use_bias=False, name=f"block_{b}_edge_radial")(radial)
            update = GatedMLP(widths, name=f"block_{b}_edge_update")
            e = e + update([*ends, (e, None), *state_part]) * factor

            factor = nn.Dense(self.units, use_bias=False, name=f"block_{b}_node_radial")(radial)
            factor = silu(factor) if self.node_radial_silu else factor
            update = GatedMLP(widths, name=f"block_{b}_node_update")
            v = v + sum_receivers(update([*ends, (e, None), *state_part]) * factor, graph)
            if u is not None:
                mean = mean_atoms(v, graph)
                u = MLP((hidden, hidden, self.state_dim), name=f"block_{b}_state_update")(
                    jnp.concatenate([u, mean], axis=-1)
                )
        return v, u

    def _pair_basis(self, r: Float[Array, " e"]) -> Float[Array, "e d"]:
        if self.smooth_pairs:
            return smooth_basis(r, self.max_n, self.cutoff)
        basis = bessel_basis(jnp.minimum(r, self.cutoff), self.max_l, self.max_n, self.cutoff)
        return basis.reshape(len(r), self.max_l * self.max_n)

    def _threebody(self, graph: Graph, vectors, r, real):
        """The function (gate per atom) -> t_ij, columns l*max_n + n.

        t_ij,ln = f(r_ij) sum_{k != j} g_ln R_ln(r_ik) f(r_ik) Y_l0(cos theta_jik), through the addition theorem
        Y_l0(u.w) = sqrt(4 pi/(2l+1)) sum_m Y_lm(u) Y_lm(w): one sum over edges gives A_i[lm, n], and one contraction
        per edge gives t, less the edge's own share. Cost and memory are linear in the number of edges.
        """
        orders, count = self.max_l, self.max_n
        near = real & (r < self.threebody_cutoff)
        length = jnp.where(near, r, self.threebody_cutoff)
        cut = jnp.where(near, polynomial_cutoff(length, self.threebody_cutoff), 0)
        if self.smooth_threebody:
            basis = smooth_basis(length, orders * count, self.cutoff)
        else:
            basis = bessel_basis(length, orders, count, self.cutoff)
        basis = basis.reshape(len(r), orders * count) * cut[:, None]
        unit = vectors / jnp.where(r > 0, r, 1)[:, None]
        spread_y, spread_w, gather = (jnp.asarray(m, r.dtype) for m in _columns(orders, count))
        y = _select(spherical.harmonics(unit, orders), spread_y)

        def contract(weights: Float[Array, "e l*n"]) -> Float[Array, "e l*n"]:
            own = y * _select(weights, spread_w)
            others = sum_receivers(own, graph)[graph.receivers] - own
            return _select(y * others, gather) * cut[:, None]

        if self.gate_center:  # the sum holds no weights: compute it once for all blocks
            total = contract(basis)
            return lambda gate: total * gate[graph.receivers]
        return lambda gate: contract(basis * gate[graph.senders])

    def _embed_state(self, state: Array | None) -> Float[Array, "b state"] | None:
        if not self.state:
            return None
        if state is None:
            raise ValueError("This model was trained with a state of each structure; give `state`.")
        if self.state == "label":
            table = self.param("state_embedding", nn.initializers.normal(1.0), (self.state_size, self.state_dim))
            return table[state]
        if self.state == "linear":
            return silu(nn.Dense(self.state_dim, use_bias=False, name="state_embedding")(state))
        return state


def _columns(orders: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Constant matrices between the columns lm, ln and lmn of the three-body sum.

    (orders^2, k) spreads Y_lm over n, (orders*count, k) spreads w_ln over m, and (k, orders*count) sums over m with
    sqrt(4 pi/(2l+1)). As matrix products they and their derivatives run at full speed on flat arrays.
    """
    order_of = spherical.order_of_column(orders)
    lm = np.repeat(np.arange(orders**2), count)
    ln = (order_of[:, None] * count + np.arange(count)).ravel()
    scale = np.sqrt(4 * math.pi / (2 * order_of[lm] + 1))
    spread_w = np.eye(orders * count)[:, ln]
    return np.eye(orders**2)[:, lm], spread_w, spread_w.T * scale[:, None]


def _select(x: Float[Array, "e a"], matrix: Float[Array, "a b"]) -> Float[Array, "e b"]:
    """Product with a constant matrix, never rounded to TF32: it moves columns, it does not mix them."""
    return jnp.matmul(x, matrix, precision="highest")


def mean_atoms(values: Float[Array, "n *rest"], graph: Graph) -> Float[Array, "b *rest"]:
    """Mean of an atomic quantity over each structure; 0 for a structure without atoms."""
    counts = sum_structures((jnp.asarray(graph.species) > 0).astype(values.dtype), graph)
    real = (jnp.asarray(graph.species) > 0)[:, None]
    return sum_structures(jnp.where(real, values, 0), graph) / jnp.maximum(counts, 1)[:, None]


class M3GNet(Trunk):
    """Graph -> energy of each atom, before scale and element references (dimensionless)."""

    readout_layers: int = 3

    @nn.compact
    def __call__(self, graph: Graph, vectors: Float[Array, "e 3"]) -> Float[Array, " n"]:
        """Atomic energies; ``vectors`` are r_ij in A (:func:`m3pot.graph.edge_vectors`)."""
        v, _ = self.features(graph, vectors)
        hidden = self.hidden or self.units
        widths = (self.units,) * (self.readout_layers - 3) + (hidden, hidden, 1)  # MatGL's first layer keeps the width
        return GatedMLP(widths, linear_end=True, name="energy")([(v, None)])[:, 0]
