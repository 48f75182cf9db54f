"""A cache of what was computed last, bounded, without a lock."""

from __future__ import annotations

import itertools
from collections.abc import Hashable
from typing import Any, Generic, TypeVar

from pyroaring import BitMap

T = TypeVar("T")

MAX_ENTRIES = 256
"""Values that a cache holds: a change copies the table of them, which takes 5 us."""

_NOTHING = (None, 0, 0)
_CONTAINERS = ("n_bytes_array_containers", "n_bytes_run_containers", "n_bytes_bitset_containers")
_ENTRY_BYTES = 512
"""Of an entry besides its bitmaps: keys, objects."""


class Recent(Generic[T]):
    """Holds the values that were used last, up to a number of them and of bytes.

    Threads may share it without a lock, which, held during a fork, would stay held in the child: a change
    makes a new dict and puts it into the old one's place. Of two changes at once one may be lost, which
    costs computing it again.

    Parameters
    ----------
    max_bytes : int
        Of all values; a larger one is not held at all.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held: tuple[dict[Hashable, list[Any]], int] = {}, 0  # key -> value, bytes, last use; all bytes
        self._clock = itertools.count()

    def get(self, key: Hashable) -> T | None:
        """Return the value of a key, or None."""
        entry = self._held[0].get(key)
        if entry is None:
            return None
        entry[2] = next(self._clock)
        value: T = entry[0]
        return value

    def put(self, key: Hashable, value: T, size: int) -> None:
        """Hold a value of `size` bytes; if that is too much, let go of those whose use is longest ago."""
        if size > self._max_bytes:
            return
        held, total = self._held
        held = dict(held)
        total += size - held.pop(key, _NOTHING)[1]
        if len(held) >= MAX_ENTRIES or total > self._max_bytes:
            # down to half, so that not every value that comes has to look for one that goes
            for oldest in sorted(held, key=lambda name: held[name][2]):
                if len(held) < MAX_ENTRIES // 2 and total <= max(self._max_bytes // 2, size):
                    break
                total -= held.pop(oldest)[1]
        held[key] = [value, size, next(self._clock)]
        self._held = held, total

    @property
    def bytes(self) -> int:
        """The bytes of what is held."""
        return self._held[1]


def bytes_of(bitmap: BitMap) -> int:
    """Return about what a bitmap takes in memory."""
    statistics = bitmap.get_statistics()
    return _ENTRY_BYTES + sum(int(statistics[name]) for name in _CONTAINERS)
