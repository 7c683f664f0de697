"""How pure functions run: dtype, matmul precision, and one count of every compilation.

Nothing here changes global JAX state: dtype and precision hold inside a ``with`` block of the calling thread.
"""

import collections
import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jaxlib
import numpy as np

BROKEN_JAXLIB = ("0.10.2", "0.11.0")  # silently wrong numbers on CPU, github.com/jax-ml/jax/issues/39103
PRECISIONS = ("highest", "high", "default")  # float32 products in full, in 3 bfloat16 passes, in TF32 where it exists

_traces: collections.Counter[str] = collections.Counter()


@contextlib.contextmanager
def numerics(dtype: Any = "float32", precision: str = "highest") -> Iterator[None]:
    """Run JAX code in ``dtype`` ("float32" or "float64"); ``precision`` "default" allows TF32 on GPUs.

    Raises ValueError for another dtype or precision, RuntimeError for a jaxlib with wrong numbers.
    """
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"Expected dtype float32 or float64, got {dtype}; choose one of the two.")
    if precision not in PRECISIONS:
        raise ValueError(f"Expected precision {', '.join(PRECISIONS)}, got {precision!r}; choose one of them.")
    if jaxlib.__version__ in BROKEN_JAXLIB:
        raise RuntimeError(
            f"jaxlib {jaxlib.__version__} computes wrong numbers on CPU (jax issue 39103); install another version."
        )
    with jax.enable_x64(dtype == np.float64), jax.default_matmul_precision(precision):
        yield


def find_device(name: "str | jax.Device | None") -> "jax.Device | None":
    """The device called "cpu", "gpu", "gpu:1" ...; None (JAX's default) and devices pass through.

    Raises ValueError if there is none such.
    """
    if not isinstance(name, str):
        return name
    kind, _, number = name.partition(":")
    try:
        return jax.devices(kind)[int(number or 0)]
    except (RuntimeError, ValueError, IndexError) as error:
        present = ", ".join(str(device) for device in jax.devices())
        raise ValueError(
            f"Expected a device that is present ({present}; cpu), got {name!r}; choose another."
        ) from error


def compiled(function: Callable, **options: Any) -> Callable:
    """``jax.jit`` that counts its compilations under the function's name (see :func:`compile_count`)."""

    name = getattr(function, "__name__", "function")

    @functools.wraps(function)
    def traced(*args, **kwargs):
        _traces[name] += 1
        return function(*args, **kwargs)

    return jax.jit(traced, **options)


def compile_count(name: str | None = None) -> int:
    """Compilations so far in this process, of the function ``name`` or of all."""
    return _traces[name] if name else sum(_traces.values())
