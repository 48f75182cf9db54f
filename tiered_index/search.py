"""Searching: candidates by prefix, then their exact scores."""

from __future__ import annotations

from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from tiered_index.full.rescore import Scorer
from tiered_index.planner.plan import Plan
from tiered_index.results import Hits, SearchStats
from tiered_index.storage.snapshot import ROW_BITS, Snapshot
from tiered_index.validate.vectors import Floats, prefixes_of

Addresses = NDArray[np.int64]
_ROW_MASK = (1 << ROW_BITS) - 1


def search(snapshot: Snapshot, queries: Floats, k: int, plan: Plan, started: float) -> Hits:
    """Answer queries by both tiers.

    Parameters
    ----------
    snapshot : Snapshot
        What to search.
    queries : ndarray, shape (n, store_dim), float32
        Of unit length under cosine.
    k : int
        Results a query.
    plan : Plan
        How.
    started : float
        ``perf_counter()`` when the call came in, for the statistics.

    Returns
    -------
    Hits
        Of shape (n, min(k, rows)).
    """
    coarse_started = perf_counter()
    addresses, scanned = _candidates(snapshot, queries, plan)
    rescore_started = perf_counter()
    k = min(k, snapshot.rows)
    top = np.empty((len(queries), k), np.int64)
    scores = np.empty((len(queries), k), np.float32)
    for i, query in enumerate(queries):
        candidates = addresses[i]
        exact = _rescore(snapshot, Scorer(query, snapshot.config.dtype), candidates)
        best = np.argsort(-exact, kind="stable")[:k]
        top[i] = candidates[best]
        scores[i] = exact[best]
    finished = perf_counter()
    if scanned == len(snapshot.segments):
        plan = Plan(strategy="scan", prefix_dim=plan.prefix_dim, ef=plan.ef, candidates=plan.candidates)
    return Hits(
        top,
        scores,
        plan,
        SearchStats(
            total_ms=(finished - started) * 1e3,
            coarse_ms=(rescore_started - coarse_started) * 1e3,
            rescore_ms=(finished - rescore_started) * 1e3,
            queries=len(queries),
            segments_walked=len(snapshot.segments) - scanned,
            segments_scanned=scanned,
            rows_read=addresses.size,
            bytes_read=addresses.size * snapshot.row_bytes,
        ),
    )


def _candidates(snapshot: Snapshot, queries: Floats, plan: Plan) -> tuple[Addresses, int]:
    """Return the addresses of each query's candidates, and how many segments were scanned for them."""
    if not snapshot.segments:
        return np.empty((len(queries), 0), np.int64), 0
    prefixes = prefixes_of(queries, plan.prefix_dim, unit=snapshot.config.metric == "cosine")
    found = [
        segment.coarse.search(prefixes, plan.ef, min(plan.candidates, segment.rows))
        for segment in snapshot.segments
    ]
    scanned = sum(part.scanned for part in found)
    if len(found) == 1:
        return found[0].rows, scanned
    addresses = np.concatenate([part.rows + (i << ROW_BITS) for i, part in enumerate(found)], axis=1)
    scores = np.concatenate([part.scores for part in found], axis=1)
    best = np.argsort(-scores, axis=1, kind="stable")[:, : plan.candidates]
    return np.take_along_axis(addresses, best, axis=1), scanned


def _rescore(snapshot: Snapshot, scorer: Scorer, addresses: Addresses) -> Floats:
    if len(snapshot.segments) == 1:  # the address is the row
        return snapshot.segments[0].rescore(scorer, addresses)
    numbers = addresses >> ROW_BITS
    scores = np.empty(len(addresses), np.float32)
    for number in np.unique(numbers).tolist():
        mine = np.flatnonzero(numbers == number)
        scores[mine] = snapshot.segments[number].rescore(scorer, addresses[mine] & _ROW_MASK)
    return scores
