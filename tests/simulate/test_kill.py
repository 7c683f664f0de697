"""The command under SIGKILL; what a kill within the process leaves is in test_run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from m3pot.io.checkpoint import save_potential
from tests.helpers import random_potential


@pytest.mark.physics
def test_a_killed_command_resumes_bit_by_bit(tmp_path):
    model = tmp_path / "tiny.safetensors"
    save_potential(model, random_potential("tensorflow", "float32", units=4, blocks=1))
    script, output = Path(__file__).parents[2] / "benchmarks" / "md_kill.py", tmp_path / "result.json"
    options = ["--model", model, "--steps", "400", "--kills", "1", "--formats", "h5", "-o", output]
    subprocess.run([sys.executable, script, *map(str, options)], check=True)
    (row,) = json.loads(output.read_text())["rows"]
    assert row["differences"] == []
    assert row["steps"] == 400
    assert 0 < row["killed_after_steps"][0] < 400
