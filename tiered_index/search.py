"""Searching: candidates by prefix, then their exact scores."""

from __future__ import annotations

from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from tiered_index.full.rescore import Scorer
from tiered_index.planner.plan import Plan
from tiered_index.results import Hits, SearchStats
from tiered_index.storage.snapshot import Snapshot
from tiered_index.validate.vectors import Floats, prefixes_of

Addresses = NDArray[np.int64]


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
    if scanned == len(snapshot.parts):
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
            parts_walked=len(snapshot.parts) - scanned,
            parts_scanned=scanned,
            rows_read=addresses.size,
            bytes_read=addresses.size * snapshot.row_bytes,
        ),
    )


def _candidates(snapshot: Snapshot, queries: Floats, plan: Plan) -> tuple[Addresses, int]:
    """Return the addresses of each query's candidates, and how many parts were scanned for them."""
    prefixes = prefixes_of(queries, plan.prefix_dim, unit=snapshot.config.metric == "cosine")
    found, scores, scanned = [], [], 0
    for part in snapshot.parts:
        count = min(plan.candidates, part.rows)
        best = part.tier.search(prefixes, plan.ef, count, among=part.among)
        found.append(best.rows + part.first if part.addresses is None else part.addresses[best.rows])
        scores.append(best.scores)
        scanned += best.scanned
    if not found:
        return np.empty((len(queries), 0), np.int64), 0
    if len(found) == 1:
        return found[0], scanned
    order = np.argsort(-np.concatenate(scores, axis=1), axis=1, kind="stable")[:, : plan.candidates]
    return np.take_along_axis(np.concatenate(found, axis=1), order, axis=1), scanned


def _rescore(snapshot: Snapshot, scorer: Scorer, addresses: Addresses) -> Floats:
    if len(snapshot.segments) == 1:  # the address is the row
        return snapshot.segments[0].segment.rescore(scorer, addresses)
    scores = np.empty(len(addresses), np.float32)
    for number, places, rows in snapshot.split(addresses):
        scores[places] = snapshot.segments[number].segment.rescore(scorer, rows)
    return scores
