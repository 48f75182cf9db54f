"""Filters that are asked again and again: their rows are linked among themselves, in the background."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from threading import Thread
from time import perf_counter_ns
from weakref import WeakSet

from tiered_index.storage.matching import Matching
from tiered_index.storage.snapshot import Snapshot

LEAST_ROWS = 8_192
"""Of a segment; fewer are scanned, which takes no longer than a walk with links."""

LEAST_SHARE, MOST_SHARE = 0.04, 0.75
"""Of a segment. Among fewer, two steps do not lead from a row to as many others as it has links: among one of
a hundred rows .85 were found. Among more, a walk took 1.15 times as long without links as with them."""

NS_PER_ROW = 1_000
"""What linking a row takes: measured 250 where nine of ten match, 1,400 where one does."""

LEAST_BYTES = 64 << 20
SHARE_OF_COARSE = 0.25
"""What links may take, of the coarse tier or at least, where nothing else was said."""

_log = logging.getLogger("tiered_index")


def where_it_pays(matches: int, rows: int) -> bool:
    """Return whether so many rows of a segment, of so many, are linked."""
    return matches >= LEAST_ROWS and LEAST_SHARE * rows <= matches <= MOST_SHARE * rows


class Linking:
    """Links the rows of filters when walks among them have taken as long as linking does.

    So all in all no more than twice the time is spent that would have been by who knows how often each
    filter will be asked. Links go with the rows of their filter, those of a snapshot; and where they would
    take too much memory, with the filters whose use is longest ago.
    """

    def __init__(self) -> None:
        self._max_bytes: int | None = None
        self._linked: WeakSet[Matching] = WeakSet()
        self._busy: int | None = None  # the process whose thread links
        self._closed = False

    @property
    def max_bytes(self) -> int | None:
        """What links may take in memory; None for a share of the coarse tier, 0 for no links."""
        return self._max_bytes

    @max_bytes.setter
    def max_bytes(self, limit: int | None) -> None:
        self._max_bytes = limit
        if limit is not None:
            self._leave(limit)

    def counts(self, matching: Matching) -> bool:
        """Note that a filter was asked; return whether :meth:`asked` wants to know what it took."""
        matching.used_ns = perf_counter_ns()
        return not matching.linked and matching.count >= LEAST_ROWS

    def asked(self, snapshot: Snapshot, matching: Matching, coarse_ms: float) -> None:
        """Count the time of a search's first stage among the rows of a filter; perhaps begin to link them."""
        matching.spent_ns += int(coarse_ms * 1e6)
        cost = matching.count * NS_PER_ROW
        if matching.spent_ns < cost << matching.unlinked or self._busy == os.getpid():
            return
        if not self._fits(snapshot, matching):
            matching.spent_ns = 0
            return
        self._busy = os.getpid()
        Thread(target=self._in_background, args=(snapshot, matching), daemon=True).start()

    def link(self, snapshot: Snapshot, matching: Matching) -> bool:
        """Link the rows of a filter; return whether they are."""
        if not matching.linked and self._fits(snapshot, matching):
            self._link(snapshot, matching, lambda: True)
        return matching.linked

    @property
    def bytes(self) -> int:
        """What links take in memory."""
        return sum(matching.links_bytes for matching in list(self._linked))

    def close(self) -> None:
        """Let a thread that links end soon, and link no more."""
        self._closed = True

    def limit(self, snapshot: Snapshot) -> int:
        """Return how many bytes links may take."""
        if self._max_bytes is not None:
            return self._max_bytes
        coarse = sum(sum(live.segment.coarse.memory_bytes()) for live in snapshot.segments)
        return max(LEAST_BYTES, int(SHARE_OF_COARSE * coarse))

    def _fits(self, snapshot: Snapshot, matching: Matching) -> bool:
        return 0 < matching.would_take(where_it_pays) <= self.limit(snapshot)

    def _in_background(self, snapshot: Snapshot, matching: Matching) -> None:
        try:
            self._link(snapshot, matching, lambda: not self._closed)
        except Exception as error:  # searches go on without
            matching.spent_ns = 0
            _log.warning("rows of a filter are not linked: %s", error)
        finally:
            self._busy = None

    def _link(self, snapshot: Snapshot, matching: Matching, going_on: Callable[[], bool]) -> None:
        self._leave(self.limit(snapshot) - matching.would_take(where_it_pays))
        matching.link(where_it_pays, going_on)
        if matching.linked:
            self._linked.add(matching)

    def _leave(self, limit: int) -> None:
        """Let go of links, of the filter used longest ago first, until they take no more than `limit`."""
        held = self.bytes
        for one in sorted(self._linked, key=lambda one: one.used_ns):
            if held <= limit:
                break
            held -= one.links_bytes
            self._linked.discard(one)
            one.unlink()
