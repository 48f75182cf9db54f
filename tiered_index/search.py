"""Searching: candidates by prefix, then their exact scores, until the deadline."""

from __future__ import annotations

from time import perf_counter, perf_counter_ns
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tiered_index.full.rescore import Scorer
from tiered_index.planner.plan import Plan
from tiered_index.results import Hits, SearchStats
from tiered_index.storage.snapshot import Snapshot
from tiered_index.validate.vectors import Floats, prefixes_of

Addresses = NDArray[np.int64]

MARGIN_ROWS = 16
"""Rows rescored last, which stand for those that would be next."""

_FIRST_ROWS = 8
_CHUNK_ROWS = 32
"""Rows between looks at the clock; NumPy's calls for a chunk take as long as 20 rows from memory."""

_ENOUGH = 0.9
"""Share of the candidates that a compiled walk must have found; else FAISS walks, filtering as it goes."""

_WAITED_MS = 0.02
"""A row that is waited for takes more; from memory one takes about 0.001."""

_ASKED_MS = 0.002
"""Asking for a row takes 0.004 if it is on disk, 0.001 if it is in memory."""

_ADVISED_ROWS = 32
"""Rows that are asked for ahead: asking for all could take longer than the deadline allows."""


class Limits(NamedTuple):
    """When to stop, on the clock of ``perf_counter_ns``, 0 for never, and what to expect of the disk.

    Attributes
    ----------
    walk_ns, call_ns : int
        Deadlines of the walk and of the whole call.
    cold : bool
        Rows are likely not in memory.
    """

    walk_ns: int = 0
    call_ns: int = 0
    cold: bool = False


NO_LIMITS = Limits()


class _Taken(NamedTuple):
    """What one query's rescoring gave and took."""

    addresses: Addresses
    scores: Floats
    margin: float
    late: bool
    rows_read: int
    cold_rows: int


def search(
    snapshot: Snapshot,
    queries: Floats,
    k: int,
    plan: Plan,
    started: float,
    limits: Limits = NO_LIMITS,
) -> Hits:
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
    limits : Limits
        What may be spent.

    Returns
    -------
    Hits
        Of shape (n, min(k, rows)); fewer where the deadline came before so many were rescored.
    """
    k = min(k, snapshot.rows)
    if len(queries) == 1 and snapshot.road is not None and plan.strategy == "graph":
        hits = _by_road(snapshot, queries, k, plan, started, limits)
        if hits is not None:
            return hits
    coarse_started = perf_counter()
    prefixes = prefixes_of(queries, plan.prefix_dim, unit=snapshot.config.metric == "cosine")
    found = find_candidates(snapshot, prefixes, plan, limits)
    rescore_started = perf_counter()
    taken = [
        _rescore(snapshot, Scorer(query, snapshot.config.dtype), addresses, k, plan.early_stop, limits)
        for query, addresses in zip(queries, found.addresses, strict=True)
    ]
    finished = perf_counter()
    k = min((len(one.addresses) for one in taken), default=k)
    rows_read = sum(one.rows_read for one in taken)
    if found.scanned == len(snapshot.parts):
        plan = _scan_of(plan)
    return Hits(
        np.array([one.addresses[:k] for one in taken], np.int64).reshape(len(queries), k),
        np.array([one.scores[:k] for one in taken], np.float32).reshape(len(queries), k),
        plan,
        SearchStats(
            total_ms=(finished - started) * 1e3,
            coarse_ms=(rescore_started - coarse_started) * 1e3,
            rescore_ms=(finished - rescore_started) * 1e3,
            queries=len(queries),
            parts_walked=len(snapshot.parts) - found.scanned,
            parts_scanned=found.scanned,
            rows_read=rows_read,
            bytes_read=rows_read * snapshot.row_bytes,
            cold_rows=sum(one.cold_rows for one in taken),
            distances=found.distances,
        ),
        late=found.late or any(one.late for one in taken),
        margin=float(np.mean([one.margin for one in taken])) if taken else 0.0,
    )


def _scan_of(plan: Plan) -> Plan:
    return Plan(strategy="scan", prefix_dim=plan.prefix_dim, ef=plan.ef, candidates=plan.candidates)


def _by_road(
    snapshot: Snapshot, queries: Floats, k: int, plan: Plan, started: float, limits: Limits
) -> Hits | None:
    """Answer one query compiled; None where that is not to be had or found too little."""
    road = snapshot.road
    if road is None or not road.takes(k, plan.ef):
        return None
    prefix = prefixes_of(queries, plan.prefix_dim, unit=snapshot.config.metric == "cosine")[0]
    found = road.answer(
        prefix,
        queries[0],
        k,
        plan.ef,
        plan.candidates,
        stop=plan.early_stop,
        walk_deadline_ns=limits.walk_ns,
        deadline_ns=limits.call_ns,
        cold=limits.cold,
    )
    enough = k if plan.early_stop else max(k, min(plan.candidates, plan.ef, snapshot.rows) * _ENOUGH)
    if found.rows_read < enough and not found.late:
        return None  # deleted rows crowd this place, or the graph has parts that the walk did not reach
    return Hits(
        found.rows[None],
        found.scores[None],
        plan,
        SearchStats(
            total_ms=(perf_counter() - started) * 1e3,
            coarse_ms=found.coarse_ms,
            rescore_ms=found.rescore_ms,
            queries=1,
            parts_walked=1,
            parts_scanned=0,
            rows_read=found.rows_read,
            bytes_read=found.rows_read * snapshot.row_bytes,
            cold_rows=found.cold_rows,
            distances=found.distances,
        ),
        late=found.late,
        margin=found.margin,
    )


class Found(NamedTuple):
    """Addresses of candidates, best first, and what finding them took.

    `walk_ms`: the time of the walk where one compiled walk was all there was to do, else 0.
    """

    addresses: Addresses
    scanned: int
    distances: int
    late: bool
    walk_ms: float = 0.0


def find_candidates(snapshot: Snapshot, prefixes: Floats, plan: Plan, limits: Limits) -> Found:
    """Find each prefix's candidates in all parts of a snapshot."""
    found, scores, scanned, distances, late = [], [], 0, 0, False
    for part in snapshot.parts:
        best = part.tier.search(
            prefixes,
            plan.ef,
            min(plan.candidates, part.rows),
            scan=plan.strategy == "scan",
            among=part.among,
            deadline_ns=limits.walk_ns,
        )
        found.append(best.rows + part.first if part.addresses is None else part.addresses[best.rows])
        scores.append(best.scores)
        scanned += best.scanned
        distances += best.distances
        late |= best.late
    if not found:
        return Found(np.empty((len(prefixes), 0), np.int64), 0, 0, False)
    if len(found) == 1:
        return Found(found[0], scanned, distances, late, best.walk_ms if snapshot.road else 0.0)
    order = np.argsort(-np.concatenate(scores, axis=1), axis=1, kind="stable")[:, : plan.candidates]
    return Found(np.take_along_axis(np.concatenate(found, axis=1), order, axis=1), scanned, distances, late)


def _rescore(
    snapshot: Snapshot, scorer: Scorer, addresses: Addresses, k: int, stop: float, limits: Limits
) -> _Taken:
    """Score candidates exactly, best first, in chunks, until the margin or the deadline is reached."""
    scores = np.empty(len(addresses), np.float32)
    done, cold_rows, margin = 0, 0, 0.0
    cold, late, advised = limits.cold, False, 0
    while done < len(addresses):
        patient = done and not limits.call_ns and not stop and not cold
        slow = cold and limits.call_ns  # else what is found must not depend on times
        size = len(addresses) if patient else _CHUNK_ROWS if done and not slow else _FIRST_ROWS
        chunk = addresses[done : done + size]
        began = perf_counter_ns()
        if cold and advised < done + size:
            advised = max(advised, done)
            asked = addresses[advised : advised + _ADVISED_ROWS]
            snapshot.advise(asked)
            advised += len(asked)
            if perf_counter_ns() - began > len(asked) * _ASKED_MS * 1e6:
                cold_rows += len(asked)
        scores[done : done + len(chunk)] = snapshot.rescore(scorer, chunk)
        now = perf_counter_ns()
        done += len(chunk)
        if not cold and now - began > len(chunk) * _WAITED_MS * 1e6:
            cold = True
            cold_rows += len(chunk)
        if done < k:
            continue
        if stop and done >= MARGIN_ROWS:
            margin = _margin(scores[:done], k)
            if margin >= stop:
                break
        if limits.call_ns and now > limits.call_ns and done < len(addresses):
            late = True
            break
    scores = scores[:done]
    best = np.argsort(-scores, kind="stable")[:k]
    if done >= MARGIN_ROWS and len(best) == k:
        margin = margin or _margin(scores, k)
    return _Taken(addresses[:done][best], scores[best], margin, late, done, cold_rows)


def _margin(scores: Floats, k: int) -> float:
    """Return how many standard deviations the k-th best score stands above those rescored last."""
    last = scores[-MARGIN_ROWS:].astype(np.float64)  # squares must not overflow
    kth = np.partition(scores, len(scores) - k)[len(scores) - k]
    return float((kth - last.mean()) / max(float(last.std()), 1e-12))
