"""What a search may spend."""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """When to stop, on the clock of ``perf_counter_ns``, 0 for never, and what to expect of the disk.

    Attributes
    ----------
    walk_ns, call_ns : int
        Deadlines of the walk and of the whole call.
    cold : bool
        Rows are likely not in memory.
    """

    walk_ns: int = 0
    call_ns: int = 0
    cold: bool = False


NO_LIMITS = Limits()
