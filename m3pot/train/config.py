"""Everything that a training run depends on, as one TOML file. A misspelt key is an error."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from m3pot.train.loss import LossWeights


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSection(_Section):
    """Where the parameters come from."""

    start: str | None = None  # model file or name to go on from; None: random parameters
    name: str = "M3GNet"  # class in m3pot.models.MODELS, for a random start
    fields: dict[str, Any] = Field(default_factory=dict)  # its fields; with a start: the larger model that it grows to
    zbl: bool | None = None  # nuclear repulsion at short range; None: as the start has it, for a random start on


class DataSection(_Section):
    """Labelled frames and how they are dealt into batches."""

    train: list[str] = Field(min_length=1)  # files, folders, or names of data sets in data_manifests
    valid: list[str] = Field(default_factory=list)  # empty: a part of train is held out, by parent crystal
    valid_fraction: float = Field(0.02, gt=0, lt=1)
    split_by: Literal["parent", "formula"] = "parent"  # formula keeps all crystals of one reduced formula together
    blind: list[str] = Field(default_factory=list)  # test sets; frames that match one of their structures are dropped
    edge_budget: int = Field(8192, gt=0)  # edges of one device's batch
    max_edges: int | None = Field(None, gt=0)  # frames with more are dropped; None: beyond the budget is an error
    cache: str | None = None  # folder for neighbour lists; None: beside the run
    max_force: float = Field(50.0, gt=0)  # eV/A; frames beyond are dropped
    energy_key: str = "energy"
    forces_key: str = "forces"
    stress_key: str = "stress"
    stress_unit: Literal["eV/A^3", "GPa", "kbar", "eV"] = "eV/A^3"  # eV: a virial
    stress_sign: Literal[1, -1] = 1  # -1: compressive positive, as VASP prints it
    group_key: str = ""  # entry that names the parent crystal; empty: the usual names, else the reduced formula
    unit_guard: bool = True  # refuse labels whose units or signs cannot be right


class ReplaySection(_Section):
    """Frames of earlier training, mixed in so that fine-tuning does not forget. Unlabelled ones are labelled by the
    model that training starts from.
    """

    data: list[str] = Field(min_length=1)  # files, folders or names of data sets
    fraction: float = Field(0.5, gt=0, lt=1)  # of all frames that training sees
    probe: float = Field(0.1, gt=0, lt=1)  # part of the replay frames that is kept out to measure what was forgotten


class OptimSection(_Section):
    """Optimizer and schedule: linear warm-up, cosine decay."""

    kind: Literal["adamw", "muon"] = "adamw"
    lr: float = Field(1e-3, gt=0)
    final_lr: float = Field(1e-5, ge=0)
    warmup: int = Field(200, ge=0)
    steps: int = Field(20_000, gt=0)
    weight_decay: float = Field(1e-5, ge=0)
    clip: float = Field(10.0, gt=0)
    ema: float = Field(0.999, ge=0, lt=1)
    blend: float = Field(1.0, gt=0, le=1)  # share of the trained parameters in the result; the rest: the start's
    rates: dict[str, float] = Field(default_factory=dict)  # prefix of a parameter's name -> factor; 0 freezes it


class LossSection(_Section):
    """Weights, knees and scales of :class:`m3pot.train.loss.LossWeights`; TOML knows inf."""

    energy: float = Field(LossWeights().energy, ge=0)
    forces: float = Field(LossWeights().forces, ge=0)
    stress: float = Field(LossWeights().stress, ge=0)
    energy_knee: float = Field(LossWeights().energy_knee, gt=0)
    forces_knee: float = Field(LossWeights().forces_knee, gt=0)
    stress_knee: float = Field(LossWeights().stress_knee, gt=0)
    forces_scale: float = Field(LossWeights().forces_scale, gt=0)
    stress_scale: float = Field(LossWeights().stress_scale, gt=0)


class TrainConfig(_Section):
    """A training run."""

    output: str = "run"  # folder of checkpoints, log, plots and the model
    seed: int = Field(0, ge=0)
    precision: Literal["highest", "high", "default"] = "highest"  # of float32 products; default: TF32 where it exists
    refit_references: bool = True  # fit element references to the training set before the first step
    ridge: float | None = Field(None, gt=0)  # of that fit; None: the one that does best on compositions left out
    valid_every: int = Field(500, gt=0)  # steps
    save_every: int = Field(500, gt=0)  # steps; at most this much is lost by a kill
    patience: int = Field(0, ge=0)  # validations without a better loss before the run stops; 0: never
    model: ModelSection = ModelSection()
    data: DataSection
    replay: ReplaySection | None = None
    optim: OptimSection = OptimSection()
    loss: LossSection = LossSection()
    card: dict[str, Any] = Field(default_factory=dict)  # goes into the model card: name, licence, teacher ...


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a TOML file; ``overrides`` are ``section.key=value`` with a TOML value (text may go without quotes).

    Raises ConfigError with one sentence.
    """
    try:
        tree = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is not a readable TOML file ({error}).") from error
    return make_config(tree, overrides, source=str(path))


def make_config(tree: Mapping[str, Any], overrides: Sequence[str] = (), *, source: str = "The options") -> TrainConfig:
    """A checked configuration from nested dictionaries; ``source`` names them in a ConfigError."""
    for override in overrides:
        key, value = _parse(override)
        tree = _replaced(tree, key.split("."), value, key)
    try:
        return TrainConfig.model_validate(tree)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{source} does not describe a training run ({problems}).") from error


def _parse(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"Expected --set section.key=value, got {override!r}; give a key and a value.")
    try:
        return key.strip(), tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), text


def _replaced(tree: Any, names: Sequence[str], value: Any, key: str) -> dict[str, Any]:
    """The tree with one entry replaced; the given one is left as it is."""
    if not isinstance(tree, Mapping):
        raise ConfigError(f"--set {key}: {key.split('.')[-len(names) - 1]} is no section; see the keys of the example.")
    first, *rest = names
    return {**tree, first: _replaced(tree.get(first, {}), rest, value, key) if rest else value}
