"""What fine-tuning wins and forgets: 200 oxides with five and more elements (DFT), replay of earlier training frames.

    python benchmarks/finetune.py

Trains on 200 frames of the set heo-valid (a tenth of them decides when to stop), tests on all frames of other formulas;
replays frames of nequix-oam-1-perturbed and measures on a tenth of these, kept out, what was forgotten.
"""

import argparse
import csv
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from workers import RESULTS, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="m3pot-s", help="name, or model file in this folder")
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--replay", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=RESULTS / "finetune.json")
    options = parser.parse_args()

    from m3pot.cli.options import print_table
    from m3pot.data.frames import write_npz
    from m3pot.data.graphs import EdgeCache
    from m3pot.data.sources import load
    from m3pot.data.split import formulas
    from m3pot.io import registry
    from m3pot.train.accuracy import accuracy, residuals
    from m3pot.train.predictions import predict_frames

    chance = np.random.default_rng(0)
    heo, old = load(["heo-valid"], use="validate"), load(["nequix-oam-1-perturbed"], use="train")
    few = np.sort(chance.permutation(len(heo))[: options.frames])
    others = ~np.isin(formulas(heo), formulas(heo[few]))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_npz(heo[few], place / "heo.npz")
        write_npz(old[np.sort(chance.permutation(len(old))[: options.replay])], place / "old.npz")
        if (file := Path(options.model)).exists():
            shutil.copy(file, place)  # the command runs there
        command = ["m3pot", "finetune", "heo.npz", "--replay", "old.npz", "--model", options.model, "-o", "tuned"]
        command += ["--set", f"optim.steps={options.steps}"]
        subprocess.run([str(Path(sys.executable).with_name("m3pot")), *command[1:]], cwd=place, check=True)
        with (place / "tuned" / "before_after.csv").open() as file:
            probe = [row for row in csv.DictReader(file) if row["set"] == "replay probe"]
        models = {
            "before": registry.load(options.model),
            "fine-tuned": registry.load(place / "tuned" / "model.safetensors"),
        }
    rows = []
    for name, potential in models.items():
        cache = EdgeCache.build(heo[others], potential.cutoff)
        measured = accuracy(residuals(cache.frames, predict_frames(potential, cache)))
        rows.append({"set": "other heo frames", "model": name, **measured._asdict()})
    rows += [
        {key: value if key in ("set", "model") else float(value or "nan") for key, value in row.items()}
        for row in probe
    ]
    result = {
        "model": options.model,
        "finetune": " ".join(command),
        "frames": options.frames,
        "replayed": options.replay,
        "tested": int(others.sum()),
        "rows": rows,
    }
    write(options.output, result)
    print_table(rows)


if __name__ == "__main__":
    main()
