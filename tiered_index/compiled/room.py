"""Arrays that a thread's queries work in."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from tiered_index.compiled.answer import SUMS, WINDOW
from tiered_index.compiled.walk import STATE_FIELDS

_MIN_SEEN = 8_192


class Room(threading.local):
    """A thread's own arrays to work in; they grow and stay."""

    def __init__(self) -> None:
        self.beam = np.empty(256, np.int64)
        self.recent = np.empty(WINDOW, np.float32)
        self.sums = np.empty(SUMS, np.float64)
        self.state = np.zeros(STATE_FIELDS, np.int64)
        self.make_seen(_MIN_SEEN)

    def make_seen(self, size: int) -> None:
        """Make room for so many rows that a walk meets."""
        self.seen = np.empty(size, np.int32)
        self.spill = np.empty(size, np.int64)
        self.table = np.empty(4 * size, np.int32)  # at most half full, and a power of two

    def beam_of(self, width: int) -> NDArray[np.int64]:
        """Return a beam of this width."""
        if width > len(self.beam):
            self.beam = np.empty(2 * width, np.int64)
        return self.beam[:width]


room = Room()
