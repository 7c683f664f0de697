"""The training loop: resumable, bit-identical after a kill, with a log that people and programs read."""

import dataclasses
import re
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from m3pot.data.batching import capacity_for, plan, prefetch, stacked
from m3pot.data.graphs import EdgeCache
from m3pot.execution import numerics
from m3pot.graph import Sizes
from m3pot.io.checkpoint import load_potential, save_potential
from m3pot.potential import Potential
from m3pot.train import checkpoints, log
from m3pot.train.checkpoints import Position, TrainingError
from m3pot.train.config import ConfigError, OptimSection, TrainConfig
from m3pot.train.loss import Errors, LossWeights, mean_errors
from m3pot.train.step import (
    TrainState,
    data_mesh,
    init_state,
    make_evaluation,
    make_optimizer,
    make_step,
    place,
    replicate,
)

ROLL_BACK_AFTER = 5  # consecutive steps without a finite gradient
MAX_ROLL_BACKS = 4
_AHEAD = 2  # steps that the device may be ahead of the host


def fit(
    potential: Potential,
    train: EdgeCache,
    valid: EdgeCache,
    config: TrainConfig,
    *,
    resume: bool = False,
    report: Callable[[dict[str, Any]], None] = lambda record: None,
    advance: Callable[[int], None] = lambda count: None,
) -> Potential:
    """Minimise the loss; returns the averaged parameters of the best validation.

    With a ``config.model.start`` the first validation is that of the start itself.

    Writes into ``config.output``: ``checkpoints/`` (orbax), ``log.jsonl`` (a line per validation) and at the end the
    same as ``log.csv``, ``best.safetensors``, ``last.safetensors``.
    Killed at any moment and called again with ``resume``, it ends with the same parameters to the last bit.

    Args:
        potential: where to start from; its element references and scale stay.
        train, valid: frames with their edges.
        config: of ``model`` and ``data.train`` only whether there is a start matters here.
        resume: go on from the last checkpoint, if there is one.
        report: called with each line of the log.
        advance: called with the number of steps done; negative after a roll-back.

    Raises:
        TrainingError: repeated non-finite gradients, a folder that cannot be written or holds another run.
    """
    with numerics("float32", config.precision):
        folder = Path(config.output).absolute()
        with checkpoints.opened(folder / "checkpoints", resume=resume) as manager:
            return _fit(potential, train, valid, config, manager, folder, report, advance)


def _fit(potential, train, valid, config: TrainConfig, manager, folder: Path, report, advance) -> Potential:
    potential = potential.astype(np.float32)
    optim, main = config.optim, jax.process_index() == 0
    mesh = data_mesh()
    weights = LossWeights(**config.loss.model_dump())
    schedule = learning_rate(optim)
    optimizer = make_optimizer(
        schedule, potential.params, kind=optim.kind, weight_decay=optim.weight_decay, clip=optim.clip
    )
    rates = learning_rates(potential.params, optim.rates)
    step = make_step(potential, optimizer, weights, mesh, decay=optim.ema, rates=rates)
    evaluate = make_evaluation(potential, weights, mesh)
    capacity = capacity_for(train, config.data.edge_budget)
    valid_capacity = capacity_for(valid, max(config.data.edge_budget, int(valid.n_edges.max(initial=0))))

    # On all devices from the start: one compilation, and a restored state lies where the step expects it.
    state, position = replicate(mesh, init_state(potential, optimizer)), Position()
    fresh = manager.latest_step() is None
    if not fresh:
        state, position = checkpoints.restore(manager, state)
    number, streak = int(state.step), int(state.skipped)
    if main:
        with checkpoints.writing(folder):
            # without a checkpoint even the line of the start, step 0, will be written again
            log.truncate(folder / "log.jsonl", -1 if fresh else number)
    advance(number)
    started = time.perf_counter() - position.seconds
    pending: deque[dict[str, Any]] = deque()
    recent = _Recent()

    def healthy(ahead: int) -> bool:
        """Read the metrics of all steps but the last ``ahead``; False after too many in a row without gradient."""
        nonlocal streak
        while len(pending) > ahead:
            metrics = jax.device_get(pending.popleft())
            finite = bool(np.isfinite(metrics["loss"]) and np.isfinite(metrics["gradient"]))
            streak = 0 if finite else streak + 1
            recent.add(metrics["errors"], finite)
            if streak >= ROLL_BACK_AFTER:
                return False
        return True

    def averaged(state: TrainState) -> Potential:
        return dataclasses.replace(potential, params=jax.tree.map(np.asarray, state.average))

    def check(number: int) -> None:
        """Validate, keep the parameters if they are the best, write a line of the log."""
        nonlocal position
        score, errors = validate(evaluate, mesh, state.average, valid, valid_capacity)
        better = score < position.best
        position = position._replace(
            best=min(score, position.best),
            stale=0 if better else position.stale + 1,
            seconds=time.perf_counter() - started,
        )
        record = {
            "step": number,
            "epoch": position.epoch,
            "seconds": round(position.seconds, 1),
            "rate": float(schedule(number)) * float(state.rate),
            "valid_loss": score,
            "train": mean_errors(recent.errors),
            "valid": errors,
            "skipped": recent.skipped,
            "structures_per_second": recent.speed(),
            "peak_memory_MB": peak_memory(),
        }
        if main:
            with checkpoints.writing(folder):
                if better:
                    save_potential(folder / "best.safetensors", averaged(state))
                log.append(folder / "log.jsonl", record)
        recent.clear()
        report(record)

    if fresh:
        if config.model.start:  # a candidate too: what training makes worse is not kept
            check(0)
        checkpoints.save(manager, state, position)  # where the first roll-back goes
    finished = number >= optim.steps or 0 < config.patience <= position.stale
    while not finished:
        source = stacked(
            train,
            jax.local_device_count(),
            edge_budget=config.data.edge_budget,
            seed=config.seed,
            epoch=position.epoch,
            skip=position.batch,
            process=jax.process_index(),
            processes=jax.process_count(),
            capacity=capacity,
        )
        for batch in prefetch(place(mesh, batch) for batch in source):
            state, metrics = step(state, *batch)
            pending.append(metrics)
            number += 1
            position = position._replace(batch=position.batch + 1)
            advance(1)
            finished = number >= optim.steps
            checking = finished or number % config.valid_every == 0
            saving = finished or number % config.save_every == 0
            if not healthy(0 if checking or saving else _AHEAD):
                state, position = _rolled_back(manager, state, position)
                pending.clear()
                recent.clear()
                streak, finished = 0, False
                advance(int(state.step) - number)
                number = int(state.step)
                if main:
                    log.truncate(folder / "log.jsonl", number)
                break
            if checking:
                check(number)
                finished = finished or 0 < config.patience <= position.stale
            if saving or finished:
                position = position._replace(seconds=time.perf_counter() - started)
                checkpoints.save(manager, state, position)
            if finished:
                break
        else:
            position = position._replace(epoch=position.epoch + 1, batch=0)
    if main:
        with checkpoints.writing(folder):
            save_potential(folder / "last.safetensors", averaged(state))
            log.write_csv(folder / "log.csv", log.read(folder / "log.jsonl"))
    best = folder / "best.safetensors"
    return load_potential(best) if best.exists() else averaged(state)


class _Recent:
    """What happened since the last validation."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.errors = Errors(*[0.0] * len(Errors._fields))
        self.skipped = 0
        self.started = time.perf_counter()

    def add(self, errors: Errors, finite: bool) -> None:
        if finite:
            self.errors = Errors(*(a + float(b) for a, b in zip(self.errors, errors, strict=True)))
        else:
            self.skipped += 1

    def speed(self) -> float:
        return round(self.errors.structures / (time.perf_counter() - self.started), 2)


def peak_memory() -> int | None:
    """Largest memory in use so far, MB: of the first accelerator, or of this process on a CPU; None if unknown."""
    if statistics := jax.local_devices()[0].memory_stats():
        return statistics.get("peak_bytes_in_use", 0) // 2**20
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) // 2**10  # ru_maxrss would begin at the peak of the process that started this one
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit


def _rolled_back(manager, state: TrainState, position: Position) -> tuple[TrainState, Position]:
    """State and position of the last checkpoint, with half the learning rate for each roll-back so far."""
    if position.roll_backs >= MAX_ROLL_BACKS:
        raise TrainingError(
            f"{ROLL_BACK_AFTER} steps in a row had no finite gradient and {position.roll_backs} roll-backs did not "
            "help; lower optim.lr or check the labels."
        )
    roll_backs = position.roll_backs + 1
    state, position = checkpoints.restore(manager, state)
    state = state._replace(rate=state.rate * 0 + 0.5**roll_backs, skipped=state.skipped * 0)
    return state, position._replace(roll_backs=roll_backs)


def learning_rate(optim: OptimSection) -> optax.Schedule:
    """Linear warm-up to ``lr``, then half a cosine down to ``final_lr``."""
    warmup = min(optim.warmup, optim.steps // 4)
    return optax.warmup_cosine_decay_schedule(optim.lr / 20, optim.lr, warmup, optim.steps, optim.final_lr)


def validate(
    evaluate: Callable, mesh: Mesh, params: Any, valid: EdgeCache, capacity: Sizes
) -> tuple[float, dict[str, float]]:
    """Loss per batch and mean errors over a data set."""
    source = stacked(
        valid,
        jax.local_device_count(),
        edge_budget=capacity.edges,
        seed=0,
        epoch=0,
        shuffle=False,
        process=jax.process_index(),
        processes=jax.process_count(),
        capacity=capacity,
    )
    total, sums, running = 0.0, np.zeros(len(Errors._fields)), None

    def add(result: Any) -> None:
        nonlocal total, sums
        value, errors = jax.device_get(result)
        total, sums = total + float(value), sums + np.array(errors, np.float64)

    for batch in prefetch(place(mesh, batch) for batch in source):
        result = evaluate(params, *batch)  # the device works while the host adds up the one before
        if running is not None:
            add(running)
        running = result
    add(running)
    count = len(plan(valid, capacity, seed=0, epoch=0, shuffle=False))  # batches of padding have no loss
    return total / count, mean_errors(Errors(*sums))


def learning_rates(params: Any, rates: dict[str, float]) -> Any:
    """Factor on each parameter's update: that of the longest matching prefix of its name, else 1. None without rates.

    Raises ConfigError for a prefix that no parameter has.
    """
    if not rates:
        return None
    used, modules = set(), set()

    def factor(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        modules.add(name.split("/")[0])
        matching = [prefix for prefix in rates if name.startswith(prefix)]
        used.update(matching)
        return np.float32(rates[max(matching, key=len)] if matching else 1.0)

    tree = jax.tree_util.tree_map_with_path(factor, params)
    if unused := set(rates) - used:
        raise ConfigError(
            f"optim.rates names no parameter: {', '.join(sorted(unused))}; expected prefixes of "
            f"{', '.join(sorted(modules))}."
        )
    return tree
