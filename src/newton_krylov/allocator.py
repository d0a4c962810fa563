"""What the C library's allocator does with freed memory: it keeps it, or gives it back."""

import ctypes
import os
import platform
from functools import cache

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h
_PAD = 256 * 2**20


@cache
def keep_freed_memory() -> bool:
    """Keep freed memory in the process, from now on.

    A network's forward and backward pass takes and frees the same large blocks again and again.
    glibc maps a large block for each request and unmaps it at once when it is freed, so the
    kernel clears and faults in every page of every activation every time: on two cores that was
    half of a forward pass and a third of a gradient. The process keeps its peak of memory instead.

    Returns
    -------
    bool
        Whether this was done: not outside Linux with glibc, nor where the environment variables
        that glibc reads (`MALLOC_...`) say what the user wants.
    """
    if platform.libc_ver()[0] != "glibc" or any(key.startswith("MALLOC_") for key in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, _PAD))
    done = [mallopt(name, value) == 1 for name, value in settings]
    return all(done)


def give_back_freed_memory() -> None:
    """Give the system what has been freed so far.

    glibc keeps freed blocks of up to 32 MB for later ones of the same size: what was needed to
    read data and to lay them out would be counted as the process's to its end. It takes less than
    a millisecond, and does nothing outside Linux with glibc.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
