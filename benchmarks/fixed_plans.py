"""Fixed plans: what a search by one finds and takes, and the front of many.

Plans are asked by turns, some of the queries at a time, wherever times are compared: on a machine that is
shared, one of them would else be measured while it is busy and the other while it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter, perf_counter_ns
from typing import Any, TypeVar

import msgspec
import numpy as np

import tiered_index as ti
from tiered_index.decision import Decision
from tiered_index.limits import NO_LIMITS
from tiered_index.outcome import Outcome
from tiered_index.planner.times import Times
from tiered_index.planning import Planning
from tiered_index.prepared import Prepared
from tiered_index.search import search as tier_search
from tiered_index.testing import recall_at_k
from tiered_index.validate.vectors import prepare_queries

SWEEP_EFS = (4, 8, 12, 16, 20, 24, 32, 48, 64, 80, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
SWEEP_SHARES = (1.0, 0.5)
TURNS = 5
NEAR, FAR = 1.25, 2.0
"""Plans are measured again whose first time is within these factors of the front's, at their recall and at
the one that is looked for."""

BESIDE = 8
"""So many plans are measured again for a budget."""

Point = dict[str, Any]
Search = Callable[[Any], ti.SearchResult]
T = TypeVar("T")


def timed(search: Callable[[Any], T], queries: Any) -> tuple[list[float], list[T]]:
    """Ask one query at a time; return milliseconds and results."""
    took, results = [], []
    for query in queries:
        began = perf_counter()
        results.append(search(query))
        took.append((perf_counter() - began) * 1e3)
    return took, results


def by_turns(searches: Sequence[Callable[[Any], object]], queries: Any) -> list[list[float]]:
    """Ask each of several searches all queries, a part of these at a time; return milliseconds of each."""
    took: list[list[float]] = [[] for _ in searches]
    for turn, part in enumerate(np.array_split(queries, TURNS)):
        for i in range(len(searches)):
            place = (turn + i) % len(searches)  # no one's are always the first to be asked a part
            took[place] += timed(searches[place], part)[0]
    return took


def recall(results: Sequence[ti.SearchResult], truth: Any, k: int) -> float:
    """Return mean recall@k."""
    return recall_at_k([result.ids for result in results], truth[:, :k])


def summary(took: Sequence[float]) -> dict[str, float]:
    """Return mean and quantiles of milliseconds."""
    times = Times.of(took)
    return {"mean_ms": times.mean, "p50_ms": times.p50, "p95_ms": times.p95, "p99_ms": times.p99}


def words(plan: ti.Plan) -> Point:
    """Return a plan as a dictionary."""
    return msgspec.structs.asdict(plan)


def fixed(prefix_dim: int, ef: int, candidates: int) -> ti.Plan:
    """Return a plan that spends all its effort on each query."""
    return ti.Plan(strategy="graph", prefix_dim=prefix_dim, ef=ef, candidates=candidates)


def runner(index: ti.Index, k: int, plan: ti.Plan) -> Search:
    """Return what searches by a plan that a call cannot ask for."""
    snapshot = index._current.get()
    decision = Decision(plan, NO_LIMITS, ti.Budget(), None, None)
    prepared = Prepared(snapshot, Planning(), k, decision, snapshot.scope)

    def run(query: Any) -> ti.SearchResult:
        found = prepared.search(snapshot, query, perf_counter_ns())
        if found is not None:
            return found
        started = perf_counter()
        hits = tier_search(snapshot, prepare_queries(query, index.config)[0], k, plan, started)
        addresses = hits.addresses[0]
        outcome = Outcome(decision, None, k, hits, (perf_counter() - started) * 1e3)
        return ti.SearchResult(snapshot.ids(addresses), hits.scores[0], addresses, plan, snapshot, outcome)

    return run


def measured(index: ti.Index, queries: Any, truth: Any, k: int, plan: ti.Plan) -> Point:
    """Measure one plan, alone."""
    run = runner(index, k, plan)
    run(queries[0])
    took, results = timed(run, queries)
    return {**words(plan), "recall": recall(results, truth, k), **summary(took)}


def measured_by_turns(
    index: ti.Index, queries: Any, truth: Any, k: int, plans: Sequence[ti.Plan]
) -> list[Point]:
    """Measure plans beside each other."""
    runs = [runner(index, k, plan) for plan in plans]
    found = [recall(timed(run, queries)[1], truth, k) for run in runs]
    return [
        {**words(plan), "recall": recalled, **summary(took)}
        for plan, recalled, took in zip(plans, found, by_turns(runs, queries), strict=True)
    ]


def sweep(index: ti.Index, queries: Any, truth: Any, k: int) -> list[Point]:
    """Measure fixed plans, without what choosing takes: prefix dimensions, ef and candidates of a grid."""
    width = index.config.prefix_dim
    return [
        measured(index, queries, truth, k, fixed(prefix_dim, ef, round(ef * share)))
        for prefix_dim in (width, width // 2)
        for ef in SWEEP_EFS
        for share in SWEEP_SHARES
        if round(ef * share) >= k
    ]


def best_within(points: list[Point], budget_ms: float) -> Point | None:
    """Return the point of the most recall whose 99th percentile is within a budget, or None."""
    fitting = [point for point in points if point["p99_ms"] <= budget_ms]
    return max(fitting, key=lambda point: point["recall"]) if fitting else None


def near_budget(points: list[Point], budget_ms: float) -> list[Point]:
    """Return the points that may turn out to be the best within a budget once they are measured again."""
    fitting = [point for point in points if point["p99_ms"] <= NEAR * budget_ms]
    return sorted(fitting, key=lambda point: point["recall"], reverse=True)[:BESIDE]


def time_at(points: list[Point], wanted: float) -> float | None:
    """Return the mean time at which the points' front reaches a recall, interpolated; None if never."""
    front: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda point: (point["mean_ms"], -point["recall"])):
        if not front or point["recall"] > front[-1][0]:
            front.append((point["recall"], point["mean_ms"]))
    recalls, times = zip(*front, strict=True)
    return float(np.interp(wanted, recalls, times)) if wanted <= recalls[-1] else None


def near(points: list[Point], wanted: float) -> list[Point]:
    """Return the points that may turn out to be the front's about a recall once they are measured again."""
    at = time_at(points, wanted)
    if at is None:
        return []
    fronts = [time_at(points, point["recall"]) for point in points]
    return [
        point
        for point, front in zip(points, fronts, strict=True)
        if at / FAR <= point["mean_ms"] <= at * FAR and point["mean_ms"] <= NEAR * (front or 0.0)
    ]
