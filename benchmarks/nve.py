"""Energy that molecular dynamics should conserve: drift, order in the timestep, and many crystals from a hot start.

    python benchmarks/nve.py                                                          # results/nve.json
    python benchmarks/nve.py --crystals 100 --picoseconds 10 --temperature 1000       # results/nve_crystals.json
    python benchmarks/nve.py --crystals 100 --select FILE.extxyz                      # writes them, for --structures

Without ``--crystals``: five crystals of the data set "pool" in float32 at 1 fs (drift: slope of a straight line through
the total energy), and in float64 the spread of the conserved quantity of every ensemble at three timesteps, with the
power of the timestep that it follows. Every row is written as it comes; started again with the same settings, the
script goes on after the last row.

With ``--crystals``: random crystals of the pool, small ones repeated to ``--min-atoms`` atoms, at constant energy in
float32, all in one graph whose parts do not see each other. All start as they are in the pool, with velocities of the
temperature. One that explodes (not finite, its total energy off by more than 1 eV/atom, or hotter than 10 000 K and ten
times the temperature) stops; the others go on. Results of several models stand side by side in the file.
"""

import argparse
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from workers import RESULTS, write

from m3pot.execution import compile_count, compiled, numerics
from m3pot.neighbors import neighbor_list
from m3pot.potential import predict
from m3pot.simulate import loop, md
from m3pot.simulate.analysis import drift
from m3pot.simulate.edges import EdgeList, capacity_for, join, stale, trim
from m3pot.simulate.engine import REASONS
from m3pot.simulate.integrator import first_half, second_half
from m3pot.simulate.settings import Settings, start
from m3pot.simulate.state import observe

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
# --crystals
EVERY, CHUNK = 10, 50  # steps between rows of the log, steps per call of the device at most
MOVED = 0.7  # share of the skin, used up: a list is then renewed when another one must be
ROOM = 1.1  # spare edges: more compile anew
DEVIATION = 1.0  # eV/atom
WEIGHTLESS = 1e-20  # amu, of the atoms that fill up small crystals
REPORT = 10.0  # s between lines of progress, and between partial results
REASON = {code: reason for code, (_, reason) in REASONS.items()} | {
    loop.EXPLODED: f"too hot, or the total energy changed by more than {DEVIATION:g} eV/atom"
}


def pool(file: str | None = None) -> dict:
    """Crystals of the data set "pool", or of ``file``, by their ids, in its order."""
    from m3pot.cli.files import read
    from m3pot.data.manifest import find_set, locate

    entries = read([file] if file else [str(path) for path in locate(find_set("pool"))])
    return {int(entry.atoms.info["id"]): entry.atoms for entry in entries if entry.atoms is not None}


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
    """Names and measurements of the first kind of run."""
    for number, (what, repeats) in SYSTEMS.items():
        atoms = crystals[number].repeat(repeats)
        angles = crystals[number].cell.angles().round(1).tolist()
        about = {"what": what, "cell_angles": angles}
        yield f"drift, pool {number}", lambda a=atoms, more=about: more | constant_energy(a, potential, arguments)
    for method in METHODS:
        yield f"order, {method}", lambda m=method: order(crystals[ORDER_SYSTEM], potential, m)


def chosen(arguments) -> dict:
    """Random crystals of the pool, small ones repeated, by their ids."""
    crystals = {k: atoms for k, atoms in pool(arguments.structures).items() if len(atoms) <= arguments.max_atoms}
    numbers = np.random.default_rng(arguments.seed).choice(sorted(crystals), arguments.crystals, replace=False).tolist()
    for k in numbers:
        while len(crystals[k]) < arguments.min_atoms:
            crystals[k] = crystals[k].repeat(1 + (np.arange(3) == crystals[k].cell.lengths().argmin()))
    return {k: crystals[k] for k in sorted(numbers)}


def stack(*leaves: np.ndarray) -> np.ndarray:
    """One after the other along the first axis; the other axes are filled up with zeros to the longest."""
    shape = np.max([leaf.shape for leaf in leaves], axis=0)[1:]
    widths = [[(0, 0), *((0, b - a) for a, b in zip(leaf.shape[1:], shape, strict=True))] for leaf in leaves]
    return np.concatenate([np.pad(*pair) for pair in zip(leaves, widths, strict=True)])


class Lists:
    """Neighbour lists of many crystals as one; each is renewed on its own."""

    def __init__(self, crystals: list, positions: np.ndarray, cell: np.ndarray, radius: float):
        self.crystals, self.cell, self.radius = crystals, cell, radius
        self.reference = positions.copy()  # where the lists were built
        self.threads, self.parts, self.capacity = ThreadPoolExecutor(), {}, 0
        self.renew(range(len(crystals)), positions)

    def __len__(self) -> int:
        return sum(len(receivers) for receivers, _, _ in self.parts.values())

    def renew(self, which, positions: np.ndarray) -> None:
        self.reference[which] = positions[which]
        self.parts |= zip(which, self.threads.map(self._find, which), strict=True)

    def _find(self, k: int) -> tuple[np.ndarray, ...]:
        atoms, first = self.crystals[k], k * self.reference.shape[1]
        found = neighbor_list(self.reference[k, : len(atoms)], atoms.cell.array, atoms.pbc, self.radius)
        return found[0] + np.int32(first), found[1] + np.int32(first), found[2]

    def joined(self) -> EdgeList:
        """On the device."""
        self.capacity = self.capacity if len(self) <= self.capacity else capacity_for(round(ROOM * len(self)))
        rest, padding = self.capacity - len(self), self.reference.shape[0] * self.reference.shape[1]
        fills = [np.full(shape, fill, np.int32) for shape, fill in ((rest, padding), (rest, padding), ((rest, 3), 0))]
        columns = zip(*(self.parts[k] for k in range(len(self.crystals))), fills, strict=True)
        return jax.device_put(EdgeList(*map(np.concatenate, columns), self.reference.copy(), self.cell))


def evaluate(potential, species, state, edges, cutoff: float, room: int):
    """Energies and forces of all crystals at new positions, and the number of edges within the cutoff."""
    graph = join(species[0], state.positions, state.cell, edges)
    graph, count = trim(graph._replace(species=jnp.append(species.reshape(-1), 0)), cutoff, room)
    found = predict(potential, graph)
    return state._replace(energy=found.energy[:-1], forces=found.forces[:-1].reshape(state.forces.shape)), count


def advance(fixed, edges, carry, stop, *, cutoff: float, skin: float, room: int):
    """Step all sound crystals until step ``stop``, until a list does not hold, or until ``room`` is too small.

    Returns the carry, and the crystals whose list does not hold for another step and those that used up much of it.
    """
    potential, species, conditions, first, limit = fixed

    def where(sound, new, old):
        return jax.tree.map(lambda a, b: jnp.where(sound.reshape(-1, *[1] * (a.ndim - 1)), a, b), new, old)

    def moved(state, codes):
        begun = jax.vmap(lambda s, c: first_half(s, c, loop.Method()))(state, conditions)
        return where(codes == loop.RUNNING, begun, state)

    def outdated(state, skin):
        check = lambda *now: stale(*now, cutoff, skin, flexible=False)  # noqa: E731
        return jax.vmap(check)(state.positions, state.cell, edges.positions, edges.cell)

    def proceed(carry):
        step, state, codes, _, full = carry
        return (step < stop) & ~full & ~jnp.any(outdated(moved(state, codes), skin))

    def once(carry):
        step, state, codes, log, _ = carry
        new, count = evaluate(potential, species, moved(state, codes), edges, cutoff, room)
        new = jax.vmap(lambda s, c: second_half(s, c, loop.Method()))(new, conditions)
        seen = jax.vmap(observe)(new, conditions)
        found = jax.vmap(lambda s, c: loop.verdict(s, c, loop.Method()))(new, conditions)
        found = jnp.where((found == loop.RUNNING) & (jnp.abs(seen.conserved - first) > limit), loop.EXPLODED, found)
        full = count > room  # then the step was not made
        codes = jnp.where(full | (codes != loop.RUNNING), codes, found)
        sound = codes == loop.RUNNING
        step = step + jnp.where(full, 0, 1)
        row = jnp.where(full | (step % EVERY > 0), len(log), step // EVERY)
        values = jnp.where(sound, jnp.stack([seen.conserved, seen.temperature]), jnp.nan)
        return step, where(sound & ~full, new, state), codes, log.at[row].set(values, mode="drop"), full

    carry = jax.lax.while_loop(proceed, once, (*carry[:4], jnp.zeros_like(carry[4])))
    state, codes = carry[1], carry[2]
    return carry, outdated(moved(state, codes), skin), outdated(state, MOVED * skin)


class Hot:
    """Many crystals at constant energy: the loop of :mod:`m3pot.simulate.loop`, for crystals of different sizes."""

    def __init__(self, crystals: dict, potential, arguments):
        self.begin = time.perf_counter()
        self.names, self.crystals, self.rows, starts = [], [], {}, []
        options = {"ensemble": "nve", "temperature": (arguments.temperature,) * 2, "timestep": arguments.timestep}
        for number, atoms in crystals.items():
            name = f"pool {number}"
            try:
                begun = start(atoms, Settings(**options, seed=arguments.seed + number), potential.elements)
            except ValueError as error:
                self.rows[name] = {"status": "failed", "reason": str(error)}
                continue
            self.names.append(name)
            self.crystals.append(atoms)
            starts.append((begun.conditions, begun.state))
        conditions, state = jax.tree.map(stack, *starts)
        conditions = conditions._replace(masses=np.where(conditions.masses > 0, conditions.masses, WEIGHTLESS))
        self.timestep, self.steps = arguments.timestep, round(1000 * arguments.picoseconds / arguments.timestep)
        self.cutoff, self.skin = float(potential.cutoff), arguments.skin
        self.edges_at_first = len(Lists(self.crystals, state.positions, state.cell, self.cutoff))
        self.room = capacity_for(round(ROOM * self.edges_at_first))
        self.lists = Lists(self.crystals, state.positions, state.cell, self.cutoff + self.skin)
        self.edges, self.step, self.calls, self.renewed, self.listing = self.lists.joined(), 0, 0, 0, 0.0
        species = stack(*(atoms.numbers[None].astype(np.int32) for atoms in self.crystals))
        self.advance = compiled(advance, static_argnames=("cutoff", "skin", "room"))
        # A step of no length gives the first energies and forces, and compiles.
        count, atoms = len(self.crystals), np.array([len(atoms) for atoms in self.crystals], np.float32)
        log = np.full((self.steps // EVERY + 1, 2, count), np.nan, np.float32)
        still = conditions._replace(timestep=np.zeros_like(conditions.timestep))
        fixed = potential.astype("float32"), species, still, np.zeros_like(atoms), np.full_like(atoms, np.inf)
        self.carry = np.int32(0), state, np.zeros(count, np.int32), log, np.bool_(False)
        self.fixed, self.carry = jax.device_put((fixed, self.carry))
        while self.step < 1:
            self.call(1)
        _, state, codes, log, full = self.carry
        seen = loop.jit_observe(state, self.fixed[2])
        log = log.at[0].set(jnp.stack([seen.conserved, seen.temperature]))
        self.carry = jnp.zeros_like(self.carry[0]), state._replace(step=jnp.zeros_like(state.step)), codes, log, full
        self.fixed = jax.device_put((*self.fixed[:2], conditions, seen.conserved, DEVIATION * atoms))
        self.step, self.ready = 0, time.perf_counter()

    def call(self, stop: int) -> None:
        """Up to step ``stop``, perhaps not all the way."""
        options = {"cutoff": self.cutoff, "skin": self.skin, "room": self.room}
        self.carry, *old = self.advance(self.fixed, self.edges, self.carry, np.int32(stop), **options)
        step, codes, full, (urgent, old) = jax.device_get((self.carry[0], self.carry[2], self.carry[4], old))
        self.step, self.calls = int(step), self.calls + 1
        if full:
            self.room = capacity_for(round(ROOM * self.room))
        elif urgent.any():
            begin = time.perf_counter()
            positions = np.asarray(self.carry[1].positions)
            which = np.flatnonzero(urgent | old)
            # Atoms that in one step move more than half the skin.
            lost = urgent & (positions == self.lists.reference).all(axis=(1, 2))
            self.carry = (*self.carry[:2], jnp.where(lost, loop.EXPLODED, codes), *self.carry[3:])
            self.lists.renew(which, positions)
            self.edges = self.lists.joined()
            self.renewed += len(which)
            self.listing += time.perf_counter() - begin

    def results(self) -> dict:
        """Summary and rows so far."""
        _, state, codes, log, _ = jax.device_get(self.carry)
        rows = dict(self.rows)
        for k, (name, atoms) in enumerate(zip(self.names, self.crystals, strict=True)):
            step, code = int(state.step[k]), int(codes[k])
            status = REASONS[code][0] if code else "done" if step == self.steps else "unfinished"
            rows[name] = {"formula": atoms.get_chemical_formula(), "atoms": len(atoms), "status": status}
            rows[name] |= {"reason": REASON.get(code, ""), "picoseconds": step * self.timestep / 1000}
            if len(kept := np.flatnonzero(np.isfinite(log[:, 0, k]))):
                rows[name] |= measured(kept * EVERY * self.timestep, *log[kept, :, k].T, len(atoms))
        wall = time.perf_counter() - self.ready
        about = {"picoseconds": self.step * self.timestep / 1000, "device": jax.devices()[0].device_kind}
        about |= {"ms_per_step": 1000 * wall / max(self.step, 1), "seconds": wall, "seconds_of_lists": self.listing}
        about |= {"seconds_before": self.ready - self.begin, "lists": self.renewed, "calls": self.calls}
        about |= {"edges": self.edges_at_first, "atoms": sum(map(len, self.crystals))}
        return {"summary": summary(rows) | about, "rows": rows}


def summary(rows: dict) -> dict:
    """Counts of statuses and the worst drifts of the crystals that did not explode."""
    sound = {name: row for name, row in rows.items() if row["status"] in ("done", "unfinished")}
    drifts = {name: abs(row["drift_meV_atom_ps"]) for name, row in sound.items()}
    drifts = {name: value for name, value in drifts.items() if np.isfinite(value)}  # too few rows for a line
    worst = sorted(drifts, key=drifts.get, reverse=True)[:3]
    return {
        "status": dict(Counter(row["status"] for row in rows.values())),
        "largest_drift_meV_atom_ps": max(drifts.values(), default=None),
        "median_drift_meV_atom_ps": float(np.median(list(drifts.values()))) if drifts else None,
        "drift_above_1_meV_atom_ps": sum(value > 1 for value in drifts.values()),
        "largest_deviation_meV_atom": max((row["largest_deviation_meV_atom"] for row in sound.values()), default=None),
        "worst": worst,
    }


def hot(potential, settings: dict, arguments, output: Path) -> None:
    with numerics("float32"):
        run = Hot(chosen(arguments), potential, arguments)
        said = run.ready
        print(f"{len(run.names)} crystals, {run.edges_at_first} edges, {said - run.begin:.0f} s before", flush=True)
        while True:
            now = time.perf_counter()
            end = run.step == run.steps or now - run.begin > (arguments.seconds or np.inf)
            if end or now - said > REPORT:
                result, said = run.results(), now
                models = json.loads(output.read_text())["models"] if output.exists() else {}
                write(output, {"models": models | {settings["model"]: {"settings": settings} | result}})
                shown = {key: value for key, value in result["summary"].items() if key != "worst"}
                print(f"{now - run.begin:.0f} s, {compile_count('advance')} compilations:", shown, flush=True)
            if end:
                break
            run.call(min(run.step + CHUNK, run.steps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crystals", type=int, help="run this many random crystals of the pool instead")
    parser.add_argument("--picoseconds", type=float, default=2.0)
    parser.add_argument("--temperature", type=float, default=600.0, help="K of the first velocities")
    parser.add_argument("--timestep", type=float, default=1.0, help="fs, of the runs in float32")
    parser.add_argument("--min-atoms", type=int, default=8, help="repeat smaller cells (--crystals)")
    parser.add_argument("--max-atoms", type=int, default=60, help="leave larger cells out (--crystals)")
    parser.add_argument("--structures", help="extxyz with ids, in place of the pool (--crystals)")
    parser.add_argument("--select", type=Path, help="only write the crystals to this extxyz (--crystals)")
    parser.add_argument("--seconds", type=float, help="stop after so many (--crystals)")
    parser.add_argument("--skin", type=float, default=1.0, help="A, of the neighbour lists (--crystals)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", action="append", help="name or file, several times; default: the shipped one")
    parser.add_argument("-o", "--output", type=Path, help="default: results/nve.json or results/nve_crystals.json")
    arguments = parser.parse_args()
    output = arguments.output or RESULTS / ("nve_crystals.json" if arguments.crystals else "nve.json")
    if arguments.select:
        import ase.io

        ase.io.write(arguments.select, [*chosen(arguments).values()], format="extxyz")
        return

    from m3pot.io.registry import find, load

    names = ("crystals", "picoseconds", "temperature", "timestep", "min_atoms", "seed")
    asked = {name: getattr(arguments, name) for name in names}
    for model in map(find, arguments.model or [None]):
        settings = asked | {"model": model.stem, "model_sha256": hashlib.sha256(model.read_bytes()).hexdigest()}
        if arguments.crystals:
            settings |= {"max_atoms": arguments.max_atoms, "skin": arguments.skin}
            hot(load(model), settings, arguments, output)
        else:
            few(load(model), settings, arguments, output)


def few(potential, settings: dict, arguments, output: Path) -> None:
    before = json.loads(output.read_text()) if output.exists() else {"settings": settings, "rows": {}}
    if before["settings"] != settings:
        raise SystemExit(f"{output} holds results of other settings; move it away or give another --output.")
    rows = before["rows"]
    for name, measure in conservation(pool(), potential, arguments):
        if name not in rows:
            rows[name] = measure()
            print(name, rows[name], flush=True)
            write(output, {"settings": settings, "rows": rows})


if __name__ == "__main__":
    main()
