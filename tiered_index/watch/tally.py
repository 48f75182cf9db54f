"""Counting searches: what they took and what became of them, for metrics."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable

import msgspec

from tiered_index.results import SearchResult

BUCKETS_MS = (0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 20.0, 50.0, 100.0, 500.0, 2000.0)
"""Upper ends of the latency histogram."""


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """Searches since the counting began.

    Attributes
    ----------
    complete, degraded, late : int
        Calls that kept what was asked, that kept less (see `degraded_reason` of a result), and of the
        latter those that the deadline cut short. Calls that raised are not counted.
    queries : int
        What they asked: a call with a matrix asks several.
    rows_read, bytes_read, cold_rows : int
        Full vectors that were read, their bytes, and those that had to be waited for.
    seconds : float
        Wall time of all calls.
    latencies : tuple of int
        Calls by their time: up to each of :data:`BUCKETS_MS` and above the one before, then all longer ones.
    """

    complete: int
    degraded: int
    late: int
    queries: int
    rows_read: int
    bytes_read: int
    cold_rows: int
    seconds: float
    latencies: tuple[int, ...]


class _OfThread:
    """What one thread counted."""

    def __init__(self) -> None:
        self.numbers = [0, 0, 0, 0, 0, 0, 0]
        self.seconds = 0.0
        self.latencies = [0] * (len(BUCKETS_MS) + 1)


class Counter:
    """Counts without a lock: every thread has numbers of its own, which are added up when asked for.

    A thread that ended leaves its numbers to the next one that gets its identifier.
    """

    def __init__(self) -> None:
        self._threads: dict[int, _OfThread] = {}

    def add(self, result: SearchResult) -> None:
        """Count a call, in about a microsecond."""
        thread = threading.get_ident()
        own = self._threads.get(thread)
        if own is None:
            own = self._threads[thread] = _OfThread()
        stats, numbers = result.stats, own.numbers
        if result.degraded_reason is None:
            numbers[0] += 1
        else:
            numbers[1] += 1
            numbers[2] += not result.complete
        numbers[3] += stats.queries
        numbers[4] += stats.rows_read
        numbers[5] += stats.bytes_read
        numbers[6] += stats.cold_rows
        own.seconds += stats.total_ms / 1e3
        own.latencies[bisect_left(BUCKETS_MS, stats.total_ms)] += 1

    def total(self) -> Tally:
        """Return the sums."""
        threads = list(self._threads.values())
        complete, degraded, late, queries, rows, size, cold = _sums([t.numbers for t in threads], 7)
        return Tally(
            complete=complete,
            degraded=degraded,
            late=late,
            queries=queries,
            rows_read=rows,
            bytes_read=size,
            cold_rows=cold,
            seconds=sum(t.seconds for t in threads),
            latencies=tuple(_sums([t.latencies for t in threads], len(BUCKETS_MS) + 1)),
        )


def _sums(columns: Iterable[list[int]], length: int) -> list[int]:
    totals = [0] * length
    for column in columns:
        for i, number in enumerate(column):
            totals[i] += number
    return totals
