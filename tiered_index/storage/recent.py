"""A cache of what was computed last, bounded, without a lock."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Generic, TypeVar

from pyroaring import BitMap

T = TypeVar("T")

_NOTHING: tuple[Any, int] = None, 0
_CONTAINERS = ("n_bytes_array_containers", "n_bytes_run_containers", "n_bytes_bitset_containers")
_ENTRY_BYTES = 512
"""Of an entry besides its bitmaps: keys, objects."""


class Recent(Generic[T]):
    """Holds the values that were used last, up to a size of all.

    New values go into a young table, and so does what is found in the old one. When the young one holds half
    of what there may be, it becomes the old one, and what was left in that goes. So what is used stays, and
    however many there are, a look and a change take as long.

    Threads may share it without a lock, which, held during a fork, would stay held in the child: each step is
    one change of a dict. Of two changes at once one may not be counted, until the tables turn.

    Parameters
    ----------
    most : int
        Size of all values; a larger one is not held at all.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._young: dict[Hashable, tuple[T, int]] = {}
        self._old: dict[Hashable, tuple[T, int]] = {}
        self._young_size = self._old_size = 0

    def get(self, key: Hashable) -> T | None:
        """Return the value of a key, or None."""
        entry = self._young.get(key)
        if entry is None:
            entry = self._old.get(key)
            if entry is None:
                return None
            self.put(key, *entry)
        return entry[0]

    def put(self, key: Hashable, value: T, size: int) -> None:
        """Hold a value; if that is too much, let go of some whose use is longer ago."""
        if size > self._most:
            return
        self._young_size -= self._young.pop(key, _NOTHING)[1]
        self._old_size -= self._old.pop(key, _NOTHING)[1]
        if self._young_size + size > self._most // 2:
            self._old, self._old_size = self._young, self._young_size
            self._young, self._young_size = {}, 0
        if self._old_size + self._young_size + size > self._most:
            self._old, self._old_size = {}, 0
        self._young[key] = value, size
        self._young_size += size

    @property
    def size(self) -> int:
        """The size of what is held."""
        return self._young_size + self._old_size


def bytes_of(bitmap: BitMap) -> int:
    """Return about what a bitmap takes in memory."""
    statistics = bitmap.get_statistics()
    return _ENTRY_BYTES + sum(int(statistics[name]) for name in _CONTAINERS)
