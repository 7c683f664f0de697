"""Short range: screened nuclear repulsion, and distances below those of any training frame kept from the network."""

from typing import NamedTuple

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


class ShortRange(NamedTuple):
    """Distances in units of the sum of the covalent radii."""

    blind: float  # below, the network sees a constant distance
    sight: float  # from here on it sees the true one
    first: float  # here the repulsion begins to fade
    last: float  # here it ends


LEARNED = ShortRange(0.57, 0.63, 0.0, 1.0)  # for a network that learns beside the repulsion, from frames down to 0.6
ADDED = ShortRange(0.52, 0.60, 0.46, 0.62)  # for one that learned without it, short of its bonds


def widened(graph: Graph, vectors: Float[Array, "e 3"], short: ShortRange) -> Float[Array, "e 3"]:
    """The edge vectors as a network may see them: as they are from ``short.sight`` on.

    Shorter ones keep their direction, but their length ends halfway between sight and blind: its slope by the true
    length falls from 1 to 0 between the two, as x^3 (10 - 15 x + 6 x^2), so that the energy keeps three derivatives.
    What a network says of atoms closer than it has ever seen is noise, of hundreds of eV/A; there the repulsion alone
    decides.
    """
    r, reach = _lengths(graph, vectors)
    width = short.sight - short.blind
    close = real_edges(graph) & (r < short.sight * reach) & (r > 0)
    r = jnp.where(close, r, short.sight * reach)
    x = jnp.maximum((r / reach - short.blind) / width, 0)
    length = short.sight - width * (0.5 - x * x * x * x * (2.5 - x * (3 - x)))
    return jnp.where(close[:, None], vectors * (length * reach / r)[:, None], vectors)


def zbl_energies(graph: Graph, vectors: Float[Array, "e 3"], short: ShortRange) -> Float[Array, " n"]:
    """Half of the pair repulsion of each atom, eV.

    V(r) = 14.4 Z_i Z_j / r * phi(r/a), a = 0.46850/(Z_i^0.23 + Z_j^0.23) A, times an envelope
    (1 - t)^3 (1 + 3t + 6t^2), where t goes from 0 to 1 between ``short.first`` and ``short.last``; at both ends slope
    and curvature vanish. J. F. Ziegler, J. P. Biersack, U. Littmark, The Stopping and Range of Ions in Solids (1985).
    """
    dtype = vectors.dtype
    species = jnp.asarray(graph.species)
    powers = jnp.asarray(np.arange(95) ** 0.23, dtype)[species]
    charge = species.astype(dtype)
    i, j = graph.receivers, graph.senders
    r, reach = _lengths(graph, vectors)
    close = real_edges(graph) & (r < short.last * reach) & (r > 0)
    r = jnp.where(close, r, short.last * reach)
    x = r * (powers[i] + powers[j]) / (0.8854 * _BOHR)
    screening = sum(w * jnp.exp(-k * x) for w, k in zip(_WEIGHTS, _RATES, strict=True))
    t = jnp.maximum((r / reach - short.first) / (short.last - short.first), 0)
    envelope = (1 - t) * (1 - t) * (1 - t) * (1 + t * (3 + 6 * t))
    pair = 0.5 * COULOMB * charge[i] * charge[j] / r * screening * envelope
    return sum_receivers(jnp.where(close, pair, 0), graph)


def _lengths(graph: Graph, vectors: Float[Array, "e 3"]) -> tuple[Float[Array, " e"], Float[Array, " e"]]:
    """Length of each edge, and the sum of the covalent radii of its ends, A."""
    radii = jnp.asarray(covalent_radii[:95], vectors.dtype)[jnp.asarray(graph.species)]
    return safe.norm(vectors), radii[graph.receivers] + radii[graph.senders]
