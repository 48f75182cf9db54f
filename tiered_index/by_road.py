"""Searching compiled: both tiers of one graph in one call."""

from __future__ import annotations

import math
from time import perf_counter
from typing import Any

from tiered_index.limits import Limits
from tiered_index.machine import cores
from tiered_index.planner.plan import Plan
from tiered_index.results import Hits, SearchStats
from tiered_index.storage.scope import Scope
from tiered_index.storage.snapshot import Snapshot
from tiered_index.validate.vectors import Floats

_ENOUGH = 0.9
"""Share of the candidates that a compiled walk must have found; else FAISS walks, filtering as it goes."""


def by_road(
    snapshot: Snapshot,
    scope: Scope,
    queries: Floats,
    k: int,
    plan: Plan,
    started: float,
    limits: Limits,
    place: int = 0,
) -> Hits | None:
    """Answer one query compiled; None where that is not to be had or found too little.

    With `place`, say how near that one of the best is which the walk found.
    """
    road, scan = scope.road, plan.strategy == "scan"
    if road is None or not road.takes(k, plan.ef, scan=scan):
        return None
    prefix = snapshot.prefixes(queries, plan.prefix_dim)[0]
    found = road.answer(
        prefix,
        queries[0],
        k,
        plan.ef,
        plan.candidates,
        scan=scan,
        patience=plan.early_stop,
        few=plan.misses,
        place=place,
        walk_deadline_ns=limits.walk_ns,
        deadline_ns=limits.call_ns,
        cold=limits.cold,
    )
    if found.rows_read < enough_of(plan, k, scope.rows) and not found.late:
        return None  # deleted rows crowd this place, or the graph has parts that the walk did not reach
    return Hits(
        found.rows[None],
        found.scores[None],
        plan,
        _stats(snapshot, found, len(queries), started, scan=scan),
        late=found.late,
        margin=found.margin,
        missed=found.missed,
        nearness=found.nearness,
    )


def enough_of(plan: Plan, k: int, rows: int) -> int:
    """Return how many rows must have been read for an answer to count."""
    if plan.early_stop or plan.misses or plan.strategy == "scan":
        return k
    return max(k, math.ceil(min(plan.candidates, plan.ef, rows) * _ENOUGH))


def many_by_road(
    snapshot: Snapshot,
    scope: Scope,
    queries: Floats,
    k: int,
    plan: Plan,
    started: float,
    limits: Limits,
    place: int = 0,
) -> Hits | None:
    """Answer several queries compiled, with all cores; None where one of them found too little."""
    road, scan = scope.road, plan.strategy == "scan"
    if road is None or not road.takes(k, plan.ef, scan=scan):
        return None
    prefixes = snapshot.prefixes(queries, plan.prefix_dim)
    found = road.answer_many(
        prefixes,
        queries,
        k,
        plan.ef,
        plan.candidates,
        threads=cores(),
        scan=scan,
        patience=plan.early_stop,
        few=plan.misses,
        place=place,
        walk_deadline_ns=limits.walk_ns,
        deadline_ns=limits.call_ns,
        cold=limits.cold,
    )
    least = int(found.found.min())
    if least < k and not found.late:
        return None
    return Hits(
        found.rows[:, :least],
        found.scores[:, :least],
        plan,
        _stats(snapshot, found, len(queries), started, scan=scan),
        late=found.late,
        margin=0.0 if found.late and not found.margins.all() else float(found.margins.mean()),
        missed=found.missed,
        nearness=found.nearness,
    )


def _stats(snapshot: Snapshot, found: Any, queries: int, started: float, *, scan: bool) -> SearchStats:
    return SearchStats(
        total_ms=(perf_counter() - started) * 1e3,
        coarse_ms=found.coarse_ms,
        rescore_ms=found.rescore_ms,
        queries=queries,
        parts_walked=int(not scan),
        parts_scanned=int(scan),
        rows_read=found.rows_read,
        bytes_read=found.rows_read * snapshot.row_bytes,
        cold_rows=found.cold_rows,
        distances=found.distances,
    )
