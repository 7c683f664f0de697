"""The original TensorFlow M3GNet (package m3gnet 0.2.4): checkpoint folders and ``.npz`` files with their arrays."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from m3pot.io.checkpoint import CheckpointError
from m3pot.io.convert.card import imported
from m3pot.io.convert.names import NameMap, checksums, known_elements, parameters, positive
from m3pot.io.convert.tf_bundle import read_bundle
from m3pot.models.m3gnet import DIALECTS, M3GNet
from m3pot.potential import Potential

_NAMES = NameMap(
    templates={
        "node_embedding": "featurizer/atom_network/embedding/embeddings",
        "edge_embedding": "feature_adjust/update_func/pipe/layers/0/{leaf}",
        "three_gate": "three_interactions/{block}/update_network/pipe/layers/0/{leaf}",
        "three_update": "three_interactions/{block}/update_network2/{branch}/layers/{layer}/{leaf}",
        "edge_update": "graph_layers/{block}/bond_network/update_func/{branch}/layers/{layer}/{leaf}",
        "edge_radial": "graph_layers/{block}/bond_network/weight_func/{leaf}",
        "node_update": "graph_layers/{block}/atom_network/bond_dense/{branch}/layers/{layer}/{leaf}",
        "node_radial": "graph_layers/{block}/atom_network/weight_update/{leaf}",
        "energy": "final/layers/0/atom_network/update_func/{branch}/layers/{layer}/{leaf}",
    },
    words={"value": "pipe"},
    transposed=False,
)
_IGNORED = (r".*/\.OPTIMIZER_SLOT/.*", r"optimizer/.*", r"save_counter")
_USED = {"max_n", "max_l", "n_blocks", "units", "cutoff", "threebody_cutoff", "mean", "std", "element_refs"}
_REQUIRED = {  # options that change the network; only these values are supported
    "include_states": (False, None),
    "is_intensive": (False,),
    "task_type": ("regression", None),
    "n_atom_types": (94, None),
}
_WITHOUT_EFFECT = {"name", "readout", "trainable", "dtype"}  # the readout field is not used by energy models


def from_folder(folder: Path) -> Potential:
    """Import a folder with ``<name>.index``, ``<name>.data-*`` and ``<name>.json``."""
    indices = sorted(folder.glob("*.index"))
    if len(indices) != 1:
        raise CheckpointError(f"{folder} holds {len(indices)} TensorFlow checkpoints; give a folder with exactly one.")
    config = indices[0].with_suffix(".json")
    try:
        arrays = read_bundle(indices[0])
        files = [indices[0], *sorted(folder.glob(f"{indices[0].stem}.data-*")), config]
        return from_arrays(arrays, read_config(config), str(folder), checksums(files))
    except FileNotFoundError as error:
        raise CheckpointError(f"{error.filename} is missing; copy the whole checkpoint folder.") from error


def from_npz(path: Path) -> Potential:
    """Import an ``.npz`` with all arrays under their object paths; its configuration is a JSON file beside it."""
    stem = path.stem.removesuffix("_tf")
    candidates = [path.with_name(f"{name}.json") for name in (path.stem, f"{path.stem}_config", f"{stem}_config")]
    config = next((candidate for candidate in candidates if candidate.is_file()), None)
    if config is None:
        raise CheckpointError(
            f"{path} needs its configuration beside it: {candidates[0].name} or {candidates[2].name}."
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except Exception as error:  # a damaged zip may raise anything
        raise CheckpointError(f"{path} is not an intact .npz file ({error}); copy it again.") from error
    return from_arrays(arrays, read_config(config), str(path), checksums([path, config]))


def read_config(path: Path) -> dict[str, Any]:
    """Options of the network from ``m3gnet.json``, which may be JSON inside a JSON string."""
    try:
        document = json.loads(path.read_text())
        document = json.loads(document) if isinstance(document, str) else document
        name, config = document["class_name"], dict(document["config"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not the configuration of an M3GNet ({error}); copy it again.") from error
    if name != "M3GNet":
        raise CheckpointError(f"{path} describes a {name}; only M3GNet can be imported.")
    return config


def from_arrays(
    arrays: Mapping[str, np.ndarray], config: Mapping[str, Any], source: str, sha256: Mapping[str, str]
) -> Potential:
    """Potential from variables (object paths) and options; ``sha256`` of the files goes into the card.

    E = std sum_i e_i + mean + sum_i element_refs[Z_i].
    """
    arrays = dict(arrays)
    for key, value in config.items():
        if key in _USED or key in _WITHOUT_EFFECT:
            continue
        if key not in _REQUIRED or value not in _REQUIRED[key]:
            raise CheckpointError(f"{source}: the option {key}={value!r} is not supported; import an energy model.")
    positive(config, ("max_n", "max_l", "n_blocks", "units"), ("cutoff", "threebody_cutoff", "std"), source)
    references = np.zeros(95) if config.get("element_refs") is None else np.asarray(config["element_refs"], np.float64)
    if references.shape != (95,) or not np.isfinite(references).all():
        raise CheckpointError(f"{source}: element_refs must be 95 numbers, one per atomic number; the file is damaged.")
    model = M3GNet(
        units=config["units"],
        blocks=config["n_blocks"],
        max_l=config["max_l"],
        max_n=config["max_n"],
        cutoff=config["cutoff"],
        threebody_cutoff=config["threebody_cutoff"],
        **DIALECTS["tensorflow"],
    )
    params = parameters(model, _NAMES, arrays, _IGNORED, source)
    provenance = "imported from a checkpoint of the TensorFlow package m3gnet"
    card = imported("tensorflow", known_elements(references), provenance, sha256)
    offset = np.asarray(config.get("mean") or 0.0, np.float64)
    return Potential(model, params, np.full(95, config["std"], np.float64), references, offset, card=card)
