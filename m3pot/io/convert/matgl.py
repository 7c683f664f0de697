"""Models saved by MatGL >= 4 (folders with ``model.json`` and ``state.pt``): potentials and intensive property models.

An import reproduces what MatGL >= 4.0.4 computes with the file. Whether the weights were trained with that convention
cannot be read from it (``CONVENTION``).
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase.data import atomic_numbers

from m3pot.io.checkpoint import CheckpointError
from m3pot.io.convert.card import imported
from m3pot.io.convert.names import NameMap, atom_rows, checksums, parameters, positive, take
from m3pot.io.convert.torch_file import read_torch, state_dict
from m3pot.models.m3gnet import DIALECTS, M3GNet
from m3pot.potential import Potential
from m3pot.readout import M3GNetProperty, PropertyModel

CONVENTION = (
    "MatGL files do not record the version they were trained with, and versions before 4.0.4 computed messages and "
    "three-body sums differently: this model gives what MatGL >= 4.0.4 computes; check its errors on data before use."
)
JUMP = (
    "This model uses the non-smooth basis: forces jump whenever a neighbour crosses the cutoff, so expect energy "
    "drift in dynamics and rough minima."
)

_TEMPLATES = {
    "node_embedding": "embedding.layer_node_embedding.weight",
    "edge_embedding": "embedding.layer_edge_embedding.layers.0.{leaf}",
    "three_gate": "three_body_interactions.{block}.update_network_atom.layers.0.{leaf}",
    "three_update": "three_body_interactions.{block}.update_network_bond.{branch}.{layer}.{leaf}",
    "edge_update": "graph_layers.{block}.conv.edge_update_func.{branch}.{even}.{leaf}",
    "edge_radial": "graph_layers.{block}.conv.edge_weight_func.{leaf}",
    "node_update": "graph_layers.{block}.conv.node_update_func.{branch}.{even}.{leaf}",
    "node_radial": "graph_layers.{block}.conv.node_weight_func.{leaf}",
    "state_update": "graph_layers.{block}.conv.state_update_func.layers.{even}.{leaf}",
    "energy": "final_layer.gated.{branch}.{even}.{leaf}",
    "property": "final_layer.layers.{even}.{leaf}",
    "weighted/weight": "readout.weight.layers.{even}.{leaf}",
    "weighted/value": "readout.mlp.layers.{even}.{leaf}",
    "set2set": "readout.lstm.{leaf}_l{layer}",
}
_STATE = {"label": "embedding.layer_state_embedding.weight", "linear": "embedding.layer_state_embedding.0.{leaf}"}
_WORDS = {
    "value": "layers",
    "gate": "gates",
    "kernel": "weight",
    "input_kernel": "weight_ih",
    "hidden_kernel": "weight_hh",
    "input_bias": "bias_ih",
    "hidden_bias": "bias_hh",
}
_IGNORED = (r"(.*\.)?onehot",)
_DEFAULTS = {  # MatGL's own, for files that leave them out; options beyond these are refused
    "element_types": None,
    "dim_node_embedding": 64,
    "dim_edge_embedding": 64,
    "dim_state_embedding": 0,
    "ntypes_state": None,
    "dim_state_feats": None,
    "max_n": 3,
    "max_l": 3,
    "nblocks": 3,
    "rbf_type": "SphericalBessel",
    "is_intensive": True,
    "readout_type": "weighted_atom",
    "task_type": "regression",
    "cutoff": 5.0,
    "threebody_cutoff": 4.0,
    "units": 64,
    "ntargets": 1,
    "use_smooth": False,
    "use_phi": False,
    "niters_set2set": 3,
    "nlayers_set2set": 3,
    "field": "node_feat",
    "include_state": False,
    "activation_type": "swish",
    "dropout": None,  # inert after training
}
_REQUIRED = {"rbf_type": "SphericalBessel", "use_phi": False, "field": "node_feat", "activation_type": "swish"}


class Document(NamedTuple):
    """What ``model.json`` says."""

    kind: str  # Potential, TransformedTargetModel or M3GNet
    options: dict[str, Any]  # of the network
    outer: dict[str, Any]  # of what is wrapped around it


def from_folder(folder: Path) -> Potential | PropertyModel:
    """Import a folder with ``model.json`` and ``state.pt`` (``model.pt`` is not needed)."""
    document, state = folder / "model.json", folder / "state.pt"
    for file in (document, state):
        if not file.is_file():
            raise CheckpointError(f"{file} is missing; give a folder with model.json and state.pt as MatGL saves it.")
    parsed = read_document(document)
    arrays = state_dict(read_torch(state), str(state))
    return from_arrays(arrays, parsed, str(folder), checksums([document, state]))


def read_document(path: Path) -> Document:
    """Parse ``model.json``; raises CheckpointError for a model that is not an M3GNet."""
    try:
        top = json.loads(path.read_text())
        kind, outer = top["@class"], dict(top["kwargs"])
        if kind in ("Potential", "TransformedTargetModel"):
            inner = outer.pop("model")
            name, options = inner["@class"], dict(inner["init_args"])
        else:
            name, options, outer = kind, outer, {}
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} was not written by MatGL's save ({error!r}); save the model again.") from error
    if name != "M3GNet":
        raise CheckpointError(f"{path} describes a {name}; only M3GNet models can be imported.")
    return Document(kind, options, outer)


def from_arrays(
    arrays: Mapping[str, np.ndarray], document: Document, source: str, sha256: Mapping[str, str]
) -> Potential | PropertyModel:
    """Potential or property model from a state dict and what ``model.json`` says."""
    arrays = dict(arrays)
    options = _checked(document.options, source)
    numbers = _numbers(options["element_types"], source)
    scaling = _potential_scaling(arrays, document, numbers, source) if document.kind == "Potential" else None
    if document.kind != "M3GNet":
        arrays = {_inner(key, source): value for key, value in arrays.items()}
    for key in ("bond_expansion.rbf.cutoff", "basis_expansion.sbf.cutoff"):
        if key in arrays and not np.isclose(take(arrays, key, (), source), options["cutoff"]):
            raise CheckpointError(f"{source}: {key} is not the cutoff of model.json; the two files do not match.")
    fields = _trunk_fields(arrays, options, source)
    key = _TEMPLATES["node_embedding"]
    arrays[key] = atom_rows(take(arrays, key, (len(numbers), fields["units"]), source), numbers)
    templates = _TEMPLATES | {"state_embedding": _STATE.get(fields.get("state"), "")}
    names = NameMap(templates, _WORDS, transposed=True)
    dialect, doubts = ("matgl", [CONVENTION]) if options["use_smooth"] else ("matgl-bessel", [CONVENTION, JUMP])
    card = imported(dialect, numbers, "imported from a model saved by MatGL", sha256, doubts)
    if not options["is_intensive"]:
        if document.kind == "TransformedTargetModel" or options["ntargets"] != 1 or options["include_state"]:
            raise CheckpointError(
                f"{source}: an energy model with states, several targets or a transformed target is not supported; "
                "import a plain potential or an intensive property model."
            )
        model = M3GNet(**fields)
        params = parameters(model, names, arrays, _IGNORED, source)
        scale, shift, offset = scaling or (np.ones(95), np.zeros(95), np.zeros(()))
        return Potential(model, params, scale, shift, offset, card=card)
    if document.kind == "Potential":
        raise CheckpointError(f"{source}: a Potential around an intensive model is not supported; import the model.")
    del card["energy_reference"], fields["readout_layers"]
    model = M3GNetProperty(
        **fields,
        pooling={"set2set": "set2set", "weighted_atom": "weighted"}.get(options["readout_type"], "mean"),
        set2set_steps=options["niters_set2set"],
        set2set_layers=options["nlayers_set2set"],
        targets=options["ntargets"],
        classify=options["task_type"] == "classification",
    )
    params = parameters(model, names, arrays, _IGNORED, source)
    card["units"] = {"targets": "those of the training data", "length": "A"}
    scale, shift, exponential = _transformer(document, source)
    rows = (options["ntargets"],)
    return PropertyModel(model, params, np.full(rows, scale), np.full(rows, shift), exponential, card)


def _checked(options: Mapping[str, Any], source: str) -> dict[str, Any]:
    for key, value in options.items():
        if key not in _DEFAULTS and value not in (None, False):
            raise CheckpointError(f"{source}: the option {key}={value!r} is not supported; use MatGL for this model.")
    options = _DEFAULTS | dict(options)
    for key, value in _REQUIRED.items():
        if options[key] != value:
            raise CheckpointError(
                f"{source}: {key}={options[key]!r} is not supported, only {value!r} is; use MatGL for this model."
            )
    integers = ["max_n", "max_l", "nblocks", "units", "ntargets", "niters_set2set", "nlayers_set2set"]
    integers += ["dim_node_embedding", "dim_edge_embedding"]
    positive(options, integers, ("cutoff", "threebody_cutoff"), source)
    nodes, edges = options["dim_node_embedding"], options["dim_edge_embedding"]
    if nodes != edges:
        raise CheckpointError(
            f"{source}: {nodes} features of atoms and {edges} of edges are not supported; use MatGL for this model."
        )
    return options


def _numbers(symbols: Any, source: str) -> list[int]:
    """Atomic numbers in the order of ``element_types``, which is that of the rows of the embedding."""
    if not isinstance(symbols, list | tuple) or not symbols:
        raise CheckpointError(f"{source}: element_types is missing; add the list of elements to model.json.")
    numbers = [atomic_numbers.get(symbol, 0) for symbol in symbols]
    if len(set(numbers)) != len(numbers) or not all(0 < z < 95 for z in numbers):
        raise CheckpointError(f"{source}: element_types must be distinct elements up to Pu, got {symbols}.")
    return numbers


def _inner(key: str, source: str) -> str:
    if not key.startswith("model."):
        raise CheckpointError(f"{source}: {key} has no place in a MatGL model of this kind; use MatGL for it.")
    return key.removeprefix("model.")


def _trunk_fields(arrays: Mapping[str, np.ndarray], options: dict[str, Any], source: str) -> dict[str, Any]:
    fields = dict(
        units=options["dim_node_embedding"],
        hidden=0 if options["units"] == options["dim_node_embedding"] else options["units"],
        blocks=options["nblocks"],
        max_l=options["max_l"],
        max_n=options["max_n"],
        cutoff=options["cutoff"],
        threebody_cutoff=options["threebody_cutoff"],
        **DIALECTS["matgl" if options["use_smooth"] else "matgl-bessel"],
    )
    if not options["include_state"]:
        return fields
    positive(options, ["dim_state_embedding"], [], source)
    fields["state_dim"] = options["dim_state_embedding"]
    if options["ntypes_state"]:
        return fields | {"state": "label", "state_size": options["ntypes_state"]}
    if not options["dim_state_feats"]:
        return fields | {"state": "raw"}
    kernel = arrays.get(_STATE["linear"].format(leaf="weight"))
    if kernel is None or kernel.ndim != 2 or options["dim_state_feats"] != options["dim_state_embedding"]:
        raise CheckpointError(
            f"{source}: dim_state_feats={options['dim_state_feats']} needs the same dim_state_embedding and a matrix "
            f"{_STATE['linear'].format(leaf='weight')}; the file is damaged."
        )
    return fields | {"state": "linear", "state_size": kernel.shape[1]}


def _potential_scaling(
    arrays: dict[str, np.ndarray], document: Document, numbers: list[int], source: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scale, shift and offset of E = data_std sum_i e_i + data_mean + sum_i element_refs[index(Z_i)]."""
    if document.outer.get("calc_repuls"):
        raise CheckpointError(f"{source}: calc_repuls=True (nuclear repulsion) is not supported; use MatGL for it.")
    mean, std = (take(arrays, key, (), source) for key in ("data_mean", "data_std"))
    shift = np.zeros(95, std.dtype)
    if document.outer.get("element_refs") is not None or "element_refs.property_offset" in arrays:
        references = take(arrays, "element_refs.property_offset", None, source)
        if references.shape != (len(numbers),):
            raise CheckpointError(
                f"{source}: element_refs.property_offset has shape {references.shape} instead of one number for each "
                f"of {len(numbers)} elements; references per target are not supported."
            )
        shift = atom_rows(references, numbers)
    return np.full(95, std), shift, mean


def _transformer(document: Document, source: str) -> tuple[float, float, bool]:
    """Scale, shift and whether the exponential follows, from the text that MatGL writes for a transformer."""
    if document.kind == "M3GNet":
        return 1.0, 0.0, False
    text = str(document.outer.get("target_transformer"))
    if text.startswith("LogTransformer"):
        return 1.0, 0.0, True
    found = re.findall(r"(mean|std)\s*[=:]\s*(?:tensor\()?(-?[\d.]+(?:e[-+]?\d+)?)", text, re.IGNORECASE)
    values = {key.lower(): float(value) for key, value in found}
    if text.startswith("Normalizer") and values.keys() == {"mean", "std"}:
        return values["std"], values["mean"], False
    raise CheckpointError(f"{source}: the target transformer {text!r} is not supported; use MatGL for this model.")
