import os
import shutil
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from m3pot.io.checkpoint import CheckpointError
from m3pot.io.convert import convert
from m3pot.io.convert.tf_bundle import read_bundle
from m3pot.io.convert.torch_file import Inert, read_torch, state_dict
from tests.golden import read
from tests.io.torch_writer import Call, named, read_zip, write_torch, write_zip


def assert_same_bits(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert (found[key].dtype, found[key].shape) == (value.dtype, value.shape)
        assert found[key].tobytes() == value.tobytes()


def test_files_of_each_package_bit_by_bit(golden):
    files = golden / "files"
    assert_same_bits(read_torch(files / "matgl_random_smooth/state.pt"), read("matgl_random_smooth").weights)
    assert_same_bits(read_torch(files / "mattersim_random.pth")["model"], read("mattersim_random").weights)
    assert_same_bits(read_bundle(files / "tf_random/m3gnet.index"), read("tf_random").weights)
    options = read_torch(files / "matgl_random_smooth/model.pt")["model"]["init_args"]
    assert list(options["element_types"]) == read("matgl_random_smooth").header["config"]["element_types"]


def test_published_checkpoint_bit_by_bit(shared_data):
    with np.load(shared_data("weights/m3gnet_mp_2021.2.8_efs_tf.npz")) as file:
        expected = {key: file[key] for key in file.files}
    assert_same_bits(read_bundle(shared_data("weights/m3gnet_mp_2021.2.8_efs_tf") / "m3gnet.index"), expected)


def test_torch_writer_is_understood(tmp_path):
    tree = OrderedDict(a=np.arange(6.0).reshape(2, 3), b=np.array(7, np.int64), c=[1, "x", None, (2.5, True)])
    tree["d"] = np.zeros((0, 4), np.float32)
    write_torch(tmp_path / "x.pt", tree)
    found = read_torch(tmp_path / "x.pt")
    assert list(found) == list(tree)
    assert found["c"] == tree["c"]
    for key in "abd":
        assert np.array_equal(found[key], tree[key])
        assert found[key].dtype == tree[key].dtype


ATTACKS = {
    "system": lambda path: Call(named("os", "system"), f"touch {path}"),
    "posix": lambda path: Call(named("posix", "system"), f"touch {path}"),
    "exec": lambda path: Call(named("builtins", "exec"), f"open({str(path)!r}, 'w')"),
    "eval": lambda path: Call(named("__builtin__", "eval"), f"open({str(path)!r}, 'w')"),
    "open": lambda path: Call(named("io", "open"), str(path), "w"),
    "popen": lambda path: Call(named("subprocess", "Popen"), ["touch", str(path)]),
    "getattr": lambda path: Call(Call(named("builtins", "getattr"), named("os", "x"), "system"), f"touch {path}"),
    "state": lambda path: Call(named("os", "environ"), state={"M3POT_ATTACK": "1"}),
    "dotted": lambda path: Call(named("torch._utils", "os.system"), f"touch {path}"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_code_in_a_pickle_is_not_run(attack, tmp_path, golden):
    trace = tmp_path / "attacked"
    evil = ATTACKS[attack](trace)
    write_torch(tmp_path / "alone.pth", evil)
    assert isinstance(read_torch(tmp_path / "alone.pth"), Inert)
    with pytest.raises(CheckpointError, match="not a MatterSim checkpoint"):
        convert(tmp_path / "alone.pth")
    checkpoint = {"model": read("mattersim_random").weights, "model_args": read("mattersim_random").header["config"]}
    write_torch(tmp_path / "beside.pth", {**checkpoint, "optimizer": evil, "ema": [evil, {"x": evil}]})
    assert convert(tmp_path / "beside.pth").model.units == 16
    write_torch(tmp_path / "within.pth", {**checkpoint, "model": {**checkpoint["model"], "rbf.dn": evil}})
    with pytest.raises(CheckpointError, match=r"rbf\.dn"):
        convert(tmp_path / "within.pth")
    assert not trace.exists()
    assert "M3POT_ATTACK" not in os.environ


def test_only_plain_weights_pass():
    for tree in (None, [], {}, Inert(), {"a": 1.0}, {1: np.zeros(2)}, {"a": Inert()}):
        with pytest.raises(CheckpointError, match="FILE"):
            state_dict(tree, "FILE")


def tensor(storage, *, offset=0, size=(2,), stride=(1,)):
    return Call(named("torch._utils", "_rebuild_tensor_v2"), storage, offset, size, stride, False, OrderedDict())


BAD_TENSORS = {
    "beyond": dict(size=(7,)),
    "offset": dict(offset=5),
    "negative": dict(offset=3, stride=(-1,)),
    "negative size": dict(size=(-2,)),
    "repeated": dict(size=(100,), stride=(0,)),
    "huge": dict(size=(2**40, 2**40), stride=(0, 0)),
    "ranks": dict(size=(2, 2)),
    "text": dict(size=("2",)),
}


@pytest.mark.parametrize("kind", BAD_TENSORS)
def test_tensors_outside_their_storage(kind, tmp_path):
    """The storage comes from a first tensor; a second one describes it wrongly."""
    write_torch(tmp_path / "x.pt", [np.arange(6.0), tensor("STORAGE", **BAD_TENSORS[kind])])
    entries = read_zip(tmp_path / "x.pt")
    data = entries["archive/data.pkl"]
    start, end = data.index(b"(X\x07\x00\x00\x00storage"), data.index(b"Q") + 1
    marker = data.index(b"X\x07\x00\x00\x00STORAGE")
    rest = data[marker + 12 :]
    rest = rest[2:] if rest[:1] == b"q" else rest
    entries["archive/data.pkl"] = data[:marker] + data[start:end] + rest
    write_zip(tmp_path / "y.pt", entries)
    with pytest.raises(CheckpointError, match="tensor"):
        read_torch(tmp_path / "y.pt")


def test_archives_that_are_refused(tmp_path, golden):
    source = golden / "files" / "mattersim_random.pth"
    entries = read_zip(source)
    root = "ms_random/"

    def refused(match, changed, compression=zipfile.ZIP_STORED):
        write_zip(tmp_path / "x.pth", changed, compression)
        with pytest.raises(CheckpointError, match=match):
            convert(tmp_path / "x.pth")

    write_zip(tmp_path / "same.pth", entries)
    assert convert(tmp_path / "same.pth").model.units == 16
    refused("big-endian", {**entries, f"{root}byteorder": b"big"})
    refused("TorchScript", {**entries, f"{root}constants.pkl": b""})
    refused("compressed", entries, zipfile.ZIP_DEFLATED)
    refused("not a PyTorch", {k: v for k, v in entries.items() if k != f"{root}data.pkl"})
    refused("not a PyTorch", {**entries, "other/data.pkl": b""})
    refused("not an intact", {k: v for k, v in entries.items() if k != f"{root}data/7"})
    refused("not an intact", {**entries, f"{root}data/7": entries[f"{root}data/7"][:-4]})
    refused("not an intact", {**entries, f"{root}data.pkl": b""})
    refused("not an intact", {**entries, f"{root}data.pkl": b"\x80\x02r\xff\xff\xff\xff."})


def test_damaged_pickles_give_one_sentence(golden, tmp_path):
    entries = read_zip(golden / "files" / "matgl_random_smooth" / "state.pt")
    data = entries["state/data.pkl"]
    rng = np.random.default_rng(0)
    messages = []
    for place in rng.integers(0, len(data), 60):
        changed = bytearray(data)
        changed[place] ^= 1 << int(rng.integers(8))
        write_zip(tmp_path / "x.pt", {**entries, "state/data.pkl": bytes(changed)})
        try:
            read_torch(tmp_path / "x.pt")
        except CheckpointError as error:
            messages.append(str(error))
    assert len(messages) > 10
    assert all(message.startswith(str(tmp_path / "x.pt")) for message in messages)
    for end in rng.integers(0, len(data), 10):
        write_zip(tmp_path / "x.pt", {**entries, "state/data.pkl": data[:end]})
        with pytest.raises(CheckpointError):
            read_torch(tmp_path / "x.pt")


@pytest.mark.parametrize("name", ["mattersim_random.pth", "matgl_random_smooth/state.pt"])
def test_truncated_zip_files(name, golden, tmp_path):
    content = (golden / "files" / name).read_bytes()
    for share in (0.01, 0.3, 0.7, 0.999):
        (tmp_path / "x.pth").write_bytes(content[: int(share * len(content))])
        with pytest.raises(CheckpointError):
            convert(tmp_path / "x.pth")


def test_damaged_tensorflow_checkpoints(golden, tmp_path):
    folder = tmp_path / "tf"
    shutil.copytree(golden / "files" / "tf_random", folder)
    index, data = folder / "m3gnet.index", folder / "m3gnet.data-00000-of-00001"
    table, values = index.read_bytes(), data.read_bytes()
    for place in np.linspace(0, len(table) - 1, 40).astype(int):
        changed = bytearray(table)
        changed[place] ^= 16
        index.write_bytes(bytes(changed))
        try:
            found = read_bundle(index)
        except CheckpointError:
            continue
        assert_same_bits(found, read("tf_random").weights)  # a bit that nobody reads
    for end in (0, 10, 47, 48, 1000, len(table) - 1):
        index.write_bytes(table[:end])
        with pytest.raises(CheckpointError):
            read_bundle(index)
    index.write_bytes(table)
    for weight in [*read("tf_random").weights.values()][::20]:
        changed = bytearray(values)
        changed[values.index(weight.tobytes())] ^= 1
        data.write_bytes(bytes(changed))
        with pytest.raises(CheckpointError, match="checksum"):
            convert(folder)
    data.write_bytes(values[: len(values) // 2])
    with pytest.raises(CheckpointError, match="checksum"):
        convert(folder)
    data.unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        convert(folder)
