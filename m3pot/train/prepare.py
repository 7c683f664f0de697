"""From a configuration to what :func:`m3pot.train.fit.fit` needs: checked frames, neighbour lists, a potential."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from m3pot.data.frames import Frames
from m3pot.data.graphs import EdgeCache
from m3pot.data.split import split
from m3pot.execution import numerics
from m3pot.graph import Graph
from m3pot.io.checkpoint import load_potential, save_potential
from m3pot.io.registry import load
from m3pot.models import MODELS
from m3pot.models.zbl import ADDED, LEARNED
from m3pot.potential import Potential
from m3pot.train.checkpoints import TrainingError, writing
from m3pot.train.config import ConfigError, ModelSection, TrainConfig
from m3pot.train.grow import grow
from m3pot.train.inputs import Source, load_sets
from m3pot.train.predictions import predict_frames
from m3pot.train.references import choose_ridge, composition, element_references, force_rms, with_references
from m3pot.train.replay import join, labelled_by, mixing, moved

Say = Callable[[str], None]
_ENOUGH = 5_000  # frames for the fit of references: all of a large set would delay the first step by minutes
_RARE = 100  # frames with an element that are all taken
_PASSES = 3  # of the fit of references; each fits what the ridge of the one before left over
_STRANGE = 1.0  # eV/atom


class Prepared(NamedTuple):
    """All that a run needs."""

    source: Potential | None  # the model that training starts from, as it was; None: random parameters
    potential: Potential  # the same with its energy scale fitted to the data
    train: EdgeCache  # with replay, those frames too, repeated as often as they are to be seen in an epoch
    valid: EdgeCache
    probe: EdgeCache | None  # replay frames that are kept out, energies on the scale of ``potential``
    frames: Frames  # that are trained on, replay included, each once
    sources: list[Source]


def prepare(config: TrainConfig, *, resume: bool = False, say: Say = lambda text: None) -> Prepared:
    """Read, check, split, find neighbours, and fit the energy scale.

    The potential is kept as ``start.safetensors`` in the output folder: a resumed run starts from the same.

    Raises:
        ConfigError, LabelError, StructureError, CheckpointError, OSError: one sentence that names the key or file.
    """
    data, folder = config.data, Path(config.output)
    source = None if config.model.start is None else load(config.model.start)
    if source is not None and type(source.model).__name__ not in MODELS:
        raise ConfigError(
            f"model.start: {config.model.start} can be trained by its own package only; start from another model and "
            "learn from the labels of this one (`m3pot label`)."
        )
    if config.optim.blend < 1 and source is None:
        raise ConfigError("optim.blend needs model.start: there is nothing to blend random parameters with.")
    if config.replay and source is None:
        raise ConfigError("replay needs model.start: a model that starts from random parameters has nothing to forget.")
    elements = None if source is None else source.elements
    guess = None if source is None else functools.partial(_predicted, source)
    train, sources = load_sets(data.train, data, used_for="train", elements=elements, predict=guess)
    if data.valid:
        valid, more = load_sets(data.valid, data, used_for="valid", elements=elements, predict=guess)
        sources += more
    else:
        train, valid = _parted(train, "train", "valid", data.valid_fraction, config)
    if source is None:
        potential = random_potential(config.model, train, config.seed)
    elif config.model.fields:
        potential = grow(source, random_potential(config.model, train, config.seed))
    else:
        potential = source
    if config.model.zbl is not None:
        potential = dataclasses.replace(potential, zbl=(potential.zbl or ADDED) if config.model.zbl else None)

    def edges(frames: Frames) -> EdgeCache:
        cache = EdgeCache.build(frames, potential.cutoff, folder=data.cache or folder / "cache")
        few = cache.n_edges <= (data.max_edges or np.inf)
        if not few.all():
            say(f"{np.sum(~few)} of {len(few)} frames have more than {data.max_edges} edges and are left out.")
        return cache if few.all() else cache[few]

    say(f"{len(train)} frames to train on, {len(valid)} to validate; finding neighbours.")
    train_edges, valid_edges = edges(train), edges(valid)
    kept = folder / "start.safetensors"
    if resume and kept.exists():
        potential = _same_model(load_potential(kept), potential, folder)
    else:
        if config.refit_references:
            say("fitting element references.")
            potential = refit(potential, train_edges, ridge=config.ridge)
        with writing(folder):
            save_potential(kept, potential)
    if not config.replay or source is None:
        return Prepared(source, potential, train_edges, valid_edges, None, train_edges.frames, sources)

    old, more = load_sets(config.replay.data, data, used_for="replay", elements=elements, labelled=False)
    correction = np.asarray(potential.shift, np.float64) - np.asarray(source.shift, np.float64)
    old, probe = (
        moved(labelled_by(source, edges(part)), correction)
        for part in _parted(old, "replay", "probe", config.replay.probe, config)
    )
    say(f"{len(old)} frames to replay, {len(probe)} to probe what is forgotten.")
    both = join(train_edges, old)
    mixed = both[mixing(len(train_edges), len(old), config.replay.fraction)]
    return Prepared(source, potential, mixed, valid_edges, probe, both.frames, sources + more)


def _predicted(potential: Potential, frames: Frames) -> Frames:
    return predict_frames(potential, EdgeCache.build(frames, potential.cutoff))


def _parted(frames: Frames, first: str, second: str, share: float, config: TrainConfig) -> tuple[Frames, Frames]:
    parts = split(frames, {first: 1 - share, second: share}, seed=config.seed, by=config.data.split_by)
    return frames[parts[first]], frames[parts[second]]


def random_potential(section: ModelSection, frames: Frames, seed: int) -> Potential:
    """A potential with random parameters, the force scale and the elements of ``frames``, references 0.

    Raises ConfigError for an unknown model or field.
    """
    if section.name not in MODELS:
        raise ConfigError(f"model.name: expected one of {', '.join(MODELS)}, got {section.name!r}.")
    one, row = np.zeros(1, np.int32), np.zeros((1, 3), np.float32)
    blank = Graph(one, row, np.zeros((1, 3, 3), np.float32), one, one, one, np.zeros((1, 3), np.int32))
    try:
        with numerics("float32"):
            model = MODELS[section.name](**section.fields)
            params = jax.tree.map(np.asarray, model.init(jax.random.key(seed), blank, row)["params"])
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"model.fields do not describe a {section.name} ({error}).") from error
    scale = np.full(95, force_rms(frames), np.float32)
    card = {"elements": np.unique(frames.numbers).tolist()}
    zbl = None if section.zbl is False else LEARNED
    return Potential(model, params, scale, np.zeros(95, np.float32), np.zeros((), np.float32), zbl, card)


def refit(potential: Potential, cache: EdgeCache, *, ridge: float | None = None) -> Potential:
    """The potential with element references fitted to the energies of ``cache``.

    Ridge regression of what the potential leaves over, three times (iterated Tikhonov regularisation), so that a
    foreign energy scale is met although the ridge holds on to the old one; after the first time without frames that
    are far off. ``ridge`` None: the one of :func:`m3pot.train.references.choose_ridge`, each time. Of a large set,
    random frames are enough, and all those with rare elements.
    """
    if len(cache) > _ENOUGH:
        holds = composition(cache.frames) > 0
        rare = holds[:, holds.sum(axis=0) <= _RARE].any(axis=1)
        cache = cache[rare | (np.random.default_rng(0).permutation(len(cache)) < _ENOUGH)]
    frames = cache.frames
    counts, correction = composition(frames), np.zeros(95)
    residual = frames.energy - predict_frames(potential, cache).energy
    for number in range(_PASSES):
        left = residual - counts @ correction
        size = np.abs(left) / frames.n_atoms
        limit = max(_STRANGE, 5 * float(np.nanmedian(size))) if number and np.isfinite(size).any() else np.inf
        left = np.where(size < limit, left, np.nan)
        correction += element_references(frames, left, ridge=choose_ridge(frames, left) if ridge is None else ridge)
    return with_references(potential, correction)


def _same_model(stored: Potential, wanted: Potential, folder: Path) -> Potential:
    if stored.model != wanted.model or stored.zbl != wanted.zbl:
        raise TrainingError(
            f"{folder} holds a run of another architecture ({stored.model}); give the configuration that it was "
            "started with, or choose another output folder."
        )
    return stored
