"""Memory that the system does not take back.

Pages of a mapped file are the first to go where memory is short: rows that are read push codes and links out,
and a walk waits for each of them. With a quarter of the bytes of 250,000 vectors for all its memory, a search
did so fifty times on average; with codes and links locked, never. Nothing is copied, and processes go on
sharing the pages.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import warnings
from collections.abc import Iterable

from tiered_index.errors import MemoryLockWarning

Extent = tuple[int, int]
"""An address, and bytes from there on."""


def keep_resident(what: str, extents: Iterable[Extent]) -> int:
    """Lock memory until it is unmapped; return how many bytes are.

    Parameters
    ----------
    what : str
        Whose memory it is, for the warning.
    extents : iterable of (int, int)
        Mapped already.

    Warns
    -----
    MemoryLockWarning
        The system does not let this process lock as much.
    """
    locked = 0
    for address, size in extents:
        error = _lock(address - address % mmap.PAGESIZE, size + address % mmap.PAGESIZE)
        if error:
            warnings.warn(
                f"{what}: only {locked:,} bytes are locked in memory ({error}); the limit of a process is "
                "RLIMIT_MEMLOCK, of ulimit -l or a container",
                MemoryLockWarning,
                stacklevel=2,
            )
            break
        locked += size
    return locked


def _lock(address: int, size: int) -> str:
    """Lock whole pages; return what went wrong."""
    if os.name != "posix":
        return "not on this system"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(size)):
        return os.strerror(ctypes.get_errno())
    return ""
