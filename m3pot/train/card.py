"""The model card: what a trained model was made from, how good it is, and how to make it again."""

import datetime
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from m3pot import environment
from m3pot.data.frames import Frames
from m3pot.potential import Potential
from m3pot.train.accuracy import Accuracy
from m3pot.train.config import TrainConfig
from m3pot.train.inputs import Source, described
from m3pot.train.log import finite
from m3pot.train.references import composition

UNITS = {"energy": "eV", "length": "A", "forces": "eV/A", "stress": "eV/A^3, tensile positive"}
_RARE = 20  # frames; elements with fewer are named as a weakness
_REFERENCE = "the scale of the training labels, total energies, element references included"


def make_card(
    config: TrainConfig,
    start: Potential | None,
    train: Frames,
    sources: Sequence[Source],
    records: Sequence[Mapping[str, Any]],
    accuracies: Mapping[str, Accuracy],
    *,
    command: str,
) -> dict[str, Any]:
    """The card of a trained model, JSON-like; what ``config.card`` says takes precedence.

    Args:
        config: of the run.
        start: the model that training started from; None: random parameters.
        train: frames that were trained on.
        sources: what was read.
        records: lines of the log.
        accuracies: errors on each set of frames that was not trained on.
        command: what to type to train this model again.
    """
    old = {} if start is None else start.card
    last = records[-1] if records else {}
    elements = sorted(set(np.unique(train.numbers).tolist()) | (set(start.elements) if start is not None else set()))
    around = environment.describe()
    functionals = dict.fromkeys(source.functional for source in sources if source.functional)
    references = dict.fromkeys(source.energy_reference for source in sources if source.energy_reference)
    card = {
        "name": config.card.get("name", "a model without a name"),
        "licence": "not stated",
        "teacher": "none: trained on the labels of the data",
        "training_data": described(sources),
        "elements": elements,
        "units": UNITS,
        "functional": "; ".join(functionals) or old.get("functional", "not stated"),
        "energy_reference": "; ".join(references) or _REFERENCE,
        "provenance": f"trained by m3pot {around['m3pot']} from {_origin(config, old)}",
        "parents": [old["sha256"]] if old.get("sha256") else [],
        "training": {
            "structures": len(train),
            "atoms": int(train.ptr[-1]),
            "steps": last.get("step", 0),
            "epochs": last.get("epoch", 0),
            "hours": round(last.get("seconds", 0.0) / 3600, 3),
            "devices": around["devices"],
            "processor": around["processor"],
            "packages": {"python": around["python"], **around["packages"]},
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "config": _settings(config),
        },
        "accuracy": {name: finite(accuracy._asdict()) for name, accuracy in accuracies.items()},
        "warnings": weaknesses(train, elements),
        "command": command,
    }
    return card | _as_json(config.card)


def _settings(config: TrainConfig) -> dict[str, Any]:
    """The configuration with the names of files instead of their paths, which mean nothing on another machine."""
    tree = config.model_dump(mode="json", exclude={"card": True, "output": True, "data": {"cache"}})
    for section, key in (("data", "train"), ("data", "valid"), ("data", "blind"), ("replay", "data")):
        if tree[section]:
            tree[section][key] = [Path(name).name for name in tree[section][key]]
    if config.model.start:
        tree["model"]["start"] = Path(config.model.start).name
    return tree


def _origin(config: TrainConfig, old: Mapping[str, Any]) -> str:
    if config.model.start is None:
        return "random parameters"
    licence = f", licence {old['licence']}" if old.get("licence") else ""
    return f"{old.get('name', Path(config.model.start).name)}{licence}"


def weaknesses(train: Frames, elements: Sequence[int]) -> list[str]:
    """What the composition of the training set makes doubtful."""
    from ase.data import chemical_symbols

    frames = (composition(train) > 0).sum(axis=0)
    rare = [f"{chemical_symbols[z]} {frames[z]}" for z in elements if frames[z] < _RARE]
    return [f"few or no training structures with: {', '.join(rare)}"] if rare else []


def markdown(card: Mapping[str, Any]) -> str:
    """The card as a page to read."""
    from ase.data import chemical_symbols

    lines = [f"# {card['name']}", ""]
    if card.get("about"):
        lines += [str(card["about"]), ""]
    for key in ("licence", "teacher", "energy_reference", "provenance", "functional", "paper"):
        if card.get(key):
            lines.append(f"* **{key.replace('_', ' ')}**: {card[key]}")
    lines.append(f"* **elements** ({len(card['elements'])}): {' '.join(chemical_symbols[z] for z in card['elements'])}")
    lines.append(f"* **units**: {', '.join(f'{k} {v}' for k, v in card['units'].items())}")
    training = card["training"]
    lines.append(
        f"* **training**: {training['steps']} steps, {training['epochs']} epochs over {training['structures']} "
        f"structures ({training['atoms']} atoms), {training['hours']} h on {', '.join(training['devices'])}"
    )
    lines += ["", "## Data", ""]
    lines += table([_described(source) for source in card["training_data"]])
    lines += [
        "",
        "## Accuracy",
        "",
        "Frames that were not trained on. Energy in eV/atom, forces in eV/Å (mean length of the",
    ]
    lines += ["error vector; component MAE), stress in GPa.", ""]
    lines += table([{"set": name, **_shown(values)} for name, values in card["accuracy"].items()])
    lines += ["", "## Known weaknesses", ""]
    lines += [f"* {warning}" for warning in card["warnings"]] or ["None is known."]
    lines += ["", "## The same again", "", "```", card["command"], "```", ""]
    return "\n".join(lines)


def _described(source: Any) -> dict[str, Any]:
    return dict(source) if isinstance(source, Mapping) else {"name": source}


def _shown(values: Mapping[str, Any]) -> dict[str, Any]:
    names = {
        "structures": "structures",
        "energy_mae": "E MAE",
        "energy_rmse": "E RMSE",
        "forces_mae": "F MAE",
        "forces_component_mae": "F component",
        "stress_mae": "S MAE",
    }
    return {label: values.get(key) for key, label in names.items()}


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of a Markdown table; the columns are the keys of all rows."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns), *([_cell(row.get(column)) for column in columns] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines] if rows else ["Nothing was measured."]


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _as_json(value: Any) -> Any:
    """What TOML can hold and JSON cannot, dates, as text."""
    if isinstance(value, Mapping):
        return {key: _as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_json(item) for item in value]
    return value if isinstance(value, str | int | float | bool) else str(value)
