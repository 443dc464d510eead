"""Keep freed memory in the process: a training step asks for the same blocks again and again.

By default glibc gives large blocks back to the system as soon as they are free, and the next step
faults them in again, page by page. Measured in benchmarks/RESULTS.md ("The allocator").
"""

import ctypes
import os
import sys

# From glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
LARGEST_INT = 2**31 - 1
# Blocks beyond this come from the system and go back to it, each time.
LARGEST_KEPT_BLOCK = 2**30


def keep_freed_memory() -> bool:
    """Tell glibc's malloc to keep what is freed for the next request.

    On Linux with glibc only, and not where its settings were given in the environment
    (`GLIBC_TUNABLES`, `MALLOC_TRIM_THRESHOLD_`, `MALLOC_MMAP_THRESHOLD_`): those are somebody's
    choice. More calls change nothing.

    Returns:
        Whether it was told.
    """
    if sys.platform != "linux" or not _is_glibc() or _is_set_already():
        return False
    set_option = ctypes.CDLL(None).mallopt
    kept = set_option(M_TRIM_THRESHOLD, LARGEST_INT)
    return bool(kept and set_option(M_MMAP_THRESHOLD, LARGEST_KEPT_BLOCK))


def give_back_freed_memory() -> None:
    """Hand what is free back to the system, by whole pages; with glibc only.

    For work that needs its memory once: holes between blocks that stay are else the process's.
    """
    if sys.platform == "linux" and _is_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _is_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (ValueError, OSError):
        return False


def _is_set_already() -> bool:
    return "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", "") or any(
        name in os.environ for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")
    )
