"""Arrays that a thread's queries work in."""

from __future__ import annotations

import threading
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tiered_index.compiled.answer import SUMS as SUMS_KEPT
from tiered_index.compiled.answer import WINDOW
from tiered_index.compiled.walk import STATE_FIELDS

# Where they are, in an array of int64: addresses, and sizes
BEAM: Final = 0
SPILL: Final = 1  # as many as SEEN
SEEN: Final = 2
TABLE: Final = 3
RECENT: Final = 4
SUMS: Final = 5
STATE: Final = 6
QUERY: Final = 7
PREFIX: Final = 8  # as many as QUERY
BEAM_SIZE: Final = 9
SEEN_SIZE: Final = 10
TABLE_SIZE: Final = 11
RECENT_SIZE: Final = 12
SUMS_SIZE: Final = 13
QUERY_SIZE: Final = 14
_FIELDS = 15

_MIN_SEEN = 8_192
_LINE_BYTES = 64


class Room(threading.local):
    """A thread's own arrays to work in; they grow and stay. `fields` says where they are."""

    def __init__(self) -> None:
        self.fields = np.zeros(_FIELDS, np.int64)
        self.recent = self._placed(np.empty(WINDOW, np.float32), RECENT, RECENT_SIZE)
        self.sums = self._placed(np.empty(SUMS_KEPT, np.float64), SUMS, SUMS_SIZE)
        self.state = self._placed(np.zeros(STATE_FIELDS, np.int64), STATE)
        self.query = self._placed(_aligned(0), QUERY)
        self.prefix = self._placed(_aligned(0), PREFIX)
        self.beam = np.empty(0, np.int64)
        self.beam_of(256)
        self.make_seen(_MIN_SEEN)

    def make_seen(self, size: int) -> None:
        """Make room for so many rows that a walk meets."""
        self.seen = self._placed(np.empty(size, np.int32), SEEN, SEEN_SIZE)
        self.spill = self._placed(np.empty(size, np.int64), SPILL)
        # at most half full, and a power of two
        self.table = self._placed(np.empty(4 * size, np.int32), TABLE, TABLE_SIZE)

    def beam_of(self, width: int) -> NDArray[np.int64]:
        """Return a beam of this width."""
        if width > len(self.beam):
            self.beam = self._placed(np.empty(2 * width, np.int64), BEAM, BEAM_SIZE)
        return self.beam[:width]

    def make_query(self, dim: int) -> None:
        """Make room for a query of so many dimensions."""
        if dim > len(self.query):
            self.query = self._placed(_aligned(dim), QUERY, QUERY_SIZE)
            self.prefix = self._placed(_aligned(dim), PREFIX)

    def _placed(self, array: NDArray[Any], address: int, size: int | None = None) -> NDArray[Any]:
        self.fields[address] = array.ctypes.data
        if size is not None:
            self.fields[size] = len(array)
        return array


def _aligned(size: int) -> NDArray[np.float32]:
    """Return numbers that begin with a cache line: a load across two takes twice as long."""
    numbers = np.empty(size + _LINE_BYTES // 4, np.float32)
    return numbers[-numbers.ctypes.data % _LINE_BYTES // 4 :][:size]


room = Room()
