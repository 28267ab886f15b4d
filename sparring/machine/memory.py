"""Keep freed memory in the process, so that the next step can use it again."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Make glibc keep the memory of large freed tensors; with another C library nothing happens.

    By default glibc returns it to the kernel after every step and requests it again page by page. A step of 8 or 16
    shards of 128 x 3 x 32 x 32, without its forward and backward passes, then takes 1.8 to 1.9 times as long
    (`python -m benchmarks.steps`). The price: a process that has grown does not shrink any more.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, LARGEST)
