"""Searching: candidates by prefix, then their exact scores, until the deadline."""

from __future__ import annotations

from time import perf_counter
from typing import NamedTuple

import msgspec
import numpy as np

from tiered_index.by_road import by_road, many_by_road
from tiered_index.full.rescore import Scorer
from tiered_index.limits import NO_LIMITS, Limits
from tiered_index.planner.among import Among
from tiered_index.planner.filtered import Followed, by_share, wants_share
from tiered_index.planner.plan import Plan
from tiered_index.rescoring import Addresses, Candidates, by_sketch, rescore
from tiered_index.results import Hits, SearchStats
from tiered_index.storage.scope import Scope
from tiered_index.storage.snapshot import Snapshot
from tiered_index.validate.vectors import Floats

_WIDER = 4
"""So many times the candidates are read where the first were not enough to be sure."""


def search(
    snapshot: Snapshot,
    queries: Floats,
    k: int,
    plan: Plan,
    started: float,
    limits: Limits = NO_LIMITS,
    scope: Scope | None = None,
    among: Among | None = None,
    followed: Followed | None = None,
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
    scope : Scope, optional
        Which rows may be found; all by default.
    among : Among, optional
        What was measured of filters, where the plan rests on it.
    followed : Followed, optional
        What follows a walk whose best are not near enough.

    Returns
    -------
    Hits
        Of shape (n, min(k, rows)); fewer where the deadline came before so many were rescored.
    """
    scope = snapshot.scope if scope is None else scope
    if not scope.rows:
        return _nothing(len(queries), plan, started)
    road = scope.road if len(queries) == 1 and followed is None else None
    if road is not None and wants_share(plan, snapshot.rows, scope.rows):
        prefix = snapshot.prefixes(queries, plan.prefix_dim)[0]
        share = road.share_near(prefix)
        plan = by_share(
            plan,
            k,
            share,
            snapshot.rows,
            scope.rows,
            among,
            may_scan=not limits.call_ns,
            linked=road.linked,
        )
    hits = _once(
        snapshot, scope, queries, k, plan, started, limits, 0 if followed is None else followed.place
    )
    follows = None if followed is None or hits.late else followed.after(hits.nearness)
    if follows is not None and followed is not None:
        plan, before = follows, hits.stats
        hits = _once(snapshot, scope, queries, k, plan, started, limits, followed.place)
        hits = hits._replace(stats=before.added(hits.stats))
    while hits.missed > plan.misses > 0.0 and not hits.late and plan.candidates < scope.rows:
        if hits.plan.strategy != "scan":
            break
        # what was asked has little to do with these rows: their prefixes tell little, and more must be read
        wider = min(_WIDER * plan.candidates, scope.rows)
        plan = msgspec.structs.replace(plan, ef=wider, candidates=wider)
        before, hits = hits.stats, _once(snapshot, scope, queries, k, plan, started, limits)
        hits = hits._replace(stats=before.added(hits.stats))
    return hits


def _nothing(queries: int, plan: Plan, started: float) -> Hits:
    """Return no rows of none."""
    stats = SearchStats(
        total_ms=(perf_counter() - started) * 1e3,
        coarse_ms=0.0,
        rescore_ms=0.0,
        queries=queries,
        parts_walked=0,
        parts_scanned=0,
        rows_read=0,
        bytes_read=0,
    )
    return Hits(np.empty((queries, 0), np.int64), np.empty((queries, 0), np.float32), plan, stats)


def _once(
    snapshot: Snapshot,
    scope: Scope,
    queries: Floats,
    k: int,
    plan: Plan,
    started: float,
    limits: Limits,
    place: int = 0,
) -> Hits:
    k = min(k, scope.rows)
    if len(queries) and scope.road is not None:
        if len(queries) == 1:
            hits = by_road(snapshot, scope, queries, k, plan, started, limits, place)
        else:
            hits = many_by_road(snapshot, scope, queries, k, plan, started, limits)
        if hits is not None:
            return hits
    coarse_started = perf_counter()
    prefixes = snapshot.prefixes(queries, plan.prefix_dim)
    # a scan that reads all it keeps needs no other order
    ordering = plan.strategy != "scan" or plan.misses > 0.0 or plan.ef > plan.candidates
    sketched = snapshot.config.tail_sketch > 0 and ordering
    found = find_candidates(scope, prefixes, plan, limits, all_of_ef=sketched)
    beyond = scope.rows - found.addresses.shape[1]
    ordered = [
        by_sketch(snapshot, query, addresses, scores, beyond, k, plan)
        if sketched
        else Candidates(addresses, scores)
        for query, addresses, scores in zip(queries, found.addresses, found.scores, strict=True)
    ]
    rescore_started = perf_counter()
    taken = [
        rescore(snapshot, Scorer(query, snapshot.config.dtype), candidates, beyond, k, plan, limits)
        for query, candidates in zip(queries, ordered, strict=True)
    ]
    finished = perf_counter()
    k = min((len(one.addresses) for one in taken), default=k)
    rows_read = sum(one.rows_read for one in taken)
    if found.scanned == len(scope.parts):
        plan = msgspec.structs.replace(plan, strategy="scan", early_stop=0)
    return Hits(
        np.array([one.addresses[:k] for one in taken], np.int64).reshape(len(queries), k),
        np.array([one.scores[:k] for one in taken], np.float32).reshape(len(queries), k),
        plan,
        SearchStats(
            total_ms=(finished - started) * 1e3,
            coarse_ms=(rescore_started - coarse_started) * 1e3,
            rescore_ms=(finished - rescore_started) * 1e3,
            queries=len(queries),
            parts_walked=len(scope.parts) - found.scanned,
            parts_scanned=found.scanned,
            rows_read=rows_read,
            bytes_read=rows_read * snapshot.row_bytes,
            cold_rows=sum(one.cold_rows for one in taken),
            distances=found.distances,
        ),
        late=found.late or any(one.late for one in taken),
        margin=float(np.mean([one.margin for one in taken])) if taken else 0.0,
        missed=float(np.mean([one.missed for one in taken])) if taken else 0.0,
    )


class Found(NamedTuple):
    """Addresses of candidates and their prefix scores, best first, and what finding them took.

    `walk_ms`: the time of the walk where one compiled walk was all there was to do, else 0.
    """

    addresses: Addresses
    scores: Floats
    scanned: int
    distances: int
    late: bool
    walk_ms: float = 0.0


def find_candidates(
    scope: Scope, prefixes: Floats, plan: Plan, limits: Limits, *, all_of_ef: bool = False
) -> Found:
    """Find each prefix's candidates in all parts of a scope; with `all_of_ef` all that the walks keep."""
    found, scores, scanned, distances, late = [], [], 0, 0, False
    count = max(plan.ef, plan.candidates) if all_of_ef else plan.candidates
    for part in scope.parts:
        best = part.tier.search(
            prefixes,
            plan.ef,
            min(count, part.rows),
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
        none = np.empty((len(prefixes), 0))
        return Found(none.astype(np.int64), none.astype(np.float32), 0, 0, late=False)
    if len(found) == 1:
        walk_ms = best.walk_ms if scope.road else 0.0
        return Found(found[0], scores[0], scanned, distances, late, walk_ms)
    together = np.concatenate(scores, axis=1)
    order = np.argsort(-together, axis=1, kind="stable")[:, :count]
    addresses = np.take_along_axis(np.concatenate(found, axis=1), order, axis=1)
    return Found(addresses, np.take_along_axis(together, order, axis=1), scanned, distances, late)
