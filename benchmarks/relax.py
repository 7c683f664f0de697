"""Batched relaxation of generated crystals against ASE with the same calculator, one by one, on the same machine.

    python benchmarks/relax.py                                   # 500 random symmetric crystals, shipped model
    python benchmarks/relax.py --count 100 --ase 10 --model NAME
    python benchmarks/relax.py --peer-python ~/matgl/bin/python  # and MatGL's Relaxer in an environment of its own

The crystals are dealt out to rounds. In each round the engine relaxes all of them, and ASE (FIRE with
FrechetCellFilter, the route of MatGL's Relaxer; LBFGS for comparison) and MatGL a random few, one from each class of
size, whose speed stands for all. All stop at the same limits and use all cores that they can. Compilations are part of
the engine's time; the others, whose few crystals would have to bear them all, make their first calls untimed. Without
``--peer-model`` MatGL takes ``--peer-steps`` steps of each crystal with untrained weights: this gives its time per
force call, and its speed if it needs as many calls as ASE's FIRE.
"""

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

from workers import RESULTS, Worker, serve, versions, write

PROGRESS = 15  # s between lines


def followed(results, total: int, name: str) -> list:
    """All results in the order of the input, with a line of progress now and then."""
    done, start = [], time.monotonic()
    last = start
    for result in results:
        done.append(result)
        now = time.monotonic()
        if now - last > PROGRESS:
            rate, last = len(done) / (now - start), now
            left = (total - len(done)) / rate
            print(
                f"{name}: {len(done)}/{total}, {rate:.2f} structures/s, {left:.0f} s left", file=sys.stderr, flush=True
            )
    return sorted(done, key=lambda result: result.index)


def batched(structures, potential, options) -> list:
    from m3pot.relaxation import iter_relax

    results = followed(iter_relax(enumerate(structures), potential, options), len(structures), "batched")
    if [result.index for result in results] != list(range(len(structures))):
        raise SystemExit("A structure was lost or came twice.")
    return results


def one_by_one(structures, potential, options) -> list:
    from m3pot.calculator import M3PotCalculator
    from m3pot.relaxation.ase_route import relax_with_ase

    calculator = M3PotCalculator(potential, dtype=options.dtype)
    results = (
        relax_with_ase(atoms, calculator, options, index=index, elements=potential.elements)
        for index, atoms in enumerate(structures)
    )
    return followed(results, len(structures), f"ASE {options.minimizer}")


def force_calls(results) -> int:
    return sum(result.steps + 1 for result in results if result.evaluated)


class Stopwatch:
    """Results and times of one method, round by round, and compilations of ``function`` while the clock runs."""

    def __init__(self, run, function: str, first_calls=lambda structures: None):
        self.run, self.function, self.first_calls = run, function, first_calls
        self.results, self.speeds = [], []
        self.wall = self.cpu = 0.0
        self.compilations = 0

    def relax(self, structures) -> None:
        from m3pot.execution import compile_count

        self.first_calls(structures)
        self.compilations -= compile_count(self.function)
        wall, cpu = time.perf_counter(), time.process_time()
        self.results += self.run(structures)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        self.wall, self.cpu = self.wall + wall, self.cpu + cpu
        self.speeds.append(len(structures) / wall)
        self.compilations += compile_count(self.function)

    def summary(self) -> dict:
        calls = force_calls(self.results)
        return {
            "structures": len(self.results),
            "wall_s": round(self.wall, 2),
            "cpu_s": round(self.cpu, 2),
            "structures_per_s": round(len(self.results) / self.wall, 4),
            "structures_per_cpu_s": round(len(self.results) / self.cpu, 4),
            "force_calls": calls,
            "ms_per_force_call": round(1000 * self.wall / max(calls, 1), 2),
            "status": dict(Counter(result.status for result in self.results)),
            "compilations": self.compilations,
        }


def compare(ours, theirs, same: float = 1.0) -> dict:
    """Energies at the ends of the same structures: within ``same`` meV/atom, lower, higher; and force calls."""
    ended = ("converged", "max_steps")
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a.status in ended and b.status in ended]
    gaps = [1000 * (a.energy - b.energy) / len(a.atoms) for a, b in pairs]
    return {
        "compared": len(pairs),
        "same": sum(abs(gap) <= same for gap in gaps),
        "lower": sum(gap < -same for gap in gaps),
        "higher": sum(gap > same for gap in gaps),
        "mean_difference_meV_per_atom": round(sum(gaps) / max(len(gaps), 1), 3),
        "largest_difference_meV_per_atom": round(max(map(abs, gaps), default=0), 3),
        "force_calls_ours": sum(a.steps + 1 for a, _ in pairs),
        "force_calls_theirs": sum(b.steps + 1 for _, b in pairs),
        "with_more_force_calls": sum(a.steps > b.steps for a, b in pairs),
    }


class Peer:
    """MatGL's Relaxer in a process of its own."""

    def __init__(self, arguments):
        more = ["--peer-model", arguments.peer_model] if arguments.peer_model else []
        more += [
            "--peer-steps",
            str(arguments.peer_steps),
            "--fmax",
            str(arguments.fmax),
            "--steps",
            str(arguments.steps),
        ]
        self.worker = Worker(__file__, "matgl", arguments.peer_python, more)
        self.trained = arguments.peer_model is not None
        self.structures = self.calls = self.refused = 0
        self.wall = 0.0

    def relax(self, structures) -> None:
        from ase.io.jsonio import encode

        answer = self.worker.call(encode(structures))
        self.structures += len(structures)
        self.wall += answer["wall_s"]
        self.calls += answer["force_calls"]
        self.refused += answer["refused"]

    def summary(self, batch: dict, fire: dict) -> dict:
        """``batch`` and ``fire`` are the summaries of the engine and of ASE's FIRE."""
        each = self.wall / max(self.calls, 1)
        calls = (self.calls if self.trained else fire["force_calls"]) / fire["structures"]
        return self.worker.about | {
            "structures": self.structures,
            "refused": self.refused,
            "wall_s": round(self.wall, 2),
            "force_calls": self.calls,
            "ms_per_force_call": round(1000 * each, 2),
            "force_calls_per_structure": round(calls, 1),
            "structures_per_s": round(1 / (calls * each), 4),
            "batched_is_faster_by": round(batch["structures_per_s"] * calls * each, 2),
            "batched_is_faster_by_per_force_call": round(1000 * each / batch["ms_per_force_call"], 2),
        }


def work(arguments) -> None:
    """The process of :class:`Peer`."""
    import warnings

    warnings.simplefilter("ignore")
    import matgl
    from ase.build import bulk
    from ase.io.jsonio import decode
    from matgl.ext.ase import Relaxer

    if arguments.peer_model:
        potential, limits = matgl.load_model(arguments.peer_model), {"fmax": arguments.fmax, "steps": arguments.steps}
    else:
        from matgl.apps.pes import Potential
        from speed import matgl_model

        potential, limits = (
            Potential(matgl_model()[0], calc_stresses=True),
            {"fmax": 0.0, "steps": arguments.peer_steps},
        )
    relaxer = Relaxer(potential, optimizer="FIRE")
    relaxer.relax(bulk("MgO", "rocksalt", a=4.2), fmax=0.0, steps=1)

    def relax(text: str) -> dict:
        calls, refused, start = 0, 0, time.perf_counter()
        for atoms in decode(text):
            try:
                calls += len(relaxer.relax(atoms, **limits)["trajectory"]) - 1  # the last frame is noted twice
            except Exception as error:
                refused += 1
                print(f"MatGL: {atoms.symbols}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return {"wall_s": time.perf_counter() - start, "force_calls": calls, "refused": refused}

    name = Path(arguments.peer_model).name if arguments.peer_model else "M3GNet, 64 units, 3 blocks, untrained"
    size = sum(parameter.numel() for parameter in potential.parameters())
    serve({"model": name, "parameters": size, "versions": versions("matgl", "torch", "ase")}, relax)


def a_few(structures, count: int, rng) -> list:
    """Indices of ``count`` structures at random, one from each of as many classes of size."""
    import numpy as np

    order = sorted(range(len(structures)), key=lambda k: len(structures[k]))
    return sorted(int(rng.choice(part)) for part in np.array_split(order, min(count, len(order))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--ase", type=int, default=25, help="crystals that ASE and MatGL relax; 0: none")
    parser.add_argument("--rounds", type=int, default=5, help="in which all methods take turns")
    parser.add_argument("--model", default=None)
    parser.add_argument("--fmax", type=float, default=0.05)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default=None)
    parser.add_argument("--max-edges", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peer-python", default=None, help="interpreter of an environment with matgl")
    parser.add_argument("--peer-model", default=None, help="name or folder of a MatGL model")
    parser.add_argument("--peer-steps", type=int, default=20, help="steps of each crystal without a MatGL model")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS / "relax.json")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments)
        return

    import numpy as np
    from generated import random_crystals

    from m3pot.io.registry import load
    from m3pot.relaxation import Options

    hidden = ("worker", "peer_python", "peer_model", "model", "output")
    report = {"settings": {key: value for key, value in vars(arguments).items() if key not in hidden}}
    potential, rng = load(arguments.model), np.random.default_rng(arguments.seed)
    crystals = random_crystals(arguments.count, arguments.seed)
    options = {"fmax": arguments.fmax, "steps": arguments.steps, "dtype": arguments.dtype}
    ours = Options(device=arguments.device, max_edges=arguments.max_edges, **options)
    methods = {"batched": Stopwatch(lambda part: batched(part, potential, ours), "_descend")}
    one_step = Options(minimizer="fire", **options | {"steps": 1})
    for minimizer in ("fire", "lbfgs") if arguments.ase else ():
        theirs = Options(minimizer=minimizer, **options)
        methods[f"ase_{minimizer}"] = Stopwatch(
            lambda part, theirs=theirs: one_by_one(part, potential, theirs),
            "predict",
            lambda part: one_by_one(part, potential, one_step),
        )
    if arguments.ase and arguments.peer_python:
        methods["matgl"] = Peer(arguments)

    chosen = []  # of the results of the engine, those that the others have too
    for number in range(arguments.rounds):
        deal = crystals[number :: arguments.rounds]
        few = a_few(deal, max(arguments.ase // arguments.rounds, 1), rng)
        chosen += [len(methods["batched"].results) + k for k in few]
        names = [*methods]
        for name in names[number % len(names) :] + names[: number % len(names)]:
            methods[name].relax(deal if name == "batched" else [deal[k] for k in few])
        print(f"round {number + 1} of {arguments.rounds} is done", file=sys.stderr, flush=True)

    batch = report["batched"] = methods["batched"].summary()
    for name, method in methods.items():
        if name.startswith("ase"):
            report[name] = method.summary()
            pairs = zip(methods["batched"].speeds, method.speeds, strict=True)
            report[name] |= {
                "batched_is_faster_by": round(batch["structures_per_s"] / report[name]["structures_per_s"], 2),
                "in_each_round": [round(mine / other, 2) for mine, other in pairs],
                "agreement": compare([methods["batched"].results[k] for k in chosen], method.results),
            }
        elif name == "matgl":
            report[name] = method.summary(batch, report["ase_fire"])
    print(json.dumps(report, indent=1))
    write(arguments.output, report)


if __name__ == "__main__":
    main()
