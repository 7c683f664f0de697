"""Batched relaxation of generated crystals against ASE with the same calculator, one by one, on the same machine.

    python benchmarks/relax.py                                   # 500 random symmetric crystals, shipped model
    python benchmarks/relax.py --count 100 --ase 20 --model NAME

Both stop at the same limits on forces and stress, both use all cores that they can. ASE relaxes every ``count/ase``-th
crystal (FIRE with FrechetCellFilter, the route of MatGL's Relaxer; LBFGS for comparison), and its speed is that of
these. Compilations are part of both times.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections import Counter
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "relax.json"


def batched(structures, potential, options) -> dict:
    from m3pot.execution import compile_count
    from m3pot.relaxation import iter_relax

    before, start, cpu = compile_count("_descend"), time.perf_counter(), time.process_time()
    results = sorted(iter_relax(enumerate(structures), potential, options), key=lambda result: result.index)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    assert len(results) == len(structures), "a structure was lost"
    summary = _summary(results, wall, cpu) | {"compilations": compile_count("_descend") - before}
    return {"summary": summary, "results": results}


def one_by_one(structures, potential, options) -> dict:
    from m3pot.calculator import M3PotCalculator
    from m3pot.execution import compile_count
    from m3pot.relaxation.ase_route import relax_with_ase

    calculator = M3PotCalculator(potential, dtype=options.dtype)
    before, start, cpu = compile_count("predict"), time.perf_counter(), time.process_time()
    results = [
        relax_with_ase(atoms, calculator, options, index=index, elements=potential.elements)
        for index, atoms in enumerate(structures)
    ]
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    summary = _summary(results, wall, cpu) | {"compilations": compile_count("predict") - before}
    return {"summary": summary, "results": results}


def _summary(results, wall: float, cpu: float) -> dict:
    return {
        "structures": len(results),
        "wall_s": round(wall, 2),
        "cpu_s": round(cpu, 2),
        "structures_per_s": round(len(results) / wall, 4),
        "structures_per_cpu_s": round(len(results) / cpu, 4),
        "force_calls": sum(result.steps + 1 for result in results if result.evaluated),
        "status": dict(Counter(result.status for result in results)),
    }


def compare(ours, theirs) -> dict:
    """Energies of the same structures, where both converged: within 1 meV/atom, lower and higher; force calls."""
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a.converged and b.converged]
    gaps = [1000 * (a.energy - b.energy) / len(a.atoms) for a, b in pairs]
    return {
        "both_converged": len(pairs),
        "same": sum(abs(gap) <= 1 for gap in gaps),
        "lower": sum(gap < -1 for gap in gaps),
        "higher": sum(gap > 1 for gap in gaps),
        "mean_difference_meV_per_atom": round(sum(gaps) / max(len(gaps), 1), 3),
        "force_calls_ours": sum(a.steps + 1 for a, _ in pairs),
        "force_calls_theirs": sum(b.steps + 1 for _, b in pairs),
    }


def facts() -> dict:
    import jax

    import m3pot

    return {
        "command": "python " + " ".join(sys.argv),
        "m3pot": m3pot.__version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device": str(jax.devices()[0].device_kind),
        "cores": len(os.sched_getaffinity(0)),
        "load_average_at_start": round(os.getloadavg()[0], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--ase", type=int, default=50, help="crystals that ASE relaxes; 0: none")
    parser.add_argument("--model", default=None)
    parser.add_argument("--fmax", type=float, default=0.05)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()

    from generated import random_crystals

    from m3pot.io.registry import load
    from m3pot.relaxation import Options

    environment = facts()
    potential = load(arguments.model)
    structures = random_crystals(arguments.count, arguments.seed)
    options = {"fmax": arguments.fmax, "steps": arguments.steps, "dtype": arguments.dtype}
    report = {"environment": environment, "settings": vars(arguments) | {"output": str(arguments.output.name)}}
    ours = batched(structures, potential, Options(**options))
    report["batched"] = ours["summary"]
    print(json.dumps(report["batched"]))
    if arguments.ase:
        every = max(len(structures) // arguments.ase, 1)
        part = structures[::every]
        for minimizer in ("fire", "lbfgs"):
            theirs = one_by_one(part, potential, Options(minimizer=minimizer, **options))
            speedup = report["batched"]["structures_per_s"] / theirs["summary"]["structures_per_s"]
            report[f"ase_{minimizer}"] = theirs["summary"] | {
                "batched_is_faster_by": round(speedup, 2),
                "agreement": compare(ours["results"][::every], theirs["results"]),
            }
            print(json.dumps(report[f"ase_{minimizer}"]))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
