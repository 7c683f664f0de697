"""The restart file: everything from which a run goes on bit by bit, written atomically, no pickle."""

import dataclasses
import hashlib
import io
import json
import os
import zipfile
from typing import Any, NamedTuple

import jax
import numpy as np

from m3pot.io.checkpoint import write_atomically
from m3pot.simulate.output import Home
from m3pot.simulate.settings import Settings
from m3pot.simulate.state import Conditions, State

FORMAT = "m3pot-md-restart-1"


class Restart(NamedTuple):
    """Content of a restart file."""

    state: State
    conditions: Conditions
    home: Home
    positions: np.ndarray  # (r, n, 3) A, reference of the neighbour list
    cell: np.ndarray  # (r, 3, 3) A, likewise
    capacity: int  # edges of the list
    room: int  # edges within the cutoff
    marks: dict[str, Any]  # how far each output file had got
    identity: dict[str, Any]  # what must not differ between the two runs


def identity(settings: Settings, atoms: Any, potential: Any) -> dict[str, Any]:
    """Settings, atoms and a digest of the potential, as JSON values."""
    digest = hashlib.sha256(repr(potential.model).encode())
    for leaf in jax.tree.leaves(potential):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    wanted = json.loads(json.dumps(dataclasses.asdict(settings)))
    return wanted | {"numbers": atoms.numbers.tolist(), "pbc": atoms.pbc.tolist(), "potential": digest.hexdigest()}


def save(path: str | os.PathLike, restart: Restart) -> None:
    """Write the file atomically."""
    groups = {"state": restart.state, "conditions": restart.conditions, "home": restart.home}
    arrays = {f"{group}/{k}": np.asarray(v) for group, part in groups.items() for k, v in part._asdict().items()}
    arrays |= {"positions": np.asarray(restart.positions), "cell": np.asarray(restart.cell)}
    header = {name: getattr(restart, name) for name in ("capacity", "room", "marks", "identity")} | {"format": FORMAT}
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def load(path: str | os.PathLike, expected: dict[str, Any]) -> Restart:
    """Read a restart file. Raises ValueError if it is none or belongs to another run than ``expected``."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {k: file[k] for k in file.files}
        header = json.loads(arrays["header"].tobytes())
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a restart file ({error}); start without resume.") from None
    if header.get("format") != FORMAT:
        raise ValueError(f"{path} is not a restart file of this version; start without resume.")
    found = header["identity"]
    for key, value in expected.items():
        if found.get(key) != value:
            shown = "" if key in ("numbers", "potential") else f" (then {found.get(key)}, now {value})"
            raise ValueError(f"{path} comes from a run with another {key}{shown}; repeat its options or start anew.")
    parts = [
        kind(**{name: arrays[f"{group}/{name}"] for name in kind._fields})
        for group, kind in (("state", State), ("conditions", Conditions), ("home", Home))
    ]
    rest = (header[name] for name in ("capacity", "room", "marks", "identity"))
    return Restart(*parts, arrays["positions"], arrays["cell"], *rest)
