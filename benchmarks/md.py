"""Speed of molecular dynamics: the engine on the device, ASE with the same potential, and ASE with MatGL's M3GNet.

    python benchmarks/md.py                                     # engine against ASE
    python benchmarks/md.py --peer-python ~/matgl/bin/python    # and against MatGL in an environment of its own
    python benchmarks/md.py --sizes 512 --skins 0.2 0.35 0.5 0.75 1.0

Supercells of silicon at 300 K, 1 fs, velocity Verlet (nve) and Langevin (nvt). Each package is a process of its own;
the rounds of all are interleaved, each starts from the same crystal with new velocities. A first part of every round is
not timed: neither compilation nor start counts. From ``--apart`` atoms on each call has a process of its own, which
first makes an untimed one: together the packages would need more than 24 GB. MatGL's M3GNet has its default fields,
those of the published potentials, and random weights: speed does not depend on them.
"""

import argparse
import statistics
import time
from functools import partial
from pathlib import Path

from workers import RESULTS, Worker, serve, versions, write

SKIN = 0.5  # A, default of engine and calculator
FRICTION = 0.01  # 1/fs


def crystal(atoms: int, number: int):
    """Cubic supercell of silicon with velocities of 300 K that depend on ``number``."""
    import numpy as np
    from ase.build import bulk
    from ase.units import kB

    repeats = round((atoms / 8) ** (1 / 3))
    if 8 * repeats**3 != atoms:
        raise SystemExit(
            f"Expected sizes of 8, 64, 216, 512, 1000, 1728, 4096 ... atoms, got {atoms}; choose of these."
        )
    structure = bulk("Si", cubic=True) * repeats
    momenta = np.random.default_rng(number).normal(size=(atoms, 3)) * np.sqrt(structure.get_masses()[0] * kB * 300)
    structure.set_momenta(momenta - momenta.mean(axis=0))
    return structure


def engine(model: str | None):
    """Answers with steps/s of ``m3pot.md``."""
    from m3pot.io.registry import load
    from m3pot.simulate import md

    potential = load(model)

    def run(ensemble: str, atoms: int, number: int, steps: int, skin: float) -> dict:
        part = max(1, steps // 10)
        structure, options = crystal(atoms, number), {"timestep": 1.0, "thermostat_time": 1 / FRICTION, "skin": skin}
        found = md(
            structure, potential, ensemble=ensemble, steps=part + steps, every=part + steps, log_every=part, **options
        )
        if found.status != "done":
            raise SystemExit(f"{atoms} atoms: {found.status}: {found.reason}")
        return {"steps_per_s": found.steps_per_second}

    serve({"versions": versions("jax", "jaxlib", "ase")}, run)


def with_ase(calculator, names: tuple[str, ...]):
    """Answers with steps/s of ASE's integrators."""
    from ase.md.langevin import Langevin
    from ase.md.verlet import VelocityVerlet
    from ase.units import fs

    def run(ensemble: str, atoms: int, number: int, steps: int, skin: float) -> dict:
        structure = crystal(atoms, number)
        structure.calc = calculator
        if ensemble == "nve":
            dynamics = VelocityVerlet(structure, fs)
        else:
            dynamics = Langevin(structure, fs, temperature_K=300, friction=FRICTION / fs, fixcm=False)
        dynamics.run(max(1, steps // 10))
        start = time.perf_counter()
        dynamics.run(steps)
        return {"steps_per_s": steps / (time.perf_counter() - start)}

    serve({"versions": versions(*names, "ase")}, run)


def work(name: str, model: str | None) -> None:
    if name == "md":
        engine(model)
    elif name == "ase":
        from m3pot.calculator import M3PotCalculator

        with_ase(M3PotCalculator(model, dtype="float32", skin=SKIN), ("jax", "jaxlib"))
    else:
        from speed import matgl_calculator

        with_ase(matgl_calculator()[0], ("matgl", "torch"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="interpreter of an environment with matgl; without it MatGL is left out")
    parser.add_argument("--model", help="name or file; default: the shipped one")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 512, 4096])
    parser.add_argument("--apart", type=int, default=4096, help="atoms from which on packages do not share the memory")
    parser.add_argument("--ensembles", nargs="+", choices=["nve", "nvt"], default=["nve", "nvt"])
    parser.add_argument("--steps", type=int, help="timed steps of a round; default 20 000 / atoms, 10 at least")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--skins", type=float, nargs="+", help="A; measure the engine with these (last ensemble) instead"
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "md.json")
    parser.add_argument("--worker", choices=["md", "ase", "matgl"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.model)
        return

    from m3pot.cli.options import print_table

    extra = ["--model", options.model] if options.model else []
    makers = {"md": partial(Worker, __file__, "md", arguments=extra)}
    if options.skins:
        cases = {f"skin {skin:g}": ("md", skin) for skin in options.skins}
        ensembles = options.ensembles[-1:]
    else:
        makers["ase"] = partial(Worker, __file__, "ase", arguments=extra)
        if options.peer_python:
            makers["matgl"] = partial(Worker, __file__, "matgl", options.peer_python)
        cases = {name: (name, SKIN) for name in makers}
        ensembles = options.ensembles
    workers: dict[str, Worker] = {}
    about, rows = {}, []
    for ensemble in ensembles:
        for atoms in options.sizes:
            steps = options.steps or max(10, 20_000 // atoms)
            speeds: dict[str, list[float]] = {name: [] for name in cases}
            apart = atoms >= options.apart
            for number in range(options.rounds + 1):
                for name, (package, skin) in cases.items():
                    for other in [key for key in workers if apart and key != package]:
                        workers.pop(other).close()
                    fresh = package not in workers
                    worker = workers[package] = workers.get(package) or makers[package]()
                    about[package] = worker.about
                    if fresh and number:
                        worker.call(ensemble, atoms, 0, steps, skin)
                    speeds[name].append(worker.call(ensemble, atoms, number, steps, skin)["steps_per_s"])
            row = {"ensemble": ensemble, "atoms": atoms, "steps": steps}
            for name, values in speeds.items():
                row[name] = statistics.median(values[1:])  # round 0 compiles for shapes that come up later
                row[f"{name} spread"] = max(values[1:]) - min(values[1:])
            row |= {f"md / {name}": row["md"] / row[name] for name in speeds if name != "md" and not options.skins}
            if options.skins:
                row["best"] = max(speeds, key=lambda name: row[name])
            rows.append(row)
            print_table(rows[-1:])
    result = {"what": "steps/s, float32, Si supercells at 300 K, 1 fs; median of rounds and their range"}
    result |= {"model": Path(options.model).name if options.model else "shipped", "rounds": options.rounds}
    write(options.output, result | {"workers": about, "rows": rows})
    print_table(rows)


if __name__ == "__main__":
    main()
