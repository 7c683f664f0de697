"""``m3pot md`` under ``kill -9`` at random moments and ``--resume``, against the same run left in peace.

    python benchmarks/md_kill.py                             # silicon, shipped model, 5 000 steps, every format

Constant temperature and pressure; a frame, lines of the log and a restart file come so often that a kill hits the
writing as well. Compared bit by bit are trajectory, log and the whole state of the last restart file.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from workers import RESULTS, write

CRYSTAL = Path(__file__).parents[1] / "examples" / "Si.cif"
OPTIONS = ["--ensemble", "npt", "--temperature", "600", "--every", "10", "--log-every", "5", "--restart-every", "70"]


class Run:
    """The command at work on one trajectory."""

    def __init__(self, path: Path, steps: int, model: str | None):
        self.path, self.log, self.restart = path, path.with_suffix(".csv"), path.with_suffix(".restart.npz")
        self.command = [str(Path(sys.executable).with_name("m3pot")), "md", str(CRYSTAL), *OPTIONS, "--quiet"]
        self.command += ["--steps", str(steps), "-o", str(path), *(["--model", model] if model else [])]

    def work(self, moment: float | None = None, delay: float = 0.0) -> int:
        """Run to the end, or be killed ``delay`` s after step ``moment``; returns the last step that the log tells."""
        process = subprocess.Popen([*self.command, *(["--resume"] if self.restart.exists() else [])])
        while moment is not None and self.step() < moment and process.poll() is None:
            time.sleep(0.01)
        if moment is not None:
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        if process.wait() != (0 if moment is None else -signal.SIGKILL):
            raise SystemExit(
                f"m3pot md ended with code {process.returncode}; see its message, or choose another --seed."
            )
        return self.step()

    def step(self) -> int:
        """Last step that the log tells."""
        if not self.log.exists():
            return 0
        with open(self.log, "rb") as stream:
            stream.seek(max(0, self.log.stat().st_size - 500))
            words = stream.read().splitlines()[-1:] or [b""]
        step = words[0].split(b",")[0]
        return int(step) if step.isdigit() else 0


def differences(whole: Run, parts: Run) -> list[str]:
    """What is not the same to the last bit."""
    from m3pot.simulate.hdf5 import read
    from m3pot.simulate.restart import load

    different = []
    if whole.path.suffix == ".h5":
        pairs = read(whole.path), read(parts.path)
        different += [f"trajectory/{name}" for name, x in pairs[0].items() if not np.array_equal(x, pairs[1][name])]
    elif whole.path.read_bytes() != parts.path.read_bytes():
        different.append("trajectory")
    if whole.log.read_bytes() != parts.log.read_bytes():
        different.append("log")
    ends = [load(run.restart, {}) for run in (whole, parts)]
    for group in ("state", "conditions"):
        first, second = (getattr(end, group)._asdict() for end in ends)
        different += [f"{group}/{name}" for name, x in first.items() if not np.array_equal(x, second[name])]
    return different


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--formats", nargs="+", choices=["extxyz", "traj", "h5"], default=["extxyz", "traj", "h5"])
    parser.add_argument("--model", help="name or file; default: the shipped one")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS / "md_kill.json")
    arguments = parser.parse_args()

    rng, rows = np.random.default_rng(arguments.seed), []
    for suffix in arguments.formats:
        with tempfile.TemporaryDirectory() as name:
            whole, parts = (Run(Path(name) / f"{run}.{suffix}", arguments.steps, arguments.model) for run in "ab")
            whole.work()
            moments = np.sort(rng.uniform(0.02, 0.95, arguments.kills) * arguments.steps)
            reached = [parts.work(moment, rng.uniform(0, 0.05)) for moment in moments]
            parts.work()
            row = {"format": suffix, "steps": parts.step(), "killed_after_steps": reached}
            rows.append(row | {"differences": differences(whole, parts)})
        print(rows[-1], flush=True)
        result = {
            "what": f"m3pot md {CRYSTAL.name} {' '.join(OPTIONS)}",
            "model": Path(arguments.model or "shipped").name,
        }
        write(arguments.output, result | {"rows": rows})
    if any(row["differences"] for row in rows):
        raise SystemExit("The resumed run is not the uninterrupted one; see the differences above.")


if __name__ == "__main__":
    main()
