import os
import subprocess
import sys

import pytest

FAULTS = """
import concurrent.futures, resource, statistics
import m3pot
from m3pot.memory import keep_freed_memory
print(keep_freed_memory())
with concurrent.futures.ThreadPoolExecutor(4) as pool:  # of some library that is imported before JAX starts
    list(pool.map(bytearray, [1000] * 100))
from ase.build import bulk
crystal = bulk("MgO", "rocksalt", a=4.2, cubic=True) * 2
faults = []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    m3pot.predict(crystal)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(statistics.median(faults[3:]))  # how threads interleave may let the heap grow in the first calls
"""


def run(**variables: str) -> tuple[bool, int]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_", "LD_PRELOAD", "M3POT_KEEP"))}
    command = [sys.executable, "-c", FAULTS]
    text = subprocess.run(command, env=kept | variables, capture_output=True, text=True, check=True).stdout
    kept_memory, faults = text.split()
    return kept_memory == "True", int(faults)


@pytest.mark.skipif(sys.platform != "linux", reason="an option of glibc")
def test_repeated_calls_do_not_ask_the_kernel_for_memory_again():
    """The scratch memory of a prediction, tens of MB, has thousands of pages, which every call would fault in anew."""
    (on, few), (off, many) = run(), run(M3POT_KEEP_MEMORY="0")
    assert on
    assert not off
    assert 20 * few < many


@pytest.mark.skipif(sys.platform != "linux", reason="an option of glibc")
def test_the_users_choice_of_malloc_stands():
    assert run(MALLOC_ARENA_MAX="2")[0] is False
