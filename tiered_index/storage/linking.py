"""Filters that are asked again and again: their rows are linked among themselves, in the background."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from time import perf_counter_ns

from tiered_index.coarse.links import LEAST_ROWS
from tiered_index.forkable import ForkableLock
from tiered_index.storage.matching import Matching
from tiered_index.storage.snapshot import Snapshot

NS_PER_ROW = 6_000
"""What linking a row takes, about: 6,400 to 8,800 on a machine without AVX-512."""

LEAST_BYTES = 64 << 20
SHARE_OF_COARSE = 0.375
"""What links may take, of the coarse tier or at least, where nothing else was said."""

_log = logging.getLogger("tiered_index")


class Linking:
    """Links the rows of filters when searches among them have taken as long as linking does.

    So all in all no more than twice the time is spent that would have been by who knows how often each
    filter will be asked. Links go with the rows of their filter, those of a snapshot; and where they would
    take too much memory, with the filters whose use is longest ago.
    """

    def __init__(self) -> None:
        self._max_bytes: int | None = None
        self._closed = False
        self._turn = ForkableLock()  # or letting go of links

    @property
    def max_bytes(self) -> int | None:
        """What links may take in memory; None for a share of the coarse tier, 0 for no links."""
        return self._max_bytes

    def allow(self, snapshot: Snapshot, max_bytes: int | None) -> None:
        """Set what links may take, and let go of what is more."""
        self._max_bytes = max_bytes
        with self._turn.lock:
            _leave(snapshot, self.limit(snapshot))

    def limit(self, snapshot: Snapshot) -> int:
        """Return how many bytes links may take."""
        if self._max_bytes is not None:
            return self._max_bytes
        coarse = sum(sum(live.segment.coarse.memory_bytes()) for live in snapshot.segments)
        return max(LEAST_BYTES, int(SHARE_OF_COARSE * coarse))

    def counts(self, matching: Matching) -> bool:
        """Note that a filter was asked; return whether :meth:`asked` wants to know what it took."""
        matching.used_ns = perf_counter_ns()
        return not matching.linked and matching.count >= LEAST_ROWS and matching.would_take > 0

    def asked(self, snapshot: Snapshot, matching: Matching, coarse_ms: float) -> None:
        """Count the time of a search's first stage among the rows of a filter; perhaps begin to link them."""
        matching.spent_ns += int(coarse_ms * 1e6)
        if matching.spent_ns < (matching.count * NS_PER_ROW) << matching.unlinked:
            return
        if self._turn.lock.locked():
            return
        matching.spent_ns = 0  # who comes next does not begin too
        with suppress(RuntimeError):  # there may be no more threads: what was asked is answered all the same
            Thread(target=self._in_background, args=(snapshot, matching), daemon=True).start()

    def link(self, snapshot: Snapshot, matching: Matching) -> bool:
        """Link the rows of a filter; return whether they are."""
        matching.used_ns = perf_counter_ns()
        with self._turn.lock:
            self._link(snapshot, matching, lambda: True)
        return matching.linked

    def close(self) -> None:
        """Let a thread that links end soon."""
        self._closed = True

    def _in_background(self, snapshot: Snapshot, matching: Matching) -> None:
        lock = self._turn.lock
        if not lock.acquire(blocking=False):
            return
        try:
            self._link(snapshot, matching, lambda: not self._closed)
        except Exception as error:  # searches go on without
            if not self._closed:
                _log.warning("rows of a filter are not linked: %s", error)
        finally:
            matching.spent_ns = 0
            lock.release()

    def _link(self, snapshot: Snapshot, matching: Matching, going_on: Callable[[], bool]) -> None:
        room = self.limit(snapshot) - matching.would_take
        if matching.linked or not matching.would_take or room < 0:
            return
        _leave(snapshot, room)
        if matching.link(going_on):
            snapshot.hold(matching)
        _leave(snapshot, self.limit(snapshot))  # which may be less than before


def _leave(snapshot: Snapshot, limit: int) -> None:
    """Let go of links, of the filter used longest ago first, until they take no more than `limit`."""
    held = snapshot.links_bytes
    for one in sorted(snapshot.linked, key=lambda one: one.used_ns):
        if held <= limit:
            break
        held -= one.links_bytes
        snapshot.let_go(one)
        one.unlink()
