"""Searching: candidates by prefix, then their exact scores, until the deadline."""

from __future__ import annotations

import math
from functools import reduce
from time import perf_counter
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

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

Places = NDArray[np.int64]

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
    *,
    kept: bool = False,
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
    kept : bool
        Whether a floor is to be kept, however long that takes.

    Returns
    -------
    Hits
        Of shape (n, min(k, rows)); fewer where the deadline came before so many were rescored.
    """
    scope = snapshot.scope if scope is None else scope
    if not scope.rows:
        return _nothing(len(queries), plan, started)
    wants = wants_share(plan, snapshot.rows, scope.rows, kept=kept)
    by_parts = kept and scope.road is None and any(part.tier.fields is not None for part in scope.parts)
    if by_parts and wants and len(queries) > 1:
        # through several parts FAISS walks for many queries at once, which finds less among some rows
        how = k, plan, started, limits, scope, among, followed
        alone = [search(snapshot, queries[i : i + 1], *how, kept=kept) for i in range(len(queries))]
        parts = [(np.array([i]), hits) for i, hits in enumerate(alone)]
        return _joined(parts, [hits.stats for hits in alone])
    told = scope.road is not None or by_parts
    place = 0 if followed is None or not told else followed.place
    asked = _Search(snapshot, scope, queries, k, started, limits, place)
    if followed is not None:
        return _follow(asked, plan, followed)
    # to look around for one query after the other would take the time that many have together
    looks = len(queries) == 1 or (len(queries) > 1 and not limits.call_ns)
    if not told or not looks or not wants:
        return asked.enough(plan, np.arange(len(queries)))
    return _each_by_share(asked, plan, among)


class _Search(NamedTuple):
    """What is asked, but for the plan."""

    snapshot: Snapshot
    scope: Scope
    queries: Floats
    k: int
    started: float
    limits: Limits
    place: int

    def once(self, plan: Plan, asked: Places) -> Hits:
        """Answer some of the queries."""
        queries = self.queries if len(asked) == len(self.queries) else self.queries[asked]
        rest = self.k, plan, self.started, self.limits, self.place
        return _once(self.snapshot, self.scope, queries, *rest)

    def enough(self, plan: Plan, asked: Places) -> Hits:
        """Answer some of the queries, and again where a scan read too little to be sure."""
        hits = self.once(plan, asked)
        if hits.late or hits.plan.strategy != "scan" or plan.misses == 0.0:
            return hits
        # what was asked has little to do with these rows: their prefixes tell little
        again = np.broadcast_to(hits.missed, len(asked)) > plan.misses
        if plan.candidates >= self.scope.rows or not again.any():
            return hits
        wider = min(_WIDER * plan.candidates, self.scope.rows)
        more = self.enough(msgspec.structs.replace(plan, ef=wider, candidates=wider), asked[again])
        parts = [(np.flatnonzero(~again), hits.of(~again)), (np.flatnonzero(again), more)]
        return _joined(parts, [hits.stats, more.stats])


def _follow(search: _Search, plan: Plan, followed: Followed) -> Hits:
    """Walk, and search again for the queries whose best are not near enough."""
    every = np.arange(len(search.queries))
    first = search.once(plan, every)
    steps = followed.steps(np.broadcast_to(first.nearness, len(every)))
    if first.late or not steps.any():
        return first
    parts = [(every[steps == 0], first.of(steps == 0))]
    for step, wider in enumerate(followed.plans, 1):
        asked = every[steps == step]
        if len(asked):
            parts.append((asked, search.enough(wider, asked)))
    return _joined(parts, [first.stats, *(hits.stats for _, hits in parts[1:])])


def _each_by_share(search: _Search, plan: Plan, among: Among | None) -> Hits:
    """Search for each query in the way that suits the share of the rows near it that may be found."""
    scope, found = search.scope, (search.snapshot.rows, search.scope.rows)
    may_scan = not search.limits.call_ns
    asked: dict[Plan, list[int]] = {}
    for i, prefix in enumerate(search.snapshot.prefixes(search.queries, plan.prefix_dim)):
        share = scope.share_near(prefix, found[0])
        its = by_share(plan, search.k, share, *found, among, may_scan=may_scan, linked=scope.linked)
        asked.setdefault(its, []).append(i)
    parts = [(np.array(places), search.enough(its, np.array(places))) for its, places in asked.items()]
    return _joined(parts, [hits.stats for _, hits in parts])


def _joined(parts: list[tuple[Places, Hits]], stats: list[SearchStats]) -> Hits:
    """Put answers to some queries each together, which came one after the other."""
    parts = [(asked, hits) for asked, hits in parts if len(asked)]
    took = reduce(SearchStats.added, stats)
    if len(parts) == 1:
        return parts[0][1]._replace(stats=took)
    counts = [len(asked) for asked, _ in parts]
    n, k = sum(counts), min(hits.addresses.shape[1] for _, hits in parts)
    addresses, scores = np.empty((n, k), np.int64), np.empty((n, k), np.float32)
    missed = np.empty(n)
    for asked, hits in parts:
        addresses[asked], scores[asked] = hits.addresses[:, :k], hits.scores[:, :k]
        missed[asked] = hits.missed
    return Hits(
        addresses,
        scores,
        parts[int(np.argmax(counts))][1].plan,
        msgspec.structs.replace(took, queries=n),
        late=any(hits.late for _, hits in parts),
        margin=float(np.average([hits.margin for _, hits in parts], weights=counts)),
        missed=missed,
        parts=tuple((count, hits) for count, (_, hits) in zip(counts, parts, strict=True)),
    )


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
            hits = many_by_road(snapshot, scope, queries, k, plan, started, limits, place)
        if hits is not None:
            return hits
    coarse_started = perf_counter()
    prefixes = snapshot.prefixes(queries, plan.prefix_dim)
    # a scan that reads all it keeps needs no other order
    ordering = plan.strategy != "scan" or plan.misses > 0.0 or plan.ef > plan.candidates
    sketched = snapshot.config.tail_sketch > 0 and ordering
    found = find_candidates(scope, prefixes, plan, limits, all_of_ef=sketched, place=place)
    # of what a walk did not find a plan's recall tells already
    beyond = scope.rows - found.addresses.shape[1] if found.scanned == len(scope.parts) else 0
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
        margin=0.0 if found.late or not taken else float(np.mean([one.margin for one in taken])),
        missed=np.array([one.missed for one in taken]),
        nearness=found.nearness,
    )


class Found(NamedTuple):
    """Addresses of candidates and their prefix scores, best first, and what finding them took.

    `walk_ms`: the time of the walk where one compiled walk was all there was to do, else 0. `nearness`: the
    prefix score of the one at `place` in each graph, where it is the least; inf if that was not asked.
    """

    addresses: Addresses
    scores: Floats
    scanned: int
    distances: int
    late: bool
    walk_ms: float = 0.0
    nearness: NDArray[np.float64] | float = math.inf


def find_candidates(
    scope: Scope, prefixes: Floats, plan: Plan, limits: Limits, *, all_of_ef: bool = False, place: int = 0
) -> Found:
    """Find each prefix's candidates in all parts of a scope; with `all_of_ef` all that the walks keep.

    With `place`, say how near that one of the best is which the walks found, from 1.
    """
    found, scores, scanned, distances, late = [], [], 0, 0, False
    nearness: NDArray[np.float64] | float = math.inf
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
        if place and not best.scanned:
            enough = best.scores.shape[1] >= place
            nearness = np.minimum(nearness, best.scores[:, place - 1] if enough else -math.inf)
    if not found:
        none = np.empty((len(prefixes), 0))
        return Found(none.astype(np.int64), none.astype(np.float32), 0, 0, late=False)
    if len(found) == 1:
        walk_ms = best.walk_ms if scope.road else 0.0
        return Found(found[0], scores[0], scanned, distances, late, walk_ms, nearness)
    together = np.concatenate(scores, axis=1)
    order = np.argsort(-together, axis=1, kind="stable")[:, :count]
    addresses = np.take_along_axis(np.concatenate(found, axis=1), order, axis=1)
    best_scores = np.take_along_axis(together, order, axis=1)
    return Found(addresses, best_scores, scanned, distances, late, nearness=nearness)
