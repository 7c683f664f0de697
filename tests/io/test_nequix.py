"""Models of the package nequix as potentials. With nequix: against its own derivatives; without: the sentences."""

import pickle
import sys

import jax
import numpy as np
import pytest
from ase.build import bulk

import m3pot
from m3pot.cli.main import main
from m3pot.contract import structures
from m3pot.execution import numerics
from m3pot.io import registry
from m3pot.io.checkpoint import CheckpointError, save_potential
from m3pot.io.nequix import Nequix, _module, load_nequix
from m3pot.potential import Potential, predict
from m3pot.structure import StructureError, from_ase
from m3pot.train.config import TrainConfig
from m3pot.train.prepare import ConfigError, prepare

ELEMENTS = [8, 3, 14, 26]  # in an order of their own


@pytest.fixture
def file(tmp_path):
    """A small random model, written by nequix."""
    pytest.importorskip("equinox")
    theirs = pytest.importorskip("nequix.model")
    config = {"atomic_numbers": ELEMENTS, "hidden_irreps": "8x0e + 4x1o + 4x2e", "lmax": 2, "cutoff": 4.0}
    config |= {"n_layers": 2, "radial_basis_size": 4, "radial_mlp_size": 8, "radial_mlp_layers": 2}
    config |= {"radial_polynomial_p": 6.0, "mlp_init_scale": 4.0, "index_weights": False, "layer_norm": True}
    config |= {"shift": -1.5, "scale": 0.7, "avg_n_neighbors": 20.0, "kernel": True, "optimizer": "muon"}
    own = {name: config[name] for name in list(config)[1:-2]}
    module = theirs.Nequix(jax.random.key(3), n_species=4, atom_energies=[-1.0, -2.0, -3.0, -4.0], **own)
    theirs.save_model(tmp_path / "small.nqx", module, config)
    return tmp_path / "small.nqx"


def test_energies_forces_and_stress_are_those_of_nequix(file):
    import equinox
    import jraph
    from nequix.model import load_model

    module, config = load_model(str(file))
    (ours,) = m3pot.predict(structures(ELEMENTS)["crystal"], file)
    n, graph = len(ours), from_ase(ours, config["cutoff"], dtype=np.float32)
    nodes = {"species": np.array([ELEMENTS.index(z) for z in ours.numbers]), "positions": graph.positions}
    edges, cell = {"shifts": graph.shifts.astype(np.float32)}, {"cell": graph.cell}
    counts = np.array([n]), np.array([len(graph.senders)])
    data = jraph.GraphsTuple(nodes, edges, graph.receivers, graph.senders, cell, *counts)
    padded = jraph.pad_with_graphs(data, n + 1, len(graph.senders) + 1, 2)  # nequix takes the last one for padding
    energy, forces, stress = equinox.filter_jit(module)(padded)
    assert ours.get_potential_energy() == pytest.approx(float(energy[0]), abs=2e-5)
    np.testing.assert_allclose(ours.get_forces(), forces[:n], atol=2e-5)
    np.testing.assert_allclose(ours.get_stress(voigt=False), stress[0], atol=2e-6)


def test_the_laws_hold(file):
    report = m3pot.doctor(file)
    assert report.ok, report


def test_models_of_one_configuration_share_what_is_compiled(file):
    first = load_nequix(file)
    _module.cache_clear()  # as in another process
    with numerics("float64"):
        jax.eval_shape(predict, first.astype("float64"), from_ase(bulk("Si"), 4.0))
    second = load_nequix(file)
    for other in (second, pickle.loads(pickle.dumps(first))):
        assert jax.tree.structure(first) == jax.tree.structure(other)
        assert hash(first.model) == hash(other.model)
        assert repr(first.model) == repr(other.model)


def test_elements_and_description(file):
    with pytest.raises(StructureError, match="Cu"):
        m3pot.predict(bulk("Cu"), file)
    info = registry.info(file)
    assert info["card"]["elements"] == sorted(ELEMENTS)
    assert info["model"]["Nequix"]["cutoff"] == 4.0
    assert info["parameters"] == sum(array.size for array in load_nequix(file).params)


def test_what_cannot_be_read(file):
    content = file.read_bytes()
    for damaged in (b"", b"{}\n", content[:-100], content.replace(b'"lmax": 2', b'"lmax": 1')):
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"small.nqx is not a .nqx model"):
            registry.load(file)


def test_it_cannot_be_trained(file):
    with pytest.raises(ConfigError, match="trained by its own package"):
        prepare(TrainConfig(output=str(file.parent), model={"start": str(file)}, data={"train": ["none.extxyz"]}))


def test_without_nequix(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "equinox", None)
    (tmp_path / "any.nqx").write_bytes(b"{}\n")
    with pytest.raises(ModuleNotFoundError, match="pip install equinox && pip install --no-deps nequix"):
        registry.load(tmp_path / "any.nqx")
    assert main(["models", "info", str(tmp_path / "any.nqx")]) == 2
    assert capsys.readouterr().err.startswith("m3pot: Models of nequix need that package")


def test_it_is_neither_converted_nor_stored(tmp_path):
    (tmp_path / "any.nqx").write_bytes(b"{}\n")
    with pytest.raises(CheckpointError, match="give it as --model"):
        registry.import_model(tmp_path / "any.nqx", tmp_path / "any.safetensors")
    potential = Potential(Nequix(6.0, (1,), "{}"), [], np.ones(95), np.zeros(95), np.zeros(()))
    with pytest.raises(CheckpointError, match="a model of Nequix cannot be written"):
        save_potential(tmp_path / "any.safetensors", potential)
