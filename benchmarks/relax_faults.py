"""A thousand cells, a tenth of them broken, relaxed by the command line under three ``kill -9`` and ``--resume``.

    python benchmarks/relax_faults.py

The healthy cells (random symmetric crystals of 2 to 6 atoms) are relaxed once by themselves and undisturbed. Then all
cells together, killed three times at random moments and taken up again. Counted are structures that are lost or come
twice, runs without progress for ``--patience`` seconds, results that change after they were noted, wrong statuses, and
differences between the healthy cells of both runs.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk
from generated import random_crystal
from workers import RESULTS, write

ENDINGS = ("extxyz", "cif", "vasp")


def _broken(atoms: Atoms, **changes) -> Atoms:
    atoms = atoms.copy()
    for name, (where, value) in changes.items():
        getattr(atoms, name)[where] = value
    return atoms


# Name of the fault: the expected status, and the broken structure, or the text of a broken file.
FAULTS = {
    "NaN position": ("nan", lambda atoms: _broken(atoms, positions=((1, 2), np.nan))),
    "NaN cell": ("nan", lambda atoms: _broken(atoms, cell=((0, 0), np.nan))),
    "duplicate atoms": ("clash", lambda atoms: _broken(atoms, positions=(1, atoms.positions[0]))),
    "unknown element": ("unsupported_element", lambda atoms: _broken(atoms, numbers=(0, 100))),
    "zero volume": ("failed", lambda atoms: _broken(atoms, cell=(2, 0.0))),
    "2000 atoms": ("too_large", lambda atoms: bulk("Cu") * (10, 10, 20)),
    "empty file": ("failed", lambda atoms: ""),
    "binary file": ("failed", lambda atoms: "\x7fELF\x02\x01\x01\x00\x00 no structure"),
    "cut off file": (
        "failed",
        lambda atoms: '4\nLattice="3 0 0 0 3 0 0 0 3" Properties=species:S:1:pos:R:3\nCu 0 0 0\n',
    ),
}


def write_inputs(folder: Path, count: int, share: float, seed: int) -> dict[str, str]:
    """``count`` files in ``folder``; returns the fault of each broken one by its name."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    broken = rng.choice(count, round(share * count), replace=False)
    kinds = {int(k): list(FAULTS)[n % len(FAULTS)] for n, k in enumerate(broken)}
    faults = {}
    for k, own in enumerate(rng.spawn(count)):
        crystal = random_crystal(own, 2, 6)
        if k not in kinds:
            ase.io.write(folder / f"{k:04d}.{ENDINGS[k % len(ENDINGS)]}", crystal)
            continue
        path = folder / f"{k:04d}.extxyz"
        faults[path.name] = kinds[k]
        content = FAULTS[kinds[k]][1](crystal)
        if isinstance(content, str):
            path.write_text(content, newline="")
        else:
            ase.io.write(path, content)
    return faults


class Run:
    """The command line at work on one output; ``done`` reads what it has noted so far."""

    def __init__(self, inputs: list[Path], output: Path, arguments: argparse.Namespace):
        self.output, self.journal = output, output.with_name(output.name + ".journal")
        self.patience = arguments.patience
        self.command = [str(Path(sys.executable).with_name("m3pot")), "relax", *map(str, inputs), "-o", str(output)]
        self.command += ["--steps", str(arguments.steps), "--quiet"]
        self.command += ["--model", arguments.model] if arguments.model else []

    def noted(self) -> list[str]:
        """Lines of the journal, the first of which is no result; none before the start and after the end."""
        try:
            return self.journal.read_text().split("\n")[:-1]
        except FileNotFoundError:
            return []

    def done(self) -> dict[int, str]:
        """Noted results by their place in the input, as text."""
        return {json.loads(line)["index"]: line for line in self.noted()[1:]}

    def work(self, kill_at: float | None = None, delay: float = 0.0) -> str:
        """Run to the end, or be killed ``delay`` s after ``kill_at`` results: "ended", "killed" or "hung"."""
        resume = ["--resume"] if self.journal.exists() else []
        with open(self.output.with_suffix(".log"), "a") as log:
            process = subprocess.Popen([*self.command, *resume], stdout=log, stderr=log)
        seen, since = 0, time.monotonic()
        while process.poll() is None:
            time.sleep(0.1)
            lines = len(self.noted())
            if lines != seen:
                seen, since = lines, time.monotonic()
            if time.monotonic() - since > self.patience:
                process.kill()
                process.wait()
                return "hung"
            if kill_at is not None and lines > kill_at:
                time.sleep(delay)
                process.kill()
                return "ended" if process.wait() in (0, 1) else "killed"
        if process.returncode not in (0, 1):
            raise SystemExit(f"m3pot relax ended with code {process.returncode}; see {log.name}.")
        return "ended"

    def results(self) -> tuple[dict[str, dict], dict[str, list[Atoms]]]:
        """Rows of the summary and frames of the structures, by file name."""
        with open(self.output.with_suffix(".csv"), newline="") as file:
            rows = {Path(row["name"]).name: row for row in csv.DictReader(file)}
        frames: dict[str, list[Atoms]] = {}
        for atoms in ase.io.iread(self.output, ":"):
            frames.setdefault(Path(atoms.info["name"]).name, []).append(atoms)
        return rows, frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--share", type=float, default=0.1, help="of broken cells")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--steps", type=int, default=25, help="most steps of one structure")
    parser.add_argument("--model", default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patience", type=float, default=600.0, help="s without progress that count as hung")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS / "relax_faults.json")
    arguments = parser.parse_args()
    report = {"settings": {key: value for key, value in vars(arguments).items() if key not in ("model", "output")}}

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        faults = write_inputs(folder / "in", arguments.count, arguments.share, arguments.seed)
        files = sorted((folder / "in").iterdir())
        healthy = [path for path in files if path.name not in faults]
        calm = Run(healthy, folder / "calm.extxyz", arguments)
        start = time.monotonic()
        hung = calm.work() == "hung"
        print(f"undisturbed: {len(healthy)} healthy cells in {time.monotonic() - start:.0f} s", flush=True)

        rough = Run(files, folder / "rough.extxyz", arguments)
        rng = np.random.default_rng(arguments.seed)
        noted: dict[int, str] = {}
        kills, changed, start = [], 0, time.monotonic()
        for kill_at in [*np.sort(rng.uniform(0, 0.9 * arguments.count, arguments.kills)), None]:
            outcome = rough.work(kill_at, rng.uniform(0, 1.0))
            hung += outcome == "hung"
            if outcome == "killed":
                now = rough.done()
                changed += sum(now.get(index) != line for index, line in noted.items())
                noted = now
                kills.append(len(noted))
                print(f"killed after {len(noted)} results, {time.monotonic() - start:.0f} s", flush=True)
        print(f"all {len(files)} cells: {time.monotonic() - start:.0f} s", flush=True)
        (want_rows, want_frames), (rows, frames) = calm.results(), rough.results()

    for index, line in noted.items():
        kept = {key: "" if value is None else str(value) for key, value in json.loads(line)["row"].items()}
        changed += any(rows[files[index].name][key] != value for key, value in kept.items())
    by_fault = {kind: Counter(rows[n]["status"] for n in faults if faults[n] == kind) for kind in FAULTS}
    wrong = sum(rows[n]["status"] != FAULTS[kind][0] or not rows[n]["reason"] for n, kind in faults.items())
    wrong += sum(rows[path.name]["status"] != want_rows[path.name]["status"] for path in healthy)
    kept = [name for name in want_frames if name in frames]
    pairs = [(frames[name][0], want_frames[name][0]) for name in kept if want_frames[name][0].calc]
    report |= {
        "killed_after_results": kills,
        "lost": len({path.name for path in files} - set(rows)) + len(want_frames) - len(kept),
        "twice": sum(len(group) > 1 for group in frames.values()),
        "out_of_order": [path.name for path in files] != list(rows),
        "hung": int(hung),
        "changed_after_they_were_noted": changed,
        "wrong_status": wrong,
        "status_of_faults": {kind: dict(counts) for kind, counts in by_fault.items()},
        "status_of_healthy": dict(Counter(rows[path.name]["status"] for path in healthy)),
        "healthy_against_undisturbed": {
            "compared": len(pairs),
            "energy_eV_per_atom": max(
                abs(a.get_potential_energy() - b.get_potential_energy()) / len(a) for a, b in pairs
            ),
            "positions_A": max(float(np.abs(a.positions - b.positions).max()) for a, b in pairs),
            "different_rows": sum(
                {**rows[p.name], "index": "", "name": ""} != {**want_rows[p.name], "index": "", "name": ""}
                for p in healthy
            ),
        },
    }
    print(json.dumps(report, indent=1))
    write(arguments.output, report)
    if len(kills) < arguments.kills:
        raise SystemExit(f"Only {len(kills)} of {arguments.kills} kills hit a running process; choose another --seed.")


if __name__ == "__main__":
    main()
