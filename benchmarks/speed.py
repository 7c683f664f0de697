"""Time of neighbour list + energy + forces + stress against MatGL's M3GNet of equal size, on one machine.

    python benchmarks/speed.py                                  # both packages in this environment (extra `peers`)
    python benchmarks/speed.py --peer-python ~/matgl/bin/python # MatGL in an environment of its own

One worker process for each package evaluates the same displaced MgO crystals through its ASE calculator, the calls of
the two interleaved. First calls (compilation) are timed apart. Random weights: speed does not depend on them.
"""

import argparse
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

REPEATS = {8: (1, 1, 1), 32: (2, 2, 1), 96: (3, 2, 2), 192: (4, 3, 2), 504: (7, 3, 3)}
REPEATS |= {1000: (5, 5, 5), 2000: (10, 5, 5)}
RESULTS = Path(__file__).parent / "results" / "speed.json"


def crystal(atoms: int, call: int):
    """MgO with random displacements of 0.05 A, new ones for each call."""
    import numpy as np
    from ase.build import bulk

    structure = bulk("MgO", "rocksalt", a=4.21, cubic=True) * REPEATS[atoms]
    structure.positions += np.random.default_rng(call).normal(scale=0.05, size=structure.positions.shape)
    return structure


def m3pot_calculator():
    """M3GNet in MatGL's dialect: 64 units, 3 blocks; the list is made anew for each call (no skin)."""
    import jax
    import numpy as np

    from m3pot.calculator import M3PotCalculator
    from m3pot.models.m3gnet import DIALECTS, M3GNet
    from m3pot.potential import Potential
    from m3pot.structure import from_ase

    model = M3GNet(**DIALECTS["matgl"])
    graph = from_ase(crystal(8, 0), model.cutoff, dtype=np.float32)
    variables = model.init(jax.random.key(0), graph, np.ones((len(graph.receivers), 3), np.float32))
    potential = Potential(model, variables["params"], np.ones(95), np.zeros(95), np.zeros(()))
    size = sum(leaf.size for leaf in jax.tree.leaves(potential.params))
    return M3PotCalculator(potential, dtype="float32", skin=0.0), size


def matgl_calculator():
    """MatGL's M3GNet with its default fields, which are those of the published potentials."""
    import warnings

    warnings.simplefilter("ignore")
    import torch
    from matgl.apps.pes import Potential
    from matgl.config import DEFAULT_ELEMENTS
    from matgl.ext.ase import PESCalculator
    from matgl.models import M3GNet

    torch.manual_seed(0)
    model = M3GNet(element_types=DEFAULT_ELEMENTS, is_intensive=False, use_smooth=True, cutoff=5.0)
    size = sum(parameter.numel() for parameter in model.parameters())
    return PESCalculator(Potential(model, calc_stresses=True), stress_unit="eV/A3"), size


def work(package: str) -> None:
    """Answer requests ``[atoms, call]`` on standard input with times and memory on standard output."""
    from importlib import metadata

    calculator, parameters = {"m3pot": m3pot_calculator, "matgl": matgl_calculator}[package]()
    names = {"m3pot": ["jax", "jaxlib"], "matgl": ["matgl", "torch"]}[package]
    versions = {name: metadata.version(name) for name in names}
    reply({"parameters": parameters, "versions": versions})
    for line in sys.stdin:
        structure = crystal(*json.loads(line))
        structure.calc = calculator
        start = time.perf_counter()
        structure.get_potential_energy()
        structure.get_forces()
        structure.get_stress()
        seconds = time.perf_counter() - start
        reply({"seconds": seconds, "peak_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024})


def reply(message: dict) -> None:
    print("@" + json.dumps(message), flush=True)


class Worker:
    """A package in a process of its own."""

    def __init__(self, package: str, python: str):
        command = [python, __file__, "--worker", package]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = self.answer()

    def answer(self) -> dict:
        for line in self.process.stdout:
            if line.startswith("@"):
                return json.loads(line[1:])
        raise SystemExit(f"{shlex.join(self.process.args)} ended; see its message above.")

    def call(self, atoms: int, number: int) -> dict:
        self.process.stdin.write(json.dumps([atoms, number]) + "\n")
        self.process.stdin.flush()
        return self.answer()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter of an environment with matgl")
    parser.add_argument("--sizes", type=int, nargs="+", choices=REPEATS, default=[*REPEATS])
    parser.add_argument("--calls", type=int, default=7, help="timed calls of each package and size")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--worker", choices=["m3pot", "matgl"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker)
        return

    from m3pot.cli.options import print_table
    from m3pot.environment import describe

    workers = {"m3pot": Worker("m3pot", sys.executable), "matgl": Worker("matgl", options.peer_python)}
    rows = []
    for atoms in options.sizes:
        first = {name: worker.call(atoms, 0) for name, worker in workers.items()}
        times: dict[str, list[float]] = {name: [] for name in workers}
        for number in range(1, options.calls + 1):
            for name, worker in workers.items():
                last = worker.call(atoms, number)
                times[name].append(last["seconds"])
                first[name]["peak_MB"] = last["peak_MB"]
        row = {"atoms": atoms}
        for name in workers:
            row[f"{name}_ms"] = 1000 * statistics.median(times[name])
            row[f"{name}_best_ms"] = 1000 * min(times[name])
            row[f"{name}_first_s"] = first[name]["seconds"]
            row[f"{name}_peak_MB"] = first[name]["peak_MB"]
        row["ratio"] = row["matgl_ms"] / row["m3pot_ms"]
        rows.append(row)
        print_table(rows[-1:])
    result = {
        "what": "neighbour list + energy + forces + stress, float32, M3GNet 64 units 3 blocks, MgO",
        "command": shlex.join([Path(sys.executable).name, "benchmarks/speed.py", *_public(sys.argv[1:])]),
        "environment": describe() | {"load": os.getloadavg()[0]},
        "workers": {name: worker.about for name, worker in workers.items()},
        "calls": options.calls,
        "rows": rows,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print_table(rows)


def _public(arguments: list[str]) -> list[str]:
    """Arguments without folders of this machine."""
    return [Path(argument).name if os.sep in argument else argument for argument in arguments]


if __name__ == "__main__":
    main()
