import json
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optax
import pytest
from safetensors.numpy import load_file

from m3pot.train import checkpoints, fit, log
from m3pot.train.checkpoints import TrainingError
from m3pot.train.step import init_state
from tests.train.toy import configured, edges, morse, pair, register

STEPS = 40


def trained(folder, *, potential=None, valid=None, resume=False, records=None, advance=lambda count: None, **changes):
    """Run fit on the toy world; the programs that are compiled are the same each time."""
    return fit.fit(
        potential or pair(),
        edges(morse(36)),
        valid or edges(morse(8, seed=1)),
        configured(folder, STEPS, **changes),
        resume=resume,
        report=(records if records is not None else []).append,
        advance=advance,
    )


def parameters(path: Path) -> dict[str, np.ndarray]:
    return load_file(path)


def same_bits(a: Path, b: Path) -> bool:
    return a.read_bytes() == b.read_bytes()


def timeless(path: Path) -> list[dict]:
    return [{k: v for k, v in record.items() if "second" not in k and "memory" not in k} for record in log.read(path)]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Folder of a run from start to end, the lines that it reported, and the steps that it announced."""
    folder, records, steps = tmp_path_factory.mktemp("uninterrupted"), [], []
    register()
    trained(folder, records=records, advance=steps.append)
    return folder, records, steps


def test_training_lowers_the_error(uninterrupted):
    _, records, _ = uninterrupted
    first, last = records[0], records[-1]
    assert last["valid_loss"] < 0.7 * first["valid_loss"]
    assert last["train"]["forces"] < 0.9 * first["train"]["forces"]


def test_what_a_run_leaves_behind(uninterrupted):
    folder, records, steps = uninterrupted
    assert [record["step"] for record in records] == [10, 20, 30, 40]
    assert json.loads((folder / "log.jsonl").read_text().splitlines()[2]) == json.loads(json.dumps(records[2]))
    assert sum(steps) == STEPS
    assert (folder / "best.safetensors").exists()
    average = parameters(folder / "last.safetensors")
    assert all(np.isfinite(x).all() for x in average.values())
    assert records[-1]["rate"] == pytest.approx(1e-5)
    assert len((folder / "log.csv").read_text().splitlines()) == 5


KILLED = """
import sys, time
from tests.train import test_fit, toy
toy.register()
print("ready", flush=True)
def advance(count):
    print("step", flush=True)
    time.sleep(0.03)
test_fit.trained(sys.argv[1], advance=advance)
print("end", flush=True)
"""


def test_killed_and_resumed_is_uninterrupted_to_the_last_bit(uninterrupted, tmp_path):
    reference, _, _ = uninterrupted
    steps = 12 + secrets.randbelow(STEPS - 14)
    delay = secrets.randbelow(60) / 1000  # anywhere in a step, a validation or the writing of a checkpoint
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    seen = 0
    for line in process.stdout:
        seen += line == "step\n"
        if seen == steps:
            time.sleep(delay)
            os.kill(process.pid, signal.SIGKILL)
            break
    rest = process.stdout.read()
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL, f"killed at step {steps} + {delay} s: {rest}"
    assert not (tmp_path / "last.safetensors").exists()
    trained(tmp_path, resume=True)
    where = f"killed at step {steps} + {delay} s"
    assert same_bits(tmp_path / "last.safetensors", reference / "last.safetensors"), where
    assert same_bits(tmp_path / "best.safetensors", reference / "best.safetensors"), where
    assert timeless(tmp_path / "log.jsonl") == timeless(reference / "log.jsonl"), where


def test_a_finished_run_is_not_trained_further(uninterrupted, tmp_path):
    folder, _, _ = uninterrupted
    steps, records = [], []
    before = (folder / "last.safetensors").read_bytes()
    trained(folder, resume=True, records=records, advance=steps.append)
    assert steps == [STEPS]
    assert records == []
    assert (folder / "last.safetensors").read_bytes() == before


def test_another_architecture_is_refused_and_nothing_lost(uninterrupted):
    folder, _, _ = uninterrupted
    before = (folder / "log.jsonl").read_bytes()
    with pytest.raises(TrainingError, match="does not belong to this model and optimizer") as caught:
        trained(folder, potential=pair(units=4), resume=True)
    assert "\n" not in str(caught.value)
    assert (folder / "log.jsonl").read_bytes() == before


def test_a_folder_with_a_run_is_not_overwritten(uninterrupted):
    folder, _, _ = uninterrupted
    with pytest.raises(TrainingError, match=r"holds a run that stands at step 40; go on with --resume"):
        trained(folder)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"cannot be written .*; make room or choose another output folder"):
        trained(tmp_path / "file" / "run")


def test_a_full_disk_is_one_sentence_and_the_run_goes_on_later(uninterrupted, tmp_path, monkeypatch):
    reference, _, _ = uninterrupted

    def full(path, record):
        if record["step"] == 30:
            raise OSError(28, "No space left on device")
        append(path, record)

    append = log.append
    with monkeypatch.context() as patch:
        patch.setattr(log, "append", full)
        with pytest.raises(TrainingError, match=r"No space left on device.*--resume"):
            trained(tmp_path)
    trained(tmp_path, resume=True)
    assert same_bits(tmp_path / "last.safetensors", reference / "last.safetensors")


def test_early_stop(tmp_path):
    """Without labels no validation is better than the first."""
    valid = edges(morse(8, seed=1))
    for label in (valid.frames.energy, valid.frames.forces, valid.frames.stress):
        label[:] = np.nan
    morse.cache_clear()
    records, steps = [], []
    trained(tmp_path, valid=valid, records=records, patience=2)
    assert [record["step"] for record in records] == [10, 20, 30]
    assert log.read(tmp_path / "log.jsonl")[-1]["valid"] == {"energy": None, "forces": None, "stress": None}
    trained(tmp_path, valid=valid, resume=True, patience=2, advance=steps.append)
    assert steps == [30]


def spoil(monkeypatch, bad):
    """Let the loss overflow in the steps that ``bad`` says, counted from 1, repeated ones too."""
    calls = 0
    make = fit.make_step

    def make_step(*args, **options):
        step = make(*args, **options)

        def spoilt(state, graph, labels):
            nonlocal calls
            calls += 1
            if bad(calls):
                labels = labels._replace(energy=labels.energy * 0 + np.float32(3e38))
            return step(state, graph, labels)

        return spoilt

    monkeypatch.setattr(fit, "make_step", make_step)


def test_bad_steps_are_skipped_and_many_in_a_row_roll_back(tmp_path, monkeypatch):
    spoil(monkeypatch, lambda call: call in (3, 4) or 14 <= call < 19)
    records, steps = [], []
    trained(tmp_path, records=records, advance=steps.append)
    assert sum(steps) == STEPS
    assert min(steps) < 0
    assert [record["step"] for record in records] == [10, 20, 30, 40]
    assert [record["skipped"] for record in records] == [2, 0, 0, 0]
    schedule = fit.learning_rate(configured(tmp_path, STEPS).optim)
    assert records[0]["rate"] == pytest.approx(float(schedule(10)))
    assert records[1]["rate"] == pytest.approx(float(schedule(20)) / 2)
    assert all(np.isfinite(x).all() for x in parameters(tmp_path / "last.safetensors").values())


def test_hopeless_gradients_end_the_run_with_a_sentence(tmp_path, monkeypatch):
    spoil(monkeypatch, lambda call: call > 13)
    with pytest.raises(TrainingError, match=r"5 steps in a row had no finite gradient and 4 roll-backs did not help"):
        trained(tmp_path)
    assert log.read(tmp_path / "log.jsonl")[-1]["step"] == 10
    assert parameters(tmp_path / "best.safetensors")


def test_a_log_that_a_kill_cut_short(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(
        '{"step": 10, "valid": {"energy": 1.0}}\n{"step": 20, "valid": {"energy": 0.5}}\n{"step": 30, "valid": {}'
    )
    assert [record["step"] for record in log.read(path)] == [10, 20]
    log.truncate(path, 10)
    assert path.read_text() == '{"step": 10, "valid": {"energy": 1.0}}\n'
    log.write_csv(tmp_path / "log.csv", log.read(path))
    assert (tmp_path / "log.csv").read_text() == "step,valid_energy\n10,1.0\n"


@pytest.mark.parametrize("error", [OSError(28, "No space\nleft"), ValueError("RESOURCE_EXHAUSTED: No space left")])
def test_errors_of_orbax_are_one_sentence(tmp_path, error):
    class Full:
        directory = tmp_path

        def save(self, step, args):
            raise error

    state = init_state(pair(), optax.sgd(1.0))
    with pytest.raises(TrainingError, match=r"cannot be written .*No space left.*--resume"):
        checkpoints.save(Full(), state, checkpoints.Position())


STATUS = Path("/proc/self/status")


@pytest.mark.skipif(not STATUS.exists() or "VmHWM" not in STATUS.read_text(), reason="the kernel does not tell it")
def test_peak_memory_is_that_of_the_process_itself():
    child = "from m3pot.train.fit import peak_memory; print(peak_memory())"
    parent = f"import subprocess, sys; x = b'1' * 2**30; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    found = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True).stdout
    assert 50 < int(found) < 1000
