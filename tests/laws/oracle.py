"""M3GNet once more, written slowly: numpy, explicit loops over pairs of edges, an angle for each triplet.

From the formulas of the papers (see m3pot.models.m3gnet); shares with the package only the zeros of the
Bessel functions, which have a test of their own.
"""

import numpy as np
from ase import units
from ase.data import covalent_radii
from scipy.special import sph_harm_y, spherical_jn

from m3pot.graph import Graph
from m3pot.math.radial import bessel_zeros
from m3pot.models.m3gnet import M3GNet
from m3pot.models.zbl import COULOMB, ShortRange


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def sinc(x):
    return np.sinc(x / np.pi)


def smooth(r, count, cutoff):
    """g_0 .. g_{count-1} of one distance."""
    g, d = [], [1.0]
    for n in range(count):
        factor = (-1) ** n * np.sqrt(2) * np.pi * cutoff**-1.5 * (n + 1) * (n + 2) / np.hypot(n + 1, n + 2)
        f = factor * (sinc((n + 1) * np.pi * r / cutoff) + sinc((n + 2) * np.pi * r / cutoff))
        if n == 0:
            g.append(f)
            continue
        e = n**2 * (n + 2) ** 2 / (4 * (n + 1) ** 4 + 1)
        g.append((f + np.sqrt(e / d[-1]) * g[-1]) / np.sqrt(1 - e / d[-1]))
        d.append(1 - e / d[-1])
    return np.array(g)


def bessel(r, orders, count, cutoff):
    """chi_ln of one distance, l-major."""
    z = bessel_zeros(orders, count)
    return np.array(
        [
            np.sqrt(2 / cutoff**3) / abs(spherical_jn(l + 1, z[l, n])) * spherical_jn(l, z[l, n] * r / cutoff)
            for l in range(orders)
            for n in range(count)
        ]
    )


def gated(params, x, *, linear_end=False):
    depth = sum(key.startswith("value") and key.endswith("kernel") for key in params)
    value = gate = x
    for m in range(depth):
        value = value @ params[f"value_{m}_kernel"] + params.get(f"value_{m}_bias", 0)
        gate = gate @ params[f"gate_{m}_kernel"] + params.get(f"gate_{m}_bias", 0)
        value = value if linear_end and m == depth - 1 else silu(value)
        gate = sigmoid(gate) if m == depth - 1 else silu(gate)
    return value * gate


def triplets(model: M3GNet, graph: Graph, vectors: np.ndarray) -> list[tuple[int, int, np.ndarray]]:
    """(edge ij, edge ik, f3(r_ij) R_q(r_ik) Y_l(cos theta_jik) f3(r_ik)) for all pairs of edges of one centre."""
    lengths, near = np.linalg.norm(vectors, axis=1), []
    columns = model.max_l * model.max_n
    radial, cut = {}, {}
    for e in np.flatnonzero(lengths < model.threebody_cutoff):
        t = lengths[e] / model.threebody_cutoff
        cut[e] = 1 - 6 * t**5 + 15 * t**4 - 10 * t**3
        if model.smooth_threebody:
            radial[e] = smooth(lengths[e], columns, model.cutoff)
        else:
            radial[e] = bessel(lengths[e], model.max_l, model.max_n, model.cutoff)
        near.append(e)
    found = []
    for ij in near:
        for ik in near:
            if ij == ik or graph.receivers[ij] != graph.receivers[ik]:
                continue
            cosine = vectors[ij] @ vectors[ik] / (lengths[ij] * lengths[ik])
            theta = np.arccos(np.clip(cosine, -1, 1))
            angular = np.repeat([sph_harm_y(l, 0, theta, 0).real for l in range(model.max_l)], model.max_n)
            found.append((ij, ik, cut[ij] * radial[ik] * angular * cut[ik]))
    return found


def edge_vectors(graph: Graph) -> np.ndarray:
    return graph.positions[graph.senders] - graph.positions[graph.receivers] + graph.shifts @ graph.cell[0]


def repulsion(graph: Graph, short: ShortRange) -> np.ndarray:
    """Half of the screened Coulomb energy of each edge, faded between two distances, summed over centres, eV."""
    energies = np.zeros(len(graph.species))
    for i, j, vector in zip(graph.receivers, graph.senders, edge_vectors(graph), strict=True):
        z, w, r = graph.species[i], graph.species[j], np.linalg.norm(vector)
        t = max((r / (covalent_radii[z] + covalent_radii[w]) - short.first) / (short.last - short.first), 0)
        if t < 1:
            energies[i] += 0.5 * screened_coulomb(z, w, r) * (1 - 10 * t**3 + 15 * t**4 - 6 * t**5)
    return energies


def screened_coulomb(z: float, w: float, r: float) -> float:
    """Ziegler, Biersack, Littmark: e^2/(4 pi eps0) z w / r * phi(r/a), a = 0.8854 bohr / (z^0.23 + w^0.23)."""
    x = r * (z**0.23 + w**0.23) / (0.8854 * units.Bohr)
    terms = ((0.18175, 3.1998), (0.50986, 0.94229), (0.28022, 0.4029), (0.02817, 0.20162))
    return COULOMB * z * w / r * sum(a * np.exp(-b * x) for a, b in terms)


def atomic_energies(model: M3GNet, params: dict, graph: Graph) -> np.ndarray:
    """What ``model.apply`` must return for one structure of exact size (numpy, float64)."""
    i, j = graph.receivers, graph.senders
    vectors = edge_vectors(graph)
    lengths = np.linalg.norm(vectors, axis=1)
    columns = model.max_l * model.max_n
    if model.smooth_pairs:
        rho = [smooth(r, model.max_n, model.cutoff) for r in lengths]
    else:
        rho = [bessel(min(r, model.cutoff), model.max_l, model.max_n, model.cutoff) for r in lengths]
    rho = np.reshape(rho, (len(i), model.max_n if model.smooth_pairs else columns))
    found = triplets(model, graph, vectors)
    v = params["node_embedding"]["table"][graph.species]
    e = silu(rho @ params["edge_embedding"]["kernel"] + params["edge_embedding"].get("bias", 0))
    for b in range(model.blocks):
        block = {key.removeprefix(f"block_{b}_"): value for key, value in params.items()}
        gate = sigmoid(v @ block["three_gate"]["kernel"] + block["three_gate"]["bias"])
        t = np.zeros((len(i), columns))
        for ij, ik, product in found:
            t[ij] += product * gate[i[ij] if model.gate_center else j[ik]]
        e = e + gated(block["three_update"], t)
        e = e + gated(block["edge_update"], np.hstack([v[i], v[j], e])) * (rho @ block["edge_radial"]["kernel"])
        factor = rho @ block["node_radial"]["kernel"]
        factor = silu(factor) if model.node_radial_silu else factor
        message = gated(block["node_update"], np.hstack([v[i], v[j], e])) * factor
        v = v.copy()
        np.add.at(v, i, message)
    return gated(params["energy"], v, linear_end=True)[:, 0]
