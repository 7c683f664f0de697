"""Energy that molecular dynamics should conserve: its drift, and its order in the timestep.

    python benchmarks/nve.py

Five crystals of the data set "pool" in float32 at 1 fs (drift: slope of a straight line through the total energy), and
in float64 the spread of the conserved quantity of every ensemble at three timesteps, with the power of the timestep
that it follows. Every row is written as it comes; started again with the same settings, the script goes on after the
last row.
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from workers import RESULTS, write

from m3pot.simulate import md
from m3pot.simulate.analysis import drift

# id in the pool: what it shows, and how often the cell is repeated
SYSTEMS = {
    245: ("one atom in a primitive cell (bcc Ca), as it is", 1),
    252: ("one atom in a primitive cell (fcc Ca), repeated", 2),
    10549: ("skewed triclinic (angles 152, 162, 16 degrees)", 1),
    436: ("light atoms (NaOH)", 1),
    6: ("covalent (Si, primitive)", 1),
    15: ("ionic (BaTiO3)", 1),
}
ORDER_SYSTEM = 15
METHODS = {
    "nve": {"ensemble": "nve"},
    "nvt langevin": {"ensemble": "nvt"},
    "nvt csvr": {"ensemble": "nvt", "thermostat": "csvr"},
    "nvt nose-hoover": {"ensemble": "nvt", "thermostat": "nose-hoover"},
    "npt isotropic": {"ensemble": "npt", "cell": "isotropic", "thermostat": "nose-hoover"},
    "npt anisotropic": {"ensemble": "npt", "cell": "anisotropic", "thermostat": "csvr"},
    "npt free": {"ensemble": "npt"},
}
TIMESTEPS = (4.0, 2.0, 1.0)  # fs
ORDER_TIME, ORDER_REPLICAS, PRESSURE_TIME = 200.0, 4, 300.0  # fs, -, fs


def pool(file: str | None = None) -> dict:
    """Crystals of the data set "pool", or of ``file``, by their ids, in its order."""
    from m3pot.cli.files import read
    from m3pot.data.manifest import find_set, locate

    entries = read([file] if file else [str(path) for path in locate(find_set("pool"))])
    return {int(entry.atoms.info["id"]): entry.atoms for entry in entries if entry.atoms is not None}


def identity(model: Path) -> dict:
    return {"model": model.stem, "model_sha256": hashlib.sha256(model.read_bytes()).hexdigest()}


def measured(time: np.ndarray, energies: np.ndarray, temperatures: np.ndarray, atoms: int) -> dict:
    """Drift and largest deviation of the total energy; fs, eV and K."""
    energies = 1000 * energies.astype(float) / atoms
    slope, error = drift(time.astype(float) / 1000, energies)
    row = {"drift_meV_atom_ps": slope, "error_meV_atom_ps": error}
    row |= {"largest_deviation_meV_atom": float(np.abs(energies - energies[0]).max())}
    return row | {"mean_temperature_K": float(temperatures[len(energies) // 2 :].mean())}


def constant_energy(atoms, potential, arguments) -> dict:
    """Status, drift and largest deviation of the total energy of one run in float32."""
    steps = round(1000 * arguments.picoseconds / arguments.timestep)
    row = {"formula": atoms.get_chemical_formula(), "atoms": len(atoms)}
    options = {"temperature": arguments.temperature, "timestep": arguments.timestep, "seed": arguments.seed}
    try:
        run = md(atoms, potential, ensemble="nve", steps=steps, every=steps, log_every=5, **options)
    except ValueError as error:
        return row | {"status": "failed", "reason": str(error)}
    finally:
        jax.clear_caches()  # each size of cell compiles anew; Linux limits the maps of a process
    if run.status == "interrupted":
        raise SystemExit(130)
    row |= {"status": run.status, "reason": run.reason, "picoseconds": run.step * arguments.timestep / 1000}
    row |= measured(run.log["time"], run.log["conserved"][:, 0], run.log["temperature"], len(atoms))
    return row | {"steps_per_s": run.steps_per_second}


def order(atoms, potential, method: str) -> dict:
    """Spread of the conserved quantity over time at each timestep, mean of the replicas, in float64."""
    spreads = []
    for timestep in TIMESTEPS:
        steps = round(ORDER_TIME / timestep)
        lengths = {"timestep": timestep, "steps": steps, "every": steps, "log_every": round(max(TIMESTEPS) / timestep)}
        options = METHODS[method] | lengths | {"replicas": ORDER_REPLICAS, "pressure_time": PRESSURE_TIME}
        run = md(atoms, potential, temperature=300.0, dtype="float64", **options)
        if run.status != "done":
            raise SystemExit(f"{method}, {timestep} fs: {run.status}: {run.reason}")
        spreads.append(1000 * float(run.log["conserved"].std(axis=0).mean()) / len(atoms))
    return {
        "formula": atoms.get_chemical_formula(),
        "spread_meV_atom": dict(zip(map(str, TIMESTEPS), spreads, strict=True)),
        "order": float(np.polyfit(np.log(TIMESTEPS), np.log(spreads), 1)[0]),
    }


def conservation(crystals: dict, potential, arguments) -> Iterator[tuple[str, Callable[[], dict]]]:
    """Names and measurements of all rows."""
    for number, (what, repeats) in SYSTEMS.items():
        atoms = crystals[number].repeat(repeats)
        angles = crystals[number].cell.angles().round(1).tolist()
        about = {"what": what, "cell_angles": angles}
        yield f"drift, pool {number}", lambda a=atoms, more=about: more | constant_energy(a, potential, arguments)
    for method in METHODS:
        yield f"order, {method}", lambda m=method: order(crystals[ORDER_SYSTEM], potential, m)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picoseconds", type=float, default=2.0)
    parser.add_argument("--temperature", type=float, default=600.0, help="K of the first velocities")
    parser.add_argument("--timestep", type=float, default=1.0, help="fs, of the runs in float32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", help="name or file; default: the shipped one")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS / "nve.json")
    arguments = parser.parse_args()

    from m3pot.io.registry import find, load

    output, model = arguments.output, find(arguments.model)
    settings = {name: getattr(arguments, name) for name in ("picoseconds", "temperature", "timestep", "seed")}
    settings |= identity(model)
    before = json.loads(output.read_text()) if output.exists() else {"settings": settings, "rows": {}}
    if before["settings"] != settings:
        raise SystemExit(f"{output} holds results of other settings; move it away or give another --output.")
    rows = before["rows"]
    for name, measure in conservation(pool(), load(model), arguments):
        if name not in rows:
            rows[name] = measure()
            print(name, rows[name], flush=True)
            write(output, {"settings": settings, "rows": rows})


if __name__ == "__main__":
    main()
