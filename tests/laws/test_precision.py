"""The dtype that goes in comes out, whatever the global settings of JAX."""

import contextlib
import re

import jax
import numpy as np
import pytest

from m3pot.execution import numerics
from m3pot.graph import as_dtype, batch
from m3pot.potential import jit_predict, predict
from tests.helpers import CAPACITY, deviation, evaluate, graph_of, random_potential, reference, structures


@contextlib.contextmanager
def globally_64_bit():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


def whole_table(dtype):
    return as_dtype(batch([graph_of(atoms) for atoms in structures().values()], CAPACITY), dtype)


def test_output_has_the_dtype_of_the_input(name, dtype):
    with numerics(dtype):
        result = jit_predict(random_potential(name, dtype), whole_table(dtype))
    assert {str(x.dtype) for x in result} == {dtype}


def test_float32_under_global_64_bit(name):
    with globally_64_bit():
        results = evaluate(name, "float32", [*structures().values()])
    for result, expected in zip(results, reference(name, "float32"), strict=True):
        assert all(np.asarray(x).dtype == np.float32 for x in result)
        assert deviation(result, expected) == 0


def test_no_step_is_promoted(name):
    """float32 input with 64 bit switched on: no array on the way is float64 (but literal numbers)."""
    with numerics("float64"):
        text = str(jax.make_jaxpr(predict)(random_potential(name, "float32"), whole_table("float32")))
    assert "f32[" in text
    assert not re.findall(r".*f64\[\d.*", text)


def test_float32_is_near_float64(name):
    for single, double in zip(reference(name, "float32"), reference(name, "float64"), strict=True):
        assert deviation(single, double) < 1e-4


def test_global_state_stays(dtype):
    before = jax.config.jax_enable_x64, jax.config.jax_default_matmul_precision
    with numerics(dtype), pytest.raises(ZeroDivisionError), numerics("float64", "default"):
        raise ZeroDivisionError
    assert (jax.config.jax_enable_x64, jax.config.jax_default_matmul_precision) == before
