"""Memory on CPUs: the scratch space of one call is kept for the next."""

import ctypes
import os
import sys


def keep_freed_memory() -> bool:
    """Ask glibc to keep freed memory for the next call instead of giving it back to the kernel; whether it will.

    XLA:CPU takes and frees its scratch memory, up to gigabytes, in every call. By default each call then waits for the
    kernel to map and clear the same pages again, which takes half of the time (benchmarks/speed.py). Left
    alone where the user chose an allocator (LD_PRELOAD, MALLOC_*, GLIBC_TUNABLES) or set M3POT_KEEP_MEMORY=0.

    Must run before other threads take memory: a thread keeps the arena that it has, and arenas other than the first
    map large blocks apart, whatever they are told.
    """
    chosen = [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD"))]
    if sys.platform != "linux" or chosen or os.environ.get("M3POT_KEEP_MEMORY") == "0":
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    # From malloc.h. One arena, see above; nothing is mapped apart, nothing is trimmed; it grows by 64 MB at least.
    arena_max, mmap_max, trim_threshold, top_pad = -8, -4, -1, -2
    values = {arena_max: 1, mmap_max: 0, trim_threshold: -1, top_pad: 2**26}
    return all(libc.mallopt(parameter, value) for parameter, value in values.items())
