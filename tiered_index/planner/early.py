"""Measuring plans that stop early, beside walks that spend all their effort."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tiered_index.planner.margins import Pairs
from tiered_index.planner.model import Stopped, Walked
from tiered_index.planner.plan import BEYOND_K, Plan
from tiered_index.planner.subject import Observed, Subject
from tiered_index.planner.times import Reading, Times
from tiered_index.planner.work import beside
from tiered_index.planner.worth import WORTH, error_of, pays

STOPS = (4, 6, 9, 13, 18, 25, 35, 50)
STOP_WIDTHS = (3, 5, 8, 14)
"""Beams of plans that stop early, in units of k and a dozen, which is what they watch."""

STOP_MISSES = (0.01, 0.03)
"""Share of the best k that may be expected among what they do not read, where prefixes order candidates."""

STOP_READS = (1.25, 1.6, 2.2, 3.2)
"""Rows they read for each result, where sketches put them in order."""

FIRST_STOP_QUERIES = 96
"""Queries that decide which of them are worth measuring with all: what fewer need stays in the caches, and
they would seem fast."""


def early_stops(
    subject: Subject, k: int, walked: list[Walked], hot: Reading, rest: Times, queries: int
) -> tuple[list[Stopped], dict[Plan, Pairs]]:
    """Measure plans that stop early for one k, and pairs of final margin and recall of these and of walks."""
    pairs: dict[Plan, Pairs] = {}
    graph = [walk for walk in walked if walk.strategy == "graph" and walk.prefix_dim == subject.width]
    if not graph:
        return [], _scanned(subject, k, queries)

    def ms(coarse: Times, rescore_ms: float) -> float:
        return coarse.mean + rescore_ms + rest.mean

    fixed = [
        (recall, ms(walk.coarse, float(hot.of(round(walk.ef * fraction))[0])))
        for walk in graph
        if walk.ef >= k
        for recall, fraction in zip(walk.recall[k], subject.fractions, strict=True)
        if recall >= 0.0
    ]
    kept = []
    if subject.stops_early:
        first = min(FIRST_STOP_QUERIES, queries)
        tried = beside(graph, [_stop(subject, k, plan, first)[0] for plan in _stop_plans(subject, k)])
        points = [(seen.recall, ms(seen.coarse, seen.rescore.mean)) for seen in tried]
        front, measured = fixed + points, []
        for seen, (recall, time) in zip(tried, points, strict=True):
            if not any(r >= recall and t * WORTH < time for r, t in front):
                one, pairs[seen.plan] = _stop(subject, k, seen.plan, queries)
                measured.append(one)
        kept = [
            seen
            for seen in beside(graph, measured)
            if pays(seen.recall, ms(seen.coarse, seen.rescore.mean), fixed, worth=1.0)
        ]
    for walk in graph:
        if k <= walk.ef <= 25 * (k + BEYOND_K):
            plan = Plan(strategy="graph", prefix_dim=subject.width, ef=walk.ef, candidates=walk.ef)
            pairs[plan] = _margins_of(subject, k, plan, min(queries, 100))
    return kept, pairs or _scanned(subject, k, queries)


def _stop_plans(subject: Subject, k: int) -> Iterator[Plan]:
    for width in STOP_WIDTHS:
        ef = width * (k + BEYOND_K)
        if ef <= subject.widest_walk:
            ends = [(ef, each * k) for each in STOP_MISSES]
            if subject.sketched:
                ends = [(read, 0.0) for read in sorted({min(round(k * each), ef) for each in STOP_READS})]
            for candidates, misses in ends:
                for stop in STOPS:
                    yield Plan(
                        strategy="graph",
                        prefix_dim=subject.width,
                        ef=ef,
                        candidates=candidates,
                        early_stop=stop,
                        misses=misses,
                    )


def _stop(subject: Subject, k: int, plan: Plan, queries: int) -> tuple[Stopped, Pairs]:
    subject.search(0, k, plan)
    seen = [subject.search(query, k, plan) for query in range(queries)]
    recalls = [_recall(subject, query, one, k) for query, one in enumerate(seen)]
    stopped = Stopped(
        k,
        plan,
        float(np.mean(recalls)),
        float(error_of(recalls)),
        Times.of([one.coarse_ms for one in seen]),
        Times.of([one.rescore_ms for one in seen]),
        Times.of([one.total_ms for one in seen]),
        float(np.mean([one.rows_read for one in seen])),
        codes=float(np.mean([one.codes for one in seen])),
    )
    return stopped, [(one.margin, recall) for one, recall in zip(seen, recalls, strict=True)]


def _recall(subject: Subject, query: int, seen: Observed, k: int) -> float:
    return float(np.isin(subject.truth[query, :k], seen.rows[:k]).mean())


def _scanned(subject: Subject, k: int, queries: int) -> dict[Plan, Pairs]:
    size = min(2 * k, subject.rows)
    plan = Plan(strategy="scan", prefix_dim=subject.width, ef=size, candidates=size)
    return {plan: _margins_of(subject, k, plan, queries)}


def _margins_of(subject: Subject, k: int, plan: Plan, queries: int) -> Pairs:
    seen = [subject.search(query, k, plan) for query in range(queries)]
    return [(one.margin, _recall(subject, query, one, k)) for query, one in enumerate(seen)]
