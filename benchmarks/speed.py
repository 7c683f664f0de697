"""Time of neighbour list + energy + forces + stress against MatGL's M3GNet of equal size, on one machine.

    python benchmarks/speed.py                                  # both packages in this environment (extra `peers`)
    python benchmarks/speed.py --peer-python ~/matgl/bin/python # MatGL in an environment of its own

One worker process for each package evaluates the same displaced MgO crystals through its ASE calculator, the calls of
all interleaved; "trimmed" is m3pot with M3POT_KEEP_MEMORY=0, which gives freed memory back to the kernel. First calls
(compilation) are timed apart. Random weights: speed does not depend on them.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

from workers import RESULTS, Worker, peak_MB, serve, versions, write

REPEATS = {8: (1, 1, 1), 32: (2, 2, 1), 96: (3, 2, 2), 192: (4, 3, 2), 504: (7, 3, 3)}
REPEATS |= {1000: (5, 5, 5), 2000: (10, 5, 5)}


def crystal(atoms: int, call: int):
    """MgO with random displacements of 0.05 A, new ones for each call."""
    import numpy as np
    from ase.build import bulk

    structure = bulk("MgO", "rocksalt", a=4.21, cubic=True) * REPEATS[atoms]
    structure.positions += np.random.default_rng(call).normal(scale=0.05, size=structure.positions.shape)
    return structure


def m3pot_potential():
    """M3GNet in MatGL's dialect, 64 units, 3 blocks, random weights; and its number of parameters."""
    import jax
    import numpy as np

    from m3pot.models.m3gnet import DIALECTS, M3GNet
    from m3pot.potential import Potential
    from m3pot.structure import from_ase

    model = M3GNet(**DIALECTS["matgl"])
    graph = from_ase(crystal(8, 0), model.cutoff, dtype=np.float32)
    variables = model.init(jax.random.key(0), graph, np.ones((len(graph.receivers), 3), np.float32))
    potential = Potential(model, variables["params"], np.ones(95), np.zeros(95), np.zeros(()))
    return potential, sum(leaf.size for leaf in jax.tree.leaves(potential.params))


def matgl_model(units: int = 64):
    """MatGL's M3GNet with its default fields, which are those of the published potentials, or wider; and its size."""
    import warnings

    warnings.simplefilter("ignore")
    import torch
    from matgl.config import DEFAULT_ELEMENTS
    from matgl.models import M3GNet

    torch.manual_seed(0)
    width = {"units": units, "dim_node_embedding": units, "dim_edge_embedding": units}
    model = M3GNet(element_types=DEFAULT_ELEMENTS, is_intensive=False, use_smooth=True, cutoff=5.0, **width)
    return model, sum(parameter.numel() for parameter in model.parameters())


def m3pot_calculator():
    """The list is made anew for each call (no skin)."""
    from m3pot.calculator import M3PotCalculator

    potential, size = m3pot_potential()
    return M3PotCalculator(potential, dtype="float32", skin=0.0), size


def matgl_calculator():
    from matgl.apps.pes import Potential
    from matgl.ext.ase import PESCalculator

    model, size = matgl_model()
    return PESCalculator(Potential(model, calc_stresses=True), stress_unit="eV/A3"), size


def work(package: str) -> None:
    """Answer requests (atoms, call) with times and memory."""
    if package == "trimmed":
        os.environ["M3POT_KEEP_MEMORY"] = "0"
    calculator, parameters = (matgl_calculator if package == "matgl" else m3pot_calculator)()
    names = ["matgl", "torch"] if package == "matgl" else ["jax", "jaxlib"]

    def evaluate(atoms: int, call: int) -> dict:
        structure = crystal(atoms, call)
        structure.calc = calculator
        start = time.perf_counter()
        structure.get_potential_energy()
        structure.get_forces()
        structure.get_stress()
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "peak_MB": peak_MB()}

    serve({"parameters": parameters, "versions": versions(*names)}, evaluate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter of an environment with matgl")
    parser.add_argument("--sizes", type=int, nargs="+", choices=REPEATS, default=[*REPEATS])
    parser.add_argument("--calls", type=int, default=7, help="timed calls of each package and size")
    parser.add_argument("--output", type=Path, default=RESULTS / "speed.json")
    parser.add_argument("--worker", choices=["m3pot", "trimmed", "matgl"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker)
        return

    from m3pot.cli.options import print_table

    workers = {name: Worker(__file__, name) for name in ("m3pot", "trimmed")}
    workers["matgl"] = Worker(__file__, "matgl", options.peer_python)
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
        row["ratio_trimmed"] = row["matgl_ms"] / row["trimmed_ms"]
        rows.append(row)
        print_table(rows[-1:])
    result = {
        "what": "neighbour list + energy + forces + stress, float32, M3GNet 64 units 3 blocks, MgO",
        "workers": {name: worker.about for name, worker in workers.items()},
        "calls": options.calls,
        "rows": rows,
    }
    write(options.output, result)
    print_table(rows)


if __name__ == "__main__":
    main()
