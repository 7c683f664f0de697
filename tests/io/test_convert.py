import gzip
import json
import shutil
import warnings

import flax.linen as nn
import jax
import numpy as np
import pytest
from ase import Atoms

from m3pot.execution import numerics
from m3pot.graph import Graph, as_dtype, edge_vectors
from m3pot.inference import predict as predict_structures
from m3pot.io.checkpoint import CheckpointError
from m3pot.io.convert import convert, matgl, mattersim, tensorflow
from m3pot.potential import Potential, predict
from m3pot.readout import PropertyModel
from m3pot.units import GPA
from tests.golden import all_in_one, document, exact_graph, model_of, read
from tests.helpers import QUICK, split
from tests.io.torch_writer import write_torch

quick_predict = jax.jit(predict, compiler_options=QUICK)

# eV per atom, eV/A, eV/A^3. MatGL and MatterSim clamp angles and MatterSim rounds its basis, TensorFlow is float32.
MATGL, MATTERSIM, TENSORFLOW = (2e-8, 2e-8, 2e-8), (5e-6, 5e-6, 5e-6), (2e-5, 5e-5, 2e-5)
TOLERANCES = {
    "matgl_random_smooth": MATGL,
    "matgl_random_nonsmooth": MATGL,
    "matgl_random_wide": MATGL,
    "mattersim_random": MATTERSIM,
    "tf_random": TENSORFLOW,
}
FILES = {
    "matgl_random_smooth": "matgl_random_smooth",
    "mattersim_random": "mattersim_random.pth",
    "tf_random": "tf_random",
}


def errors(name):
    """Largest error of energy per atom, forces, stress and atomic energies of each structure."""
    with numerics("float64"):
        result = quick_predict(model_of(name), all_in_one(name))
    structures = read(name).structures
    for s, p in zip(structures, split(result, [len(s["numbers"]) for s in structures]), strict=False):
        energy = abs(p.energy - s["energy"]) / len(s["numbers"])
        shares = np.abs(p.energies - s["atomic_energies"]).max() if "atomic_energies" in s else 0.0
        yield energy, np.abs(p.forces - s["forces"]).max(), np.abs(p.stress - s["stress"]).max(), shares


@pytest.mark.parametrize("name", TOLERANCES)
def test_golden(name):
    found = np.array(list(errors(name)))
    assert len(found) == len(read(name).structures)
    energy, force, stress = TOLERANCES[name]
    assert found[:, 0].max() < energy
    assert found[:, 1].max() < force
    assert found[:, 2].max() < stress
    assert found[:, 3].max() < energy
    if name.startswith("matgl"):  # what remains is the clamp of collinear angles in the original
        assert found[~np.array(read(name).header["collinear"])].max() < 1e-11


@pytest.mark.parametrize("name", ["matgl_random_smooth", "matgl_random_nonsmooth", "mattersim_random"])
def test_intermediates(name):
    golden, potential = read(name), model_of(name)
    debug, structure = golden.debug, golden.structures[3]
    graph = exact_graph(structure)
    graph = Graph(*graph[:4], debug["edge_i"], debug["edge_j"], debug["edge_shift"])
    assert (np.diff(graph.receivers) >= 0).all()
    seen = {}

    def spy(call, arguments, options, context):
        part = context.module.name or ""
        if context.method_name != "__call__":
            return call(*arguments, **options)
        if part.endswith("three_update"):
            seen[f"three_body_sum_{int(part.split('_')[1]) + 1}"] = arguments[0][0][0]
        if part.endswith("three_gate") and not part.startswith("block_0"):
            seen[f"node_{part.split('_')[1]}"] = arguments[0]
        if part == "energy":
            seen[f"node_{potential.model.blocks}"] = arguments[0][0][0]
        return call(*arguments, **options)

    with numerics("float64"), nn.intercept_methods(spy):
        graph = as_dtype(graph, "float64")
        potential = potential.astype("float64")
        potential.model.apply({"params": potential.params}, graph, edge_vectors(graph))
    wanted = {key for key in debug if key.startswith(("three_body_sum", "node"))}
    assert wanted == seen.keys()
    for key in wanted:
        scale = np.abs(debug[key]).max()
        assert np.abs(np.asarray(seen[key]) - debug[key]).max() < (2e-6 if "mattersim" in name else 1e-7) * scale


def test_original_weights(shared_data):
    """The published weights against the TensorFlow package, on real crystals with their coordinates as it saw them."""
    potential = convert(shared_data("weights/m3gnet_mp_2021.2.8_efs_tf"))
    arrays = convert(shared_data("weights/m3gnet_mp_2021.2.8_efs_tf.npz"))
    assert jax.tree.all(jax.tree.map(np.array_equal, potential, arrays))
    assert potential.card["name"] == "M3GNet-MP-2021.2.8-EFS"
    assert len(potential.elements) == 89
    assert not potential.elements & {84, 85, 86, 87, 88}
    with gzip.open(shared_data("golden/m3gnet_tf_20.json.gz")) as file:
        frames = json.load(file)["frames"]
    structures = [
        Atoms(f["numbers"], np.float32(f["positions_A"]), cell=np.float32(f["cell_A"]), pbc=f["pbc"]) for f in frames
    ]
    for atoms, frame in zip(predict_structures(structures, potential, dtype="float32"), frames, strict=True):
        assert abs(atoms.get_potential_energy() - frame["energy_eV"]) / len(atoms) < 1e-5
        assert np.abs(atoms.get_forces() - frame["forces_eV_A"]).max() < 2e-5
        assert np.abs(atoms.get_stress(voigt=False) - np.array(frame["stress_GPa"]) * GPA).max() < 1e-6


@pytest.mark.parametrize("name", FILES)
def test_real_files(name, golden):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = convert(golden / "files" / FILES[name])
    assert jax.tree.all(jax.tree.map(np.array_equal, found.params, model_of(name).params))
    expected = model_of(name)
    for key in ("scale", "shift", "offset"):
        assert np.array_equal(getattr(found, key), getattr(expected, key))
    assert [str(w.message).endswith(matgl.CONVENTION) for w in caught] == ([True] if "matgl" in name else [])
    assert found.card["warnings"] == ([matgl.CONVENTION] if "matgl" in name else [])
    assert all(len(value) == 64 for value in found.card["sha256"].values())
    for key in ("dialect", "elements", "units", "energy_reference", "licence", "provenance"):
        assert found.card[key]
    json.dumps(found.card)


@pytest.mark.filterwarnings("ignore:.*MatGL files")
@pytest.mark.parametrize("name", ["tf_random/m3gnet.index", "tf_random/m3gnet.json", "tf_random/checkpoint"])
def test_a_file_of_a_folder_stands_for_it(name, golden):
    assert convert(golden / "files" / name).card["dialect"] == "tensorflow"
    assert convert(golden / "files" / "matgl_random_smooth" / "state.pt").card["dialect"] == "matgl"
    assert convert(golden / "files" / "matgl_random_smooth" / "model.json").card["dialect"] == "matgl"


def test_elements_keep_their_rows():
    potential = model_of("matgl_random_smooth")
    symbols = read("matgl_random_smooth").header["config"]["element_types"]
    assert symbols[0] == "Cu"
    assert symbols[2] == "O"
    weights = read("matgl_random_smooth").weights
    table = potential.params["node_embedding"]["table"]
    assert np.array_equal(table[29], weights["model.embedding.layer_node_embedding.weight"][0])
    assert np.array_equal(potential.shift[8], weights["element_refs.property_offset"][2])
    assert not table[[z for z in range(95) if z not in potential.elements]].any()
    assert len(potential.elements) == len(symbols)


def test_non_smooth_models_carry_a_warning():
    assert model_of("matgl_random_nonsmooth").card["warnings"] == [matgl.CONVENTION, matgl.JUMP]


GOLDENS = {**{name: Potential for name in TOLERANCES}, "matgl_property_weighted_state_embed": PropertyModel}


def rebuild(name, weights=None, **options):
    golden = read(name)
    weights = golden.weights if weights is None else weights
    if name.startswith("matgl"):
        described = document(name)
        return matgl.from_arrays(weights, described._replace(options={**described.options, **options}), "FILE", {})
    module = tensorflow if name.startswith("tf") else mattersim
    return module.from_arrays(weights, {**golden.header["config"], **options}, "FILE", {})


@pytest.mark.parametrize("name", GOLDENS)
def test_every_array_is_needed_and_checked(name):
    weights = read(name).weights
    ignored = {"rbf.dn", "rbf.en", "rbf.fnr_weights", "rbf.n_1_pi_cutoff", "rbf.n_2_pi_cutoff"}
    optional = {key for key in weights if key.endswith((".rbf.cutoff", ".sbf.cutoff", "sbf.coef"))}
    some = [*weights][::7] + [key for key in weights if key.count(".") < 2 or "embedding" in key]
    for key in some:
        without = {k: v for k, v in weights.items() if k != key}
        if key not in ignored | optional:
            with pytest.raises(CheckpointError, match=key.removeprefix("model.").replace("/", ".")):
                rebuild(name, without)
            with pytest.raises(CheckpointError, match=key.removeprefix("model.")):
                rebuild(name, {**weights, key: np.zeros((5, 7), np.float32)})
            with pytest.raises(CheckpointError, match="NaN"):
                rebuild(name, {**weights, key: np.full_like(weights[key], np.nan)})
    prefix = "model." if "model.final_layer.gated.layers.0.bias" in weights else ""
    with pytest.raises(CheckpointError, match="superfluous"):
        rebuild(name, {**weights, f"{prefix}superfluous": np.zeros(3)})
    assert type(rebuild(name)) is GOLDENS[name]


REFUSED = [
    ("tf_random", {"include_states": True}, "include_states"),
    ("tf_random", {"is_intensive": True}, "is_intensive"),
    ("tf_random", {"n_atom_types": 20}, "n_atom_types"),
    ("tf_random", {"newer_option": 3}, "newer_option"),
    ("tf_random", {"units": "16"}, "units"),
    ("tf_random", {"element_refs": [0.0, 1.0]}, "element_refs"),
    ("mattersim_random", {"max_l": 3}, "max_l"),
    ("mattersim_random", {"max_z": 50}, "max_z"),
    ("mattersim_random", {"cutoff": 6.0}, "basis"),
    ("mattersim_random", {"cutoff": -1}, "cutoff"),
    ("matgl_random_smooth", {"use_phi": True}, "use_phi"),
    ("matgl_random_smooth", {"rbf_type": "Gaussian"}, "rbf_type"),
    ("matgl_random_smooth", {"activation_type": "tanh"}, "activation_type"),
    ("matgl_random_smooth", {"field": "edge_feat"}, "edge_feat"),
    ("matgl_random_smooth", {"dim_edge_embedding": 32}, "32 of edges"),
    ("matgl_random_smooth", {"units": 32}, "shape"),
    ("matgl_random_smooth", {"include_state": True, "dim_state_embedding": 4}, "states"),
    ("matgl_random_smooth", {"ntargets": 2}, "targets"),
    ("matgl_random_smooth", {"is_intensive": True}, "intensive"),
    ("matgl_random_smooth", {"newer_option": "x"}, "newer_option"),
    ("matgl_random_smooth", {"cutoff": 6.0}, "cutoff"),
    ("matgl_random_smooth", {"element_types": None}, "element_types"),
    ("matgl_random_smooth", {"element_types": ["H", "H"]}, "element_types"),
    ("matgl_random_smooth", {"element_types": ["H", "Xy"]}, "element_types"),
    ("matgl_random_smooth", {"element_types": ["H", "He"]}, "property_offset"),
    ("matgl_random_smooth", {"use_smooth": False}, "weight"),
]


@pytest.mark.parametrize(("name", "options", "reason"), REFUSED, ids=[f"{n}-{r}" for n, _, r in REFUSED])
def test_unsupported_options_are_refused(name, options, reason):
    with pytest.raises(CheckpointError, match=reason) as caught:
        rebuild(name, **options)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_matgl_repulsion_and_references_per_target_are_refused():
    described, weights = document("matgl_random_smooth"), dict(read("matgl_random_smooth").weights)
    with pytest.raises(CheckpointError, match="calc_repuls"):
        matgl.from_arrays(weights, described._replace(outer={**described.outer, "calc_repuls": True}), "FILE", {})
    weights["element_refs.property_offset"] = np.zeros((2, 12), np.float32)
    with pytest.raises(CheckpointError, match="property_offset"):
        matgl.from_arrays(weights, described, "FILE", {})


def test_published_mattersim_files_hold_no_table_of_zeros():
    weights = dict(read("mattersim_random").weights)
    del weights["sbf.coef"]
    jax.tree.map(
        np.testing.assert_array_equal, rebuild("mattersim_random", weights).params, rebuild("mattersim_random").params
    )
    weights["sbf.factor"] = 2 * weights["sbf.factor"]
    with pytest.raises(CheckpointError, match="basis"):
        rebuild("mattersim_random", weights)


def test_unknown_mattersim_options_are_ignored_as_there_but_recorded():
    potential = rebuild("mattersim_random", newer_option=3)
    assert "newer_option" in potential.card["warnings"][0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Normalizer: Mean=-1.65459073, Std: 1.07266128", (1.07266128, -1.65459073, False)),
        ("Normalizer(mean=2.5, std=1e-3)", (1e-3, 2.5, False)),
        ("Normalizer(mean=tensor(-2.5), std=tensor(0.5000))", (0.5, -2.5, False)),
        ("LogTransformer", (1.0, 0.0, True)),
    ],
)
def test_target_transformers(text, expected):
    described = document("matgl_property_set2set")._replace(
        kind="TransformedTargetModel", outer={"target_transformer": text}
    )
    weights = {f"model.{key}": value for key, value in read("matgl_property_set2set").weights.items()}
    model = matgl.from_arrays(weights, described, "FILE", {})
    assert (*model.scale, *model.shift, model.exponential) == expected
    with pytest.raises(CheckpointError, match="Fancy"):
        matgl.from_arrays(weights, described._replace(outer={"target_transformer": "Fancy()"}), "FILE", {})


def test_property_model_folder(tmp_path):
    name = "matgl_property_weighted_state_embed"
    options = {"@class": "M3GNet", "init_args": document(name).options}
    top = {"@class": "TransformedTargetModel", "kwargs": {"model": options}}
    top["kwargs"]["target_transformer"] = "Normalizer: Mean=-1.5, Std: 2.0"
    (tmp_path / "model.json").write_text(json.dumps(top))
    write_torch(tmp_path / "state.pt", {f"model.{key}": value for key, value in read(name).weights.items()})
    with pytest.warns(UserWarning, match="MatGL files"):
        model = convert(tmp_path)
    assert (*model.scale, *model.shift, model.exponential) == (2.0, -1.5, False)
    assert jax.tree.all(jax.tree.map(np.array_equal, model.params, model_of(name).params))
    assert model.model == model_of(name).model


def test_matgl_folders_that_cannot_be_imported(golden, tmp_path):
    shutil.copytree(golden / "files" / "matgl_random_smooth", tmp_path / "model")
    path = tmp_path / "model" / "model.json"
    top = json.loads(path.read_text())
    top["kwargs"]["model"]["@class"] = "CHGNet"
    path.write_text(json.dumps(top))
    with pytest.raises(CheckpointError, match="CHGNet"):
        convert(tmp_path / "model")
    path.write_text("{}")
    with pytest.raises(CheckpointError, match="not written by MatGL"):
        convert(tmp_path / "model")
    (tmp_path / "model" / "state.pt").unlink()
    with pytest.raises(CheckpointError, match=r"state\.pt is missing"):
        convert(path)


def test_tensorflow_folders_that_cannot_be_imported(golden, tmp_path):
    shutil.copytree(golden / "files" / "tf_random", tmp_path / "model")
    path = tmp_path / "model" / "m3gnet.json"
    path.write_text(json.dumps({"class_name": "MEGNet", "config": {}}))
    with pytest.raises(CheckpointError, match="MEGNet"):
        convert(tmp_path / "model")
    path.write_text("[1, 2]")
    with pytest.raises(CheckpointError, match="not the configuration"):
        convert(tmp_path / "model")
    path.unlink()
    with pytest.raises(CheckpointError, match=r"m3gnet\.json is missing"):
        convert(tmp_path / "model")
    shutil.copy(tmp_path / "model" / "m3gnet.index", tmp_path / "model" / "other.index")
    with pytest.raises(CheckpointError, match="2 TensorFlow checkpoints"):
        convert(tmp_path / "model")
    np.savez(tmp_path / "lonely.npz", a=np.zeros(3))
    with pytest.raises(CheckpointError, match="configuration beside it"):
        convert(tmp_path / "lonely.npz")


FOREIGN = {
    "empty.pth": (b"", "empty"),
    "noise.pth": (bytes(range(256)) * 9, "can be recognised"),
    "text.cif": (b"data_NaCl\n", "can be recognised"),
    "old.pt": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "old PyTorch"),
    "code.pkl": (b"\x80\x04\x95\x1e\x00\x00\x00", "could run code"),
    "keras.h5": (b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5"),
    "cut.pth": (b"PK\x03\x04" + bytes(64), "damaged or truncated"),
    "ours.safetensors": (b"\x08" + bytes(64), "safetensors"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_files(name, tmp_path):
    content, reason = FOREIGN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=reason) as caught:
        convert(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_missing_and_empty_places(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        convert(tmp_path / "nowhere.pth")
    with pytest.raises(CheckpointError, match="no model that can be imported"):
        convert(tmp_path)
