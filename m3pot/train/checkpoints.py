"""The state of a run on disk (orbax): what a killed run goes on from."""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax

from m3pot.train.step import TrainState

if TYPE_CHECKING:
    from orbax.checkpoint import CheckpointManager

KEPT = 2


class TrainingError(RuntimeError):
    """Training cannot go on; what was saved is on disk."""


class Position(NamedTuple):
    """Where a run stands besides its arrays; JSON in the checkpoint."""

    epoch: int = 0
    batch: int = 0  # steps done in this epoch
    best: float = math.inf
    stale: int = 0  # validations since the best
    roll_backs: int = 0
    seconds: float = 0.0


@contextlib.contextmanager
def opened(folder: Path, *, resume: bool) -> "Iterator[CheckpointManager]":
    """The checkpoints in ``folder``, which is made.

    Raises TrainingError if a run is there already and ``resume`` is not set, or if the folder cannot be written.
    """
    import orbax.checkpoint as ocp

    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(max_to_keep=KEPT, enable_async_checkpointing=False)
        manager = ocp.CheckpointManager(folder, options=options)
    try:
        if manager.latest_step() is not None and not resume:
            raise TrainingError(
                f"{folder.parent} holds a run that stands at step {manager.latest_step()}; "
                "go on with --resume, or choose another output folder."
            )
        yield manager
    finally:
        manager.close()


@contextlib.contextmanager
def writing(path: Path, kinds: tuple[type[Exception], ...] = (OSError,)) -> Iterator[None]:
    """Turn errors of writing (disk full, no permission) into TrainingError with one sentence."""
    try:
        yield
    except kinds as error:
        reason = " ".join(str(error).split())[:200]
        raise TrainingError(
            f"{path} cannot be written ({reason}); make room or choose another output folder, then go on with "
            "--resume: the last checkpoint is whole."
        ) from error


def save(manager: "CheckpointManager", state: TrainState, position: Position) -> None:
    """Write a checkpoint; it counts only once it is complete."""
    import orbax.checkpoint as ocp

    arguments = ocp.args.Composite(state=ocp.args.StandardSave(state), position=ocp.args.JsonSave(position._asdict()))
    with writing(Path(manager.directory), (OSError, ValueError, RuntimeError)):  # a full disk is any of them in orbax
        manager.save(int(state.step), args=arguments)
        manager.wait_until_finished()


def restore(manager: "CheckpointManager", like: TrainState) -> tuple[TrainState, Position]:
    """The latest checkpoint, laid out on the devices as ``like``.

    Raises TrainingError if it belongs to another model or optimizer, or is damaged.
    """
    import orbax.checkpoint as ocp

    arguments = ocp.args.Composite(state=ocp.args.StandardRestore(like), position=ocp.args.JsonRestore())
    try:
        saved = manager.restore(manager.latest_step(), args=arguments)
        state, position = saved["state"], Position(**saved["position"])
        same = jax.tree.map(lambda a, b: a.shape == b.shape and a.dtype == b.dtype, state, like)
        if not all(jax.tree.leaves(same)):
            raise ValueError("arrays of other shapes")
    except (OSError, ValueError, TypeError, KeyError, jax.errors.JaxRuntimeError) as error:
        raise TrainingError(
            f"The checkpoint in {manager.directory} does not belong to this model and optimizer, or is damaged; "
            "give the configuration that the run was started with, or choose another output folder."
        ) from error
    return state, position
