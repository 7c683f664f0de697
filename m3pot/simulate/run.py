"""``md``: drives the engine, writes what is due, and stops when something is wrong."""

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from m3pot.ensemble import Ensemble, stack
from m3pot.execution import numerics
from m3pot.potential import Potential
from m3pot.simulate import loop, restart
from m3pot.simulate.engine import REASONS, Engine, create
from m3pot.simulate.output import Frame, Log, Memory, Writer, atoms_of, frame_of, open_trajectory
from m3pot.simulate.settings import Settings, start
from m3pot.simulate.state import Observables
from m3pot.structure import to_atoms
from m3pot.units import GPA


@dataclasses.dataclass(frozen=True)
class Simulation:
    """What :func:`md` returns."""

    status: str  # done | interrupted | nan | exploded | collapsed | uncertain
    reason: str
    step: int  # last complete, sound step
    atoms: list[Any]  # final ASE Atoms of each replica, momenta and results attached
    log: dict[str, np.ndarray]  # Observables, (rows, replicas) each; step and time (rows,); pressure in eV/A^3
    frames: list[Frame]  # if no trajectory file was asked for
    steps_per_second: float  # compilation excluded
    ns_per_day: float  # of one replica


def md(
    atoms: Any,
    potential: Potential | Ensemble | Sequence[Potential] | str | os.PathLike | None = None,
    *,
    ensemble: str = "nvt",
    temperature: float | tuple[float, float] = 300.0,
    pressure: float | tuple[float, float] = 0.0,
    timestep: float = 1.0,
    steps: int = 1000,
    every: int = 100,
    log_every: int | None = None,
    thermostat: str = "langevin",
    thermostat_time: float = 100.0,
    cell: str = "free",
    pressure_time: float = 1000.0,
    bulk_modulus: float = 100 * GPA,
    trajectory: str | os.PathLike | None = None,
    log: str | os.PathLike | None = None,
    restart_file: str | os.PathLike | None = None,
    restart_every: int = 1000,
    resume: bool = False,
    replicas: int = 1,
    seed: int = 0,
    fix_com: bool | None = None,
    max_temperature: float | None = None,
    max_disagreement: float | None = None,
    skin: float = 0.5,
    dtype: str = "float32",
    device: Any = None,
    precision: str = "highest",
    progress: Callable[[int], None] = lambda count: None,
) -> Simulation:
    """Molecular dynamics of one structure, or of several replicas of it in one batch, with the loop on the device.

    Args:
        atoms: ASE Atoms or pymatgen Structure. Momenta are used if there are any, ``FixAtoms`` is honoured.
        potential: a potential, a name, a path; a list of potentials or an ``Ensemble`` runs on their mean.
            None is the shipped default.
        ensemble: nve, nvt or npt.
        temperature: K; a pair is a linear ramp over the run.
        pressure: eV/A^3 (``m3pot.units.GPA`` converts); a pair is a ramp.
        timestep: fs.
        steps: length of the whole run, the part before a resumed one included.
        every: steps between frames of the trajectory; the start is a frame.
        log_every: steps between rows of the log; default every / 10.
        thermostat: langevin (BAOAB), nose-hoover (chain of 3) or csvr (stochastic velocity rescaling).
        thermostat_time: relaxation time in fs. Langevin at short times slows diffusion; use csvr to measure it.
        cell: what npt may change: free (shape and volume), anisotropic (lengths of the lattice vectors), isotropic.
        pressure_time: period in fs of the cell's motion, critically damped, for a solid of ``bulk_modulus``.
        bulk_modulus: eV/A^3, an estimate; it sets the cell's inertia, not any average.
        trajectory: .extxyz, .traj or .h5; None keeps frames in memory. Several replicas: name-0, name-1 ... (not .h5).
        log: .csv file.
        restart_file: where to keep the state every ``restart_every`` steps and at the end.
        resume: go on from ``restart_file`` (if it exists). On the same hardware the result equals that of an
            uninterrupted run bit by bit; on GPUs only with XLA_FLAGS=--xla_gpu_deterministic_ops=true.
        replicas: independent copies with their own noise and velocities.
        seed: of velocities and noise; replica k of a seed is the same whatever the number of replicas.
        fix_com: keep the centre of mass at rest (3N-3 degrees of freedom); default unless atoms are fixed.
        max_temperature: K; beyond it the run stops as exploded. Default: the larger of 10 T and 10 000 K.
        max_disagreement: eV/A; an ensemble whose force deviation on an atom passes it stops as uncertain.
        skin: A by which the neighbour list exceeds the cutoff.
        dtype: float32 or float64.
        device: "cpu", "gpu", "gpu:1" ... or a jax.Device; None is JAX's default.
        precision: of float32 products on GPUs and TPUs: "highest", "high" or "default" (TF32, bfloat16).
        progress: called with the number of steps done since the last call.

    Raises:
        StructureError, ValueError: what was asked for makes no sense; nothing was written.
    """
    atoms = to_atoms(atoms).copy()
    settings = Settings(
        ensemble=ensemble,
        temperature=_pair(temperature),
        pressure=_pair(pressure),
        ramp=steps if isinstance(temperature, tuple) or isinstance(pressure, tuple) else 1,
        timestep=float(timestep),
        thermostat=thermostat,
        thermostat_time=float(thermostat_time),
        cell=cell,
        pressure_time=float(pressure_time),
        bulk_modulus=float(bulk_modulus),
        replicas=replicas,
        seed=seed,
        fix_com=fix_com,
        max_temperature=max_temperature,
        max_disagreement=max_disagreement,
        skin=float(skin),
        dtype=str(np.dtype(dtype)),
    )
    log_every = max(1, every // 10) if log_every is None else log_every
    for name, value in {"every": every, "log_every": log_every, "restart_every": restart_every}.items():
        if value < 1:
            raise ValueError(f"Expected {name} of at least 1 step, got {value}; give a positive number.")
    if steps < 0:
        raise ValueError(f"Expected steps >= 0, got {steps}; give the length of the run.")
    model = _potential(potential)
    if max_disagreement is not None and not isinstance(model, Ensemble):
        raise ValueError("max_disagreement needs an ensemble, got one potential; give a list of potentials.")
    with numerics(dtype, precision):
        model = model.astype(dtype)
        begun = start(atoms, settings, model.elements)
        identity = restart.identity(settings, atoms, model) | {"trajectory": Path(trajectory or "").suffix}
        saved = None
        if resume and restart_file is None:
            raise ValueError("resume needs restart_file; name the file that the first run has kept.")
        if resume and Path(restart_file).exists():
            saved = restart.load(restart_file, identity)
        engine = create(model, atoms, begun, settings, saved, device)
        marks = {} if saved is None else saved.marks
        outputs: dict[str, Any] = {
            "trajectory": open_trajectory(trajectory, atoms, replicas, settings.dtype, marks.get("trajectory"))
        }
        if log is not None:
            outputs["log"] = Log(Path(log), marks.get("log"))

        def keep() -> None:
            if restart_file is not None:
                marks = {name: writer.mark() for name, writer in outputs.items()}
                edges = engine.edges
                reference = edges.positions, edges.cell, len(edges.receivers), engine.room
                begin = engine.state, engine.conditions, engine.home
                restart.save(restart_file, restart.Restart(*begin, *reference, marks, identity))

        intervals = every, log_every, restart_every
        try:
            return _run(engine, steps, intervals, timestep, outputs, keep, atoms, saved is None, progress)
        finally:
            for writer in outputs.values():
                writer.close()


def _run(
    engine: Engine,
    steps: int,
    intervals: tuple[int, int, int],
    timestep: float,
    outputs: dict[str, Any],
    keep: Callable[[], None],
    template: Any,
    first: bool,
    progress: Callable[[int], None],
) -> Simulation:
    every, log_every, restart_every = intervals
    trajectory: Writer = outputs["trajectory"]
    rows: list[Observables] = []
    written = -1  # step of the last frame

    def report(step: int) -> None:
        nonlocal written
        if step % log_every == 0:
            rows.append(jax.device_get(loop.jit_observe(engine.state, engine.conditions)))
            if "log" in outputs:
                outputs["log"].write(rows[-1])
        if step % every == 0:
            trajectory.write(frame_of(engine.state, engine.home, timestep))
            written = step

    if first:
        report(0)
        keep()
    step = begin = engine.step
    clock, counted = None, begin
    incident, reason = "", ""
    try:
        while step < steps and not incident:
            due = [step + n - step % n for n in (*intervals, loop.CHUNK)]
            incident = engine.advance(min(*due, steps))
            before, step = step, engine.step
            if clock is None and step > begin:  # the first call compiles
                clock, counted = time.perf_counter(), step
            if step in due and step > before:
                report(step)
                if step % restart_every == 0:
                    keep()
            if step > before:
                progress(step - before)
    except KeyboardInterrupt:
        incident, reason, step = "interrupted", "stopped by the user", engine.step
    elapsed = time.perf_counter() - clock if clock else 0.0
    if incident and incident != "interrupted" and written < step:
        trajectory.write(frame_of(engine.state, engine.home, timestep))
    keep()
    status = incident or "done"
    reason = reason or dict(REASONS.values()).get(status, "")
    speed = (step - counted) / elapsed if elapsed > 0 and step > counted else float("nan")
    last = frame_of(engine.state, engine.home, timestep)
    replicas = len(last.energy)
    return Simulation(
        status=status,
        reason=f"{reason} (step {step})" if reason else "",
        step=step,
        atoms=[atoms_of(last, template, k) for k in range(replicas)],
        log=_table(rows),
        frames=trajectory.frames if isinstance(trajectory, Memory) else [],
        steps_per_second=speed,
        ns_per_day=speed * timestep * 86400e-6,
    )


def _table(rows: list[Observables]) -> dict[str, np.ndarray]:
    if not rows:
        return {name: np.zeros(0) for name in Observables._fields}
    table = {name: np.stack([getattr(row, name) for row in rows]) for name in Observables._fields}
    return table | {name: table[name][:, 0] for name in ("step", "time")}


def _pair(value: float | tuple[float, float]) -> tuple[float, float]:
    if np.ndim(value) == 0:
        return float(value), float(value)
    if len(value) != 2:
        raise ValueError(f"Expected a number or a pair (first, last) for a ramp, got {value}; give one or two numbers.")
    return float(value[0]), float(value[1])


def _potential(potential: Any) -> Potential | Ensemble:
    if isinstance(potential, Potential | Ensemble):
        return potential
    if isinstance(potential, list | tuple):
        return stack([_potential(p) for p in potential])
    from m3pot.io.registry import load

    return load(potential)
