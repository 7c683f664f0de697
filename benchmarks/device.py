"""Speed of dynamics, relaxation and prediction on the device that JAX finds, meant for one short visit to a GPU.

    python benchmarks/device.py                                    # shipped model, about two minutes on a GPU
    python benchmarks/device.py --model m3pot-s --model larger.safetensors --parts md --sizes 96 13824
    python benchmarks/device.py --sizes 64 --count 40 --seconds 1  # a look on a CPU

Dynamics: silicon from 300 K, NVE, float32, 1 fs, no files; median of stretches of equal length. Relaxation and
prediction: random crystals of 2 to 24 atoms; others of the same kind go first, so that few shapes are left to compile.
Compilations are timed apart, and counted where the clock runs. The host's share is that of samples in which the program
did not wait for the device. Results are written after every measurement; one that fails does not stop the others.
"""

import argparse
import contextlib
import itertools
import statistics
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from workers import RESULTS, write

STRETCHES = 5
BEGIN = time.perf_counter()
WAITING = {  # functions of m3pot that fetch results of the device
    "simulate.engine.advance",
    "simulate.engine.step",
    "relaxation.engine._visit",
    "inference.collect",
}


def say(text: str) -> None:
    print(f"{time.perf_counter() - BEGIN:6.1f} s  {text}", file=sys.stderr, flush=True)


def crystals(count: int, seed: int, workers: int) -> list:
    """Those of ``generated.random_crystals``, by several processes."""
    import numpy as np
    from generated import random_crystal

    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        return list(pool.map(random_crystal, np.random.default_rng(seed).spawn(count), chunksize=8))


def silicon(atoms: int):
    """Diamond supercell, as near to a cube as its 8-atom cells allow."""
    from ase.build import bulk

    def divisor(number: int, limit: float) -> int:
        return max(d for d in range(1, int(limit + 1e-9) + 1) if number % d == 0)

    cells, rest = divmod(atoms, 8)
    if rest:
        raise SystemExit(f"Expected sizes that are multiples of 8 atoms, got {atoms}; choose of these.")
    a = divisor(cells, cells ** (1 / 3))
    b = divisor(cells // a, (cells // a) ** 0.5)
    return bulk("Si", cubic=True) * (a, b, cells // a // b)


@contextlib.contextmanager
def sampled(within: str = "", every: float = 0.002):
    """A dict that holds, in the end, the share of time of the innermost functions of m3pot in this thread.

    Only samples inside of the function ``within`` count, if one is given.
    """
    counts: Counter[str] = Counter()
    shares: dict[str, float] = {}
    over, thread = threading.Event(), threading.get_ident()

    def watch() -> None:
        while not over.wait(every):
            frame, names = sys._current_frames()[thread], []
            while frame:
                module = frame.f_globals.get("__name__", "")
                if module.startswith("m3pot."):
                    names.append(f"{module.removeprefix('m3pot.')}.{frame.f_code.co_name}")
                frame = frame.f_back
            if not within or within in names:
                counts[names[0] if names else "other"] += 1

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    yield shares
    over.set()
    watcher.join()
    total = max(counts.total(), 1)
    shares |= {name: round(n / total, 4) for name, n in counts.most_common() if n > 0.005 * total}


def on_host(shares: dict[str, float]) -> dict:
    waiting = sum(share for name, share in shares.items() if name in WAITING)
    return {"host_share": round(1 - waiting, 3), "shares": shares}


def stretches(potential, atoms: int, steps: int, count: int) -> list[float]:
    """Seconds of each of ``count`` stretches of ``steps`` steps; the first contains whatever precedes the loop."""
    from m3pot import md

    done, marks = 0, [time.perf_counter()]

    def progress(more: int) -> None:
        nonlocal done
        done += more
        if done % steps == 0:
            marks.append(time.perf_counter())

    rare = {"every": steps * count, "restart_every": steps * count}
    options = {"ensemble": "nve", "temperature": 300.0, "timestep": 1.0}
    found = md(silicon(atoms), potential, steps=steps * count, log_every=steps, progress=progress, **rare, **options)
    if found.status != "done":
        raise RuntimeError(f"{atoms} atoms: {found.status}: {found.reason}")
    return [end - start for start, end in itertools.pairwise(marks)]


class Task(NamedTuple):
    """One row of the results: what compiles, and what is timed, given the result of the former."""

    prepare: Callable[[], Any]
    measure: Callable[[Any], dict]


def dynamics(potential, options) -> list[Task]:
    return [_dynamics(potential, atoms, options.seconds) for atoms in options.sizes]


def _dynamics(potential, atoms: int, seconds: float) -> Task:
    from m3pot.execution import compile_count

    few = max(10, 20_000 // atoms)  # steps

    def measure(first: list[float]) -> dict:
        rough = stretches(potential, atoms, few, 2)[1]
        steps = max(1, round(few / rough * seconds / STRETCHES))
        compilations = compile_count()
        with sampled("simulate.run._run") as shares:
            times = stretches(potential, atoms, steps, STRETCHES + 1)[1:]
        speeds = [steps / wall for wall in times]
        speed = statistics.median(speeds)
        return {
            "atoms": atoms,
            "steps_per_s": speed,
            "range": [min(speeds), max(speeds)],
            "atom_steps_per_s": speed * atoms,
            "stretches": STRETCHES,
            "steps": steps,
            "compilations": compile_count() - compilations,
            "first_s": first[0] - rough,
        } | on_host(shares)

    return Task(lambda: stretches(potential, atoms, few, 2), measure)


def relaxation(potential, options) -> list[Task]:
    from relax import Stopwatch, batched

    from m3pot.relaxation import Options

    first, second = (Stopwatch(lambda part: batched(part, potential, Options()), "_descend") for _ in range(2))

    def measure(_: None) -> dict:
        with sampled() as shares:
            second.relax(options.crystals)
        return second.summary() | {"first_s": first.wall, "first_compilations": first.compilations} | on_host(shares)

    return [Task(lambda: first.relax(options.others), measure)]


def prediction(potential, options) -> list[Task]:
    from m3pot import predict
    from m3pot.execution import compile_count

    def once() -> dict:
        start, before = time.perf_counter(), compile_count("predict")
        found = predict(options.crystals, potential, errors="keep")
        wall = time.perf_counter() - start
        return {
            "structures": len(found),
            "failed": sum(atoms.calc is None for atoms in found),
            "wall_s": wall,
            "structures_per_s": len(found) / wall,
            "compilations": compile_count("predict") - before,
        }

    def measure(first: dict) -> dict:
        with sampled() as shares:
            row = once()
        return row | {"first_s": first["wall_s"], "first_compilations": first["compilations"]} | on_host(shares)

    return [Task(once, measure)]


PARTS = {"md": dynamics, "relax": relaxation, "predict": prediction}


def attempt(function: Callable, *arguments: Any) -> Any:
    """The result, or the exception: what does not fit into the device's memory does not stop the rest."""
    try:
        return function(*arguments)
    except Exception as error:
        traceback.print_exc()
        return error


def hardware() -> dict:
    """What JAX runs on; the driver where nvidia-smi tells it."""
    import shutil
    import subprocess

    import jax
    from jax.extend.backend import get_backend

    device, smi = jax.devices()[0], shutil.which("nvidia-smi")
    found = {"kind": device.device_kind, "platform": device.platform, "version": get_backend().platform_version}
    if smi and device.platform == "gpu":
        command = [smi, "--query-gpu=driver_version,memory.total,power.limit", "--format=csv,noheader"]
        found["driver, memory, power"] = subprocess.run(
            command, capture_output=True, text=True, check=False
        ).stdout.strip()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="name or file, several times; default: the shipped one")
    parser.add_argument("--parts", default=",".join(PARTS), help="of md, relax, predict")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 96, 512, 4096, 13824], help="atoms")
    parser.add_argument("--count", type=int, default=1000, help="crystals; a fourth as many go first")
    parser.add_argument("--seconds", type=float, default=2.0, help="of dynamics for each size, compilation excluded")
    parser.add_argument("--threads", type=int, default=1, help="compile so many at a time; their first_s then overlap")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "device.json")
    options = parser.parse_args()
    parts = options.parts.split(",")
    if set(parts) - set(PARTS):
        parser.error(f"expected parts of {', '.join(PARTS)}, got {options.parts}")
    names = ("parts", "sizes", "count", "seconds", "threads", "seed")
    report = {"settings": {name: getattr(options, name) for name in names}}

    from m3pot.io.registry import load  # before any thread starts, see m3pot.memory

    if {"relax", "predict"} & set(parts):
        import os

        both = crystals(options.count + options.count // 4, options.seed, len(os.sched_getaffinity(0)))
        options.crystals, options.others = both[: options.count], both[options.count :]
        say(f"{len(both)} crystals")
    potentials = {name or "shipped": load(name) for name in options.model or [None]}
    report["device"] = hardware()
    say(f"{report['device']['kind']}, {', '.join(potentials)}")
    tasks = [
        (part, {"model": potential.card.get("name") or Path(name).stem}, task)
        for part in parts
        for name, potential in potentials.items()
        for task in PARTS[part](potential, options)
    ]
    report |= {part: [] for part in parts}
    prepare = lambda entry: attempt(entry[2].prepare)  # noqa: E731
    prepared = map(prepare, tasks)
    if options.threads > 1:
        with ThreadPoolExecutor(options.threads) as pool:
            prepared = list(pool.map(prepare, tasks))
        say("compiled")
    for (part, row, task), first in zip(tasks, prepared, strict=True):
        found = first if isinstance(first, Exception) else attempt(task.measure, first)
        row |= {"error": repr(found)} if isinstance(found, Exception) else found
        report[part].append(row)
        say(f"{part}: " + ", ".join(f"{key} {_short(value)}" for key, value in row.items() if key != "shares"))
        write(options.output, report)
    raise SystemExit(any("error" in row for part in parts for row in report[part]))


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
