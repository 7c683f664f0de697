"""``m3pot train --distributed``: processes with one device each."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from m3pot.data.frames import write_npz
from tests.train.test_fit import parameters
from tests.train.toy import morse

RECIPE = """
valid_every = 2
save_every = 2
[model.fields]
units = 8
blocks = 1
max_l = 2
max_n = 3
cutoff = 3.6
threebody_cutoff = 3.6
[data]
train = ["data.npz"]
valid_fraction = 0.2
edge_budget = 600
unit_guard = false
[optim]
steps = 4
warmup = 1
"""
PROCESSES = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    write_npz(morse(24), folder / "data.npz")
    (folder / "run.toml").write_text(RECIPE)
    return folder


def start(folder: Path, *options: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "m3pot.cli.main", "train", "run.toml", "--device", "cpu", *options],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def together(folder: Path, *options: str) -> None:
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    shared = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": str(PROCESSES)}
    processes = [start(folder, "--distributed", *options, JAX_PROCESS_ID=str(k), **shared) for k in range(PROCESSES)]
    try:
        ends = [process.communicate(timeout=300) for process in processes]
    finally:  # one that failed lets the others wait
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * PROCESSES, ends


def test_two_processes_train_as_two_devices_of_one(folder):
    together(folder, "-o", "processes")
    alone = start(folder, "-o", "devices", JAX_NUM_CPU_DEVICES=str(PROCESSES))
    _, errors = alone.communicate()
    assert alone.returncode == 0, errors
    expected, found = (parameters(folder / run / "last.safetensors") for run in ("devices", "processes"))
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=2e-5, atol=2e-6, err_msg=name)
    assert (folder / "processes" / "model.md").exists()
    steps = (folder / "processes" / "log.jsonl").read_text().splitlines()
    assert len(steps) == 2  # written by one of the processes


def test_a_process_that_nobody_started_says_what_to_do(folder):
    alone = start(folder, "--distributed", "-o", "nobody")
    _, errors = alone.communicate()
    assert alone.returncode == 2
    assert len(errors.strip().splitlines()) == 1
    assert "start them with srun or mpirun" in errors
    assert not (folder / "nobody").exists()
