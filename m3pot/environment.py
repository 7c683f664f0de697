"""What this runs on: versions and hardware, as printed by ``m3pot doctor`` and stored with every benchmark figure."""

import os
import platform
from importlib import metadata
from typing import Any

PACKAGES = ("jax", "jaxlib", "flax", "optax", "jax-md", "ase", "pymatgen", "numpy", "scipy", "vesin", "safetensors")


def describe() -> dict[str, Any]:
    """Python, platform, processor, memory (GB), devices, versions of the packages that matter; JSON-like."""
    import jax

    from m3pot import __version__
    from m3pot.execution import BROKEN_JAXLIB

    return {
        "m3pot": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_GB": _memory(),
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
        "jaxlib_is_sound": metadata.version("jaxlib") not in BROKEN_JAXLIB,
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (ValueError, OSError, AttributeError):
        return None
