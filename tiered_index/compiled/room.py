"""Arrays that a thread's queries work in."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiered_index.compiled.layout import (
    BEAM,
    BEAM_SIZE,
    MET_AMONG,
    MET_PER_EF,
    MIN_TABLE,
    ORDER,
    ORDER_SIZE,
    PREFIX,
    QUERY,
    QUERY_SIZE,
    RECENT,
    RECENT_SIZE,
    ROOM_FIELDS,
    STATE,
    STATE_FIELDS,
    SUMS,
    SUMS_KEPT,
    SUMS_SIZE,
    TABLE,
    TABLE_SIZE,
    WINDOW,
)

_MIN_BEAM = 256
_BEHIND = 8
_LINE_BYTES = 64


class Room:
    """A thread's own arrays to work in; they grow and stay.

    `fields` says where they are and how long, and `address` where `fields` is. Whoever passes that on holds
    the room itself meanwhile: what is a thread's own goes when the interpreter ends, and compiled code of
    threads that nobody waits for may be at work then.
    """

    def __init__(self) -> None:
        self.fields = np.zeros(ROOM_FIELDS, np.int64)
        self.address = self.fields.ctypes.data
        self.recent = self._placed(np.empty(WINDOW, np.float32), RECENT, RECENT_SIZE)
        self.sums = self._placed(np.empty(SUMS_KEPT, np.float64), SUMS, SUMS_SIZE)
        self.state = self._placed(np.zeros(STATE_FIELDS, np.int64), STATE)
        self.query = self._placed(_aligned(0), QUERY)
        self.prefix = self._placed(_aligned(0), PREFIX)
        self.beam = np.empty(0, np.int64)
        self.order = np.empty(0, np.int64)
        self.beam_of(_MIN_BEAM)

    def beam_of(self, width: int) -> NDArray[np.int64]:
        """Return a beam of this width, with room behind it."""
        if width > len(self.beam) - _BEHIND:
            size = 2 * width + _BEHIND
            places = max(MIN_TABLE, width * MET_PER_EF * MET_AMONG // 2)  # a beam is twice as wide as ef
            self.order = self._placed(np.empty(size, np.int64), ORDER, ORDER_SIZE)
            self.table = self._placed(np.empty(1 << (places - 1).bit_length(), np.int32), TABLE, TABLE_SIZE)
            # the last, as its size is what is looked at: Ctrl-C may come before
            self.beam = self._placed(_aligned(size, np.int64), BEAM, BEAM_SIZE)
        return self.beam[:width]

    def make_query(self, dim: int) -> None:
        """Make room for a query of so many dimensions."""
        if dim > len(self.query):
            self.prefix = self._placed(_aligned(dim), PREFIX)
            self.query = self._placed(_aligned(dim), QUERY, QUERY_SIZE)

    def _placed(self, array: NDArray[Any], address: int, size: int | None = None) -> NDArray[Any]:
        self.fields[address] = array.ctypes.data
        if size is not None:
            self.fields[size] = len(array)
        return array


def _aligned(size: int, dtype: type = np.float32) -> NDArray[Any]:
    """Return numbers that begin with a cache line: a load across two takes twice as long."""
    width = np.dtype(dtype).itemsize
    numbers: NDArray[Any] = np.empty(size + _LINE_BYTES // width, dtype)
    return numbers[-numbers.ctypes.data % _LINE_BYTES // width :][:size]


class _Own(threading.local):
    def __init__(self) -> None:
        self.room = Room()


own = _Own()
"""What the calling thread has to itself."""
