"""A cache of what was computed last, bounded, without a lock."""

from __future__ import annotations

import itertools
from collections.abc import Hashable
from typing import Any, Generic, TypeVar

from pyroaring import BitMap

T = TypeVar("T")

_CONTAINERS = ("n_bytes_array_containers", "n_bytes_run_containers", "n_bytes_bitset_containers")
_ENTRY_BYTES = 512
"""Of an entry besides its bitmaps: keys, objects."""


class Recent(Generic[T]):
    """Holds the values that were used last, up to a number of bytes.

    Threads may share it: a change makes a new dict and puts it into the old one's place, so that of two
    changes at once one may be lost, which costs computing it again. A lock would be cheaper to reason about,
    but one that is held during a fork stays held in the child.

    Parameters
    ----------
    max_bytes : int
        Of all values; a larger one is not held at all.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held: dict[Hashable, list[Any]] = {}  # key -> value, bytes, time of the last use
        self._clock = itertools.count()

    def get(self, key: Hashable) -> T | None:
        """Return the value of a key, or None."""
        entry = self._held.get(key)
        if entry is None:
            return None
        entry[2] = next(self._clock)
        value: T = entry[0]
        return value

    def put(self, key: Hashable, value: T, size: int) -> None:
        """Hold a value of `size` bytes, and let go of those whose use is longest ago."""
        if size > self._max_bytes:
            return
        held = {**self._held, key: [value, size, next(self._clock)]}
        total = sum(entry[1] for entry in held.values())
        for oldest in sorted(held, key=lambda name: held[name][2]):
            if total <= self._max_bytes:
                break
            total -= held.pop(oldest)[1]
        self._held = held

    @property
    def bytes(self) -> int:
        """The bytes of what is held."""
        return sum(entry[1] for entry in self._held.values())


def bytes_of(bitmap: BitMap) -> int:
    """Return about what a bitmap takes in memory."""
    statistics = bitmap.get_statistics()
    return _ENTRY_BYTES + sum(int(statistics[name]) for name in _CONTAINERS)
