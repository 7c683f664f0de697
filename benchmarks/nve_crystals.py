"""Constant energy of many crystals from a hot start, all in one graph whose parts do not see each other.

    python benchmarks/nve_crystals.py                        # 100 crystals of the data set "pool", 1000 K, 10 ps
    python benchmarks/nve_crystals.py --select FILE.extxyz   # only writes them, for --structures on another machine

Random crystals, small ones repeated to ``--min-atoms`` atoms, are displaced a little and relaxed by the model: some of
the pool's perovskites, such as CsPdFNO, lie 2 eV/atom above their minimum and would reach 10 000 K by themselves. Then
they start in float32 with velocities of the temperature. One that explodes (not finite, its total energy off by more
than 1 eV/atom, hotter than 50 000 K, or faster than half the skin in a step) stops; the others go on. Results of many
models stand side by side in the file, partial ones as well; states lie beside it until a model is done. Started again
with the same settings, the script leaves out models that are done and goes on with the others.
"""

import argparse
import io
import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from nve import identity, measured, pool
from workers import RESULTS, write

from m3pot.execution import compile_count, compiled, numerics
from m3pot.io.checkpoint import write_atomically
from m3pot.neighbors import neighbor_list
from m3pot.potential import predict
from m3pot.relaxation import relax
from m3pot.simulate import loop
from m3pot.simulate.edges import EdgeList, capacity_for, join, stale, trim
from m3pot.simulate.engine import REASONS
from m3pot.simulate.integrator import first_half, second_half
from m3pot.simulate.settings import Settings, start
from m3pot.simulate.state import observe

EVERY = 10  # steps between rows of the log, and per call of the device at most
MOVED = 0.7  # share of the skin, used up: a list is then renewed when another one must be
ROOM = 1.1  # spare edges: more compile anew
DEVIATION = 1.0  # eV/atom
HOTTEST = 50_000.0  # K
RATTLE = 0.05  # A, before the relaxation, which without it would keep the symmetry
WEIGHTLESS = 1e-20  # amu, of the atoms that fill up small crystals
REPORT = 30.0  # s between lines of progress, and between partial results
REASON = {code: reason for code, (_, reason) in REASONS.items()} | {
    loop.EXPLODED: f"too hot, too fast, or the total energy changed by more than {DEVIATION:g} eV/atom"
}


def chosen(arguments) -> dict:
    """Random crystals, small ones repeated, by their ids."""
    crystals = {k: atoms for k, atoms in pool(arguments.structures).items() if len(atoms) <= arguments.max_atoms}
    count = min(arguments.crystals, len(crystals))
    numbers = np.random.default_rng(arguments.seed).choice(sorted(crystals), count, replace=False).tolist()
    for k in numbers:
        while len(crystals[k]) < arguments.min_atoms:
            crystals[k] = crystals[k].repeat(1 + (np.arange(3) == crystals[k].cell.lengths().argmin()))
    return {k: crystals[k] for k in sorted(numbers)}


def relaxed(crystals: dict, potential, arguments) -> dict:
    """Minima near the crystals; where there is none, where the relaxation got to."""
    starts = []
    for number, atoms in crystals.items():
        starts.append(atoms.copy())
        starts[-1].rattle(RATTLE, seed=arguments.seed + number)
    return dict(zip(crystals, (result.atoms for result in relax(starts, potential)), strict=True))


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
        options["max_temperature"] = HOTTEST
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
        step, state, codes, log, full = self.carry
        seen = loop.jit_observe(state, self.fixed[2])
        log = log.at[0].set(jnp.stack([seen.conserved, seen.temperature]))
        self.carry = jnp.zeros_like(step), state._replace(step=jnp.zeros_like(state.step)), codes, log, full
        self.fixed = jax.device_put((*self.fixed[:2], conditions, seen.conserved, DEVIATION * atoms))
        self.step, self.resumed, self.ready = 0, 0, time.perf_counter()

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

    def save(self, path: Path) -> None:
        """Atomically."""
        content = io.BytesIO()
        np.savez(content, *jax.tree.leaves(jax.device_get((self.carry, self.fixed[3]))))
        write_atomically(path, content.getvalue())

    def restore(self, path: Path) -> None:
        """Go on from :meth:`save`; the clock counts this run alone."""
        tree = jax.tree.structure((self.carry, self.fixed[3]))
        with np.load(path) as stored:
            carry, first = tree.unflatten([stored[f"arr_{k}"] for k in range(tree.num_leaves)])
        self.carry, first = jax.device_put((carry, first))
        self.fixed = (*self.fixed[:3], first, self.fixed[4])
        self.step = self.resumed = int(carry[0])
        self.lists.renew(range(len(self.crystals)), carry[1].positions)
        self.edges = self.lists.joined()

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
        about |= {"ms_per_step": 1000 * wall / max(self.step - self.resumed, 1), "seconds_of_lists": self.listing}
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


def simulate(crystals: dict, potential, settings: dict, arguments) -> None:
    output, model = arguments.output, settings["model"]
    models = json.loads(output.read_text())["models"] if output.exists() else {}
    before = models.get(model, {})
    reached = before["summary"]["picoseconds"] if before.get("settings") == settings else -1.0
    if reached >= 0 and "unfinished" not in before["summary"]["status"]:
        print(f"{model} is done, see {output}", flush=True)
        return
    run, state = Hot(relaxed(crystals, potential, arguments), potential, arguments), output.with_suffix(f".{model}.npz")
    if reached >= 0 and state.exists():
        run.restore(state)
    said = run.ready
    print(f"{model}, {len(run.names)} crystals: {said - run.begin:.0f} s before the first step", flush=True)
    while True:
        now = time.perf_counter()
        end = run.step == run.steps or now - run.begin > (arguments.seconds or np.inf)
        if end or now - said > REPORT:
            result, said = run.results(), now
            found = result["summary"]
            if found["picoseconds"] >= reached:
                write(output, {"models": models | {model: {"settings": settings} | result}})
                run.save(state)
            shown = {key: value for key, value in found.items() if key != "worst"}
            print(f"{now - run.begin:.0f} s, {compile_count('advance')} compilations:", shown, flush=True)
        if end:
            if run.step == run.steps:
                state.unlink()
            return
        run.call(min(run.step + EVERY, run.steps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crystals", type=int, default=100, help="at most")
    parser.add_argument("--picoseconds", type=float, default=10.0)
    parser.add_argument("--temperature", type=float, default=1000.0, help="K of the first velocities")
    parser.add_argument("--timestep", type=float, default=1.0, help="fs")
    parser.add_argument("--min-atoms", type=int, default=8, help="repeat smaller cells")
    parser.add_argument("--max-atoms", type=int, default=60, help="leave larger cells out")
    parser.add_argument("--skin", type=float, default=1.0, help="A, of the neighbour lists")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--structures", help="extxyz with ids, in place of the pool")
    parser.add_argument("--select", type=Path, help="only write the crystals to this extxyz")
    parser.add_argument("--seconds", type=float, help="stop after so many, for each model, compilation included")
    parser.add_argument("--model", action="append", help="name or file, several times; default: the shipped one")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS / "nve_crystals.json")
    arguments = parser.parse_args()
    crystals = chosen(arguments)
    if arguments.select:
        import ase.io

        ase.io.write(arguments.select, [*crystals.values()], format="extxyz")
        return

    from m3pot.io.registry import find, load

    names = ("crystals", "picoseconds", "temperature", "timestep", "min_atoms", "max_atoms", "skin", "seed")
    settings = {name: getattr(arguments, name) for name in names}
    settings["structures"] = Path(arguments.structures or "pool").name
    for model in map(find, arguments.model or [None]):
        with numerics("float32"):
            simulate(crystals, load(model), settings | identity(model), arguments)


if __name__ == "__main__":
    main()
