"""MatterSim v1 checkpoints (``.pth``, H. Yang et al., arXiv:2405.04967)."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from m3pot.io.checkpoint import CheckpointError
from m3pot.io.convert.card import imported
from m3pot.io.convert.names import NameMap, checksums, known_elements, parameters, positive, take
from m3pot.io.convert.torch_file import state_dict
from m3pot.math.radial import bessel_zeros
from m3pot.models.m3gnet import DIALECTS, M3GNet
from m3pot.potential import Potential

_NAMES = NameMap(
    templates={
        "node_embedding": "atom_embedding.mlp.0.linear.weight",
        "edge_embedding": "edge_encoder.mlp.0.{leaf}",
        "three_gate": "graph_conv.{block}.three_body.atom_mlp.{leaf}",
        "three_update": "graph_conv.{block}.three_body.edge_gate_mlp.{branch}.{layer}.{leaf}",
        "edge_update": "graph_conv.{block}.gated_mlp_edge.{branch}.{layer}.{leaf}",
        "edge_radial": "graph_conv.{block}.edge_layer_edge.{leaf}",
        "node_update": "graph_conv.{block}.gated_mlp_atom.{branch}.{layer}.{leaf}",
        "node_radial": "graph_conv.{block}.edge_layer_atom.{leaf}",
        "energy": "final.{branch}.{layer}.{leaf}",
    },
    words={"value": "g", "gate": "sigma", "kernel": "linear.weight", "bias": "linear.bias"},
    transposed=True,
)
# Tables of the basis functions, rounded to float32. We compute the functions exactly; results move by up to
# 2e-6 eV/atom and 1.3e-6 eV/A, the size of float32 noise.
_IGNORED = (r"rbf\.(fnr_weights|en|dn|n_1_pi_cutoff|n_2_pi_cutoff)",)
_WITHOUT_EFFECT = {"device"}
_USED = {"num_blocks", "units", "max_l", "max_n", "cutoff", "threebody_cutoff", "max_z"}


def from_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> Potential:
    """Import what :func:`m3pot.io.convert.torch_file.read_torch` read from ``path``."""
    name = checkpoint.get("model_name", "m3gnet")
    if name != "m3gnet":
        raise CheckpointError(f"{path} holds the model {name!r}; only MatterSim's m3gnet can be imported.")
    options = checkpoint.get("model_args")
    if not isinstance(options, Mapping):
        raise CheckpointError(f"{path}: model_args is missing; save the checkpoint again with MatterSim.")
    return from_arrays(state_dict(checkpoint.get("model"), str(path)), options, str(path), checksums([path]))


def from_arrays(
    arrays: Mapping[str, np.ndarray], options: Mapping[str, Any], source: str, sha256: Mapping[str, str]
) -> Potential:
    """Potential from the state dict and ``model_args``; E = sum_i (scale[Z_i] e_i + shift[Z_i])."""
    arrays = dict(arrays)
    unknown = sorted(options.keys() - _USED - _WITHOUT_EFFECT)  # MatterSim's own class ignores them, too
    doubts = [f"The options {', '.join(unknown)} are unknown to MatterSim 1.2 and were ignored."] if unknown else []
    positive(options, ("num_blocks", "units", "max_l", "max_n"), ("cutoff", "threebody_cutoff"), source)
    orders = options["max_l"]
    if orders != options["max_n"] or orders > 4:
        raise CheckpointError(
            f"{source}: max_l={orders}, max_n={options['max_n']} is not supported: MatterSim mixes them up unless they "
            "are equal, and has no more than 4."
        )
    if options.get("max_z", 94) != 94:
        raise CheckpointError(f"{source}: max_z={options['max_z']} is not supported; only tables up to element 94 are.")
    _check_basis(arrays, orders, options["cutoff"], source)
    scale, shift = (take(arrays, f"normalizer.{key}", (95,), source) for key in ("scale", "shift"))
    table = take(arrays, _NAMES.templates["node_embedding"], (options["units"], 95), source)
    arrays[_NAMES.templates["node_embedding"]] = table.T
    model = M3GNet(
        **DIALECTS["mattersim"]
        | {
            "units": options["units"],
            "blocks": options["num_blocks"],
            "max_l": orders,
            "max_n": orders,
            "cutoff": options["cutoff"],
            "threebody_cutoff": options["threebody_cutoff"],
        }
    )
    params = parameters(model, _NAMES, arrays, _IGNORED, source)
    provenance = "imported from a MatterSim v1 checkpoint; basis functions exact instead of rounded tables"
    card = imported("mattersim", known_elements(shift), provenance, sha256, doubts)
    return Potential(model, params, scale, shift, np.zeros((), scale.dtype), card=card)


def _check_basis(arrays: dict[str, np.ndarray], orders: int, cutoff: float, source: str) -> None:
    """Refuse a file whose stored basis is not the one that we compute: cutoff, amplitude, zeros of j_l.

    The published v1.0.0 files hold no table of zeros; MatterSim 1.2 stores one.
    """
    radius = take(arrays, "rbf.r_max", (), source)
    factor = take(arrays, "sbf.factor", (), source)
    same = np.allclose([radius, factor], [cutoff, math.sqrt(2 / cutoff**3)], rtol=1e-5)
    if "sbf.coef" in arrays:
        table = take(arrays, "sbf.coef", (4, 9, 4), source)
        zeros = table[:orders, 1, :orders]  # row l: pairs of amplitude and frequency; at l = 0 entry 0 is the frequency
        if orders:
            zeros = np.concatenate([table[:1, 0, :orders], zeros[1:]])
        same &= np.allclose(zeros, bessel_zeros(orders, orders), rtol=1e-5)
    if not same:
        raise CheckpointError(f"{source}: the stored basis functions do not belong to cutoff={cutoff}; file damaged.")
