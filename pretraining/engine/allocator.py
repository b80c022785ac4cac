"""Memory between the steps of a training on a CPU."""

import ctypes
import sys


# of glibc's malloc.h
TRIM_THRESHOLD, MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let glibc's `malloc` hand out again what is freed, instead of giving it back to the system, from now on.

    A step frees all its activations and the next one asks for them again: pages that went back to the system are
    mapped and cleared once more, which takes up to a tenth of it. The process then holds the most that it has ever
    needed, and what the gaps between blocks cost: now and then in the first steps a block fits none and the heap grows
    by it, until they settle. Another allocator in front of glibc's (`LD_PRELOAD`) is not touched.

    Returns:
        whether this process has such a `malloc`: Linux with glibc.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # large blocks come from the heap too, and the heap never shrinks
    return mallopt is not None and bool(mallopt(MMAP_MAX, 0)) and bool(mallopt(TRIM_THRESHOLD, -1))
