"""Screened nuclear repulsion at short range: no attraction when atoms overlap."""

import jax.numpy as jnp
import numpy as np
from ase.data import covalent_radii
from jaxtyping import Array, Float

from m3pot.graph import Graph, real_edges, sum_receivers
from m3pot.math import safe

COULOMB = 14.399645478425668  # e^2/(4 pi eps0) in eV A
_BOHR = 0.5291772105638411  # A
_WEIGHTS = (0.18175, 0.50986, 0.28022, 0.02817)
_RATES = (3.19980, 0.94229, 0.40290, 0.20162)


def zbl_energies(graph: Graph, vectors: Float[Array, "e 3"]) -> Float[Array, " n"]:
    """Half of the pair repulsion of each atom, eV.

    V(r) = 14.4 Z_i Z_j / r * phi(r/a), a = 0.46850/(Z_i^0.23 + Z_j^0.23) A, times an envelope
    (1 - t)^3 (1 + 3t + 6t^2) of t = r/(R_i + R_j) that ends with value, slope and curvature at the sum of the
    covalent radii. J. F. Ziegler, J. P. Biersack, U. Littmark, The Stopping and Range of Ions in Solids (1985).
    """
    dtype = vectors.dtype
    species = jnp.asarray(graph.species)
    radii = jnp.asarray(covalent_radii[:95], dtype)[species]
    powers = jnp.asarray(np.arange(95) ** 0.23, dtype)[species]
    charge = species.astype(dtype)
    i, j = graph.receivers, graph.senders
    reach = radii[i] + radii[j]
    r = safe.norm(vectors)
    close = real_edges(graph) & (r < reach) & (r > 0)
    r = jnp.where(close, r, reach)
    x = r * (powers[i] + powers[j]) / (0.8854 * _BOHR)
    screening = sum(w * jnp.exp(-k * x) for w, k in zip(_WEIGHTS, _RATES, strict=True))
    t = r / reach
    envelope = (1 - t) * (1 - t) * (1 - t) * (1 + t * (3 + 6 * t))
    pair = 0.5 * COULOMB * charge[i] * charge[j] / r * screening * envelope
    return sum_receivers(jnp.where(close, pair, 0), graph)
