"""m3pot: a universal interatomic potential in JAX. Everything is loaded on first use."""

import importlib
from typing import Any

from m3pot.memory import keep_freed_memory

keep_freed_memory()  # first of all: before any library starts threads

__version__ = "0.1.0"

_LAZY = {
    "load": "m3pot.io.registry",
    "Potential": "m3pot.potential",
    "M3PotCalculator": "m3pot.calculator",
    "predict": "m3pot.inference",
    "relax": "m3pot.relaxation",
    "Relaxer": "m3pot.relaxation",
    "md": "m3pot.simulate",
    "doctor": "m3pot.contract",
}
__all__ = ["__version__", "jax_md", *_LAZY]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name == "jax_md":
        return importlib.import_module("m3pot.jax_md")
    raise AttributeError(f"module 'm3pot' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
