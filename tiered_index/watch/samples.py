"""What waits to be answered exactly, and what a caller does for it: a coin and an append."""

from __future__ import annotations

import os
import time
from collections import deque
from random import random
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tiered_index.filters.copies import copied
from tiered_index.planner.plan import Plan
from tiered_index.planning import Planning
from tiered_index.prepared import Called
from tiered_index.results import SearchResult
from tiered_index.storage.snapshot import Snapshot

MOST_OF_A_CALL = 32
"""Queries that are taken of one call with many."""


class Sample(NamedTuple):
    """A query that was answered, and how.

    Attributes
    ----------
    snapshot : Snapshot
        What answered.
    query : ndarray, shape (dim,), float32
        A copy of what was asked.
    addresses, scores : ndarray, shape (n,)
        What was found.
    k : int
        How many were asked for.
    plan : Plan
        What was done.
    floor : float or None
        The recall that was asked for.
    tag, profile : str or None
        As the caller named them.
    where : Any
        The filter.
    complete : bool
        Whether the deadline left time for all of the plan.
    at : float
        When, on the clock of ``monotonic``.
    """

    snapshot: Snapshot
    query: NDArray[np.float32]
    addresses: NDArray[np.int64]
    scores: NDArray[np.float32]
    k: int
    plan: Plan
    floor: float | None
    tag: str | None
    profile: str | None
    where: Any
    complete: bool
    at: float


class Samples:
    """A bounded queue of samples.

    Threads add without a lock, which would stay held in a forked child; where they race for a counter,
    one count is lost.

    Parameters
    ----------
    planning : Planning
        Knows what a call asks.
    rate : float
        Share of the queries that are taken.
    most : int
        How many may wait; more are dropped.
    """

    def __init__(self, planning: Planning, rate: float, most: int) -> None:
        self._planning = planning
        self.rate = rate
        self._most = most
        self._process = os.getpid()
        self._waiting: deque[Sample] = deque()
        self.taken = 0
        self.dropped = 0
        self.grouped = 0

    def saw(
        self,
        snapshot: Snapshot,
        result: SearchResult,
        query: Any,
        called: Called,
        tag: str | None,
        where: Any,
        *,
        grouped: bool,
    ) -> None:
        """Perhaps take a call's query, or some of its queries."""
        if result.ids.ndim == 1:
            if random() >= self.rate:  # noqa: S311 - a sample, not a secret
                return
            picked = [0]
        else:
            picked = _picked(len(result.ids), self.rate)
            if not picked:
                return
        if grouped:  # which rows a group's best are depends on the other groups: see the report
            self.grouped += 1
            return
        self.taken += len(picked)
        if len(self._waiting) + len(picked) > self._most or os.getpid() != self._process:
            self.dropped += len(picked)
            return
        many = result.ids.ndim > 1
        queries = np.asarray(query)
        addresses = result.addresses.reshape(len(result.ids), -1) if many else result.addresses[None]
        scores = result.scores if many else result.scores[None]
        held = copied(where)  # the caller may change it
        k, latency_ms, min_recall, budget, profile = called[:5]
        floor = self._planning.asked(budget, profile, latency_ms, min_recall).min_recall
        now = time.monotonic()
        for i in picked:
            self._waiting.append(
                Sample(
                    snapshot,
                    np.array(queries[i] if many else queries, np.float32),
                    addresses[i],
                    scores[i].copy(),
                    k,
                    result.plan,
                    floor,
                    tag,
                    profile,
                    held,
                    result.complete,
                    now,
                )
            )

    def __len__(self) -> int:
        return len(self._waiting)

    def drop(self) -> None:
        """Let go of what waits, and of the snapshots it holds."""
        while self._waiting:
            self._waiting.popleft()
            self.dropped += 1

    def take(self, most: int) -> list[Sample]:
        """Remove and return the oldest sample and others of its snapshot, at most so many; for one thread."""
        taken: list[Sample] = []
        kept: list[Sample] = []
        for _ in range(len(self._waiting)):
            sample = self._waiting.popleft()
            if len(taken) < most and (not taken or sample.snapshot is taken[0].snapshot):
                taken.append(sample)
            else:
                kept.append(sample)
        self._waiting.extendleft(reversed(kept))
        return taken


def _picked(count: int, rate: float) -> list[int]:
    """Return which of `count` queries are taken: each has the same chance."""
    random = np.random.default_rng()
    chosen = np.flatnonzero(random.random(count) < rate)
    if len(chosen) > MOST_OF_A_CALL:
        chosen = random.choice(chosen, MOST_OF_A_CALL, replace=False)
    return [int(i) for i in chosen]
