"""From a plan for all rows to one for those that match a filter.

Measured on 250,000 sentences (titles as queries, 256 of 1,024 dimensions, 48 links a row, two AVX-512 cores)
with eleven filters, of categories, months and at random: scoring every matching prefix takes 10 to 14 ns a
row and misses nothing, a walk among matching rows 1.5 to 2 times what one among all rows takes, and it
misses the more, the less the filter has to do with the query. Where a recall is asked, calibration says how
much wider a walk must be for it (:mod:`tiered_index.planner.among`); these numbers are for where nothing is
asked, or nothing was measured.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from tiered_index.planner.among import DENSE, FAR, NEAR, OF_FEW, OF_MANY, Among, Kind
from tiered_index.planner.nearness import WIDER, WIDEST, steps_for
from tiered_index.planner.plan import BEYOND_K, MAX_EF, Plan

EXACT_ROWS = 128
"""So few matching rows are all scored by their full vectors."""

SCAN_ROWS_PER_EF = 135
DENSE_SCAN_ROWS_PER_EF = 100
"""Up to so many matching rows for each unit of ef are scanned, the fewer where half of all rows match and
more: that takes no longer than the walk would."""

WALK_COST = 2.0
"""A walk among matching rows takes at most so many times as long as one among all."""

LINKED_SCAN_ROWS_PER_EF = 30
LINKED_WALK_COST = 1.0
"""The same where rows are linked among themselves, to fewer others than rows are in the graph: walks of
ef=128 took 148 to 181 us under seven filters of a million rows, and 215 among all (no AVX-512)."""

MAX_SCAN_ROWS_PER_EF = 2_500
"""Where few of the rows near the query match, a walk misses much, and so many are scanned."""

WALK_MISSES = 0.8
"""Of what a floor lets be missed, the share that the walk may miss; the rest are candidates not rescored."""

MISSES = 0.02
"""Of each result, what may be expected to be missed among candidates that are not rescored."""

MISSES_SEEN = 2.5
"""Times as many rows were missed under filters as were expected: scores are not quite normal."""

_WIDER_LINKED = 1.25
"""By links a walk of ef=128 finds .885 to .953, and with 1.3 times the beam .897 to .966, under seven filters
of a million rows."""

_FIRST = 1.65
"""Times as wide as a walk among all rows is one that others may follow, where no floor says how wide it is.
With 1.5 to 1.75 medians under the three hardest topics of 250,000 and of a million rows were 1.1 to 1.4 times
those without a filter; with 1.25 another walk followed for half of the queries; with 2 all took longer."""

_MISSED, _MISSED_KEPT = 1.0, 0.85
_MOST_MISSED, _MOST_MISSED_KEPT = 2.0, 1.25
"""Shares of what walks may miss that are to be missed on average over queries and filters as were measured,
and at most of any query; the latter numbers where a floor is to be kept, whatever the filter."""

_SCANNED_CANDIDATES = 512
_CANDIDATES_PER_K = 8
_WIDER = 1.5
"""A walk among less than half of the rows takes a wider beam for the same recall: with it 0.94 to 0.98 of the
best ten were found where the query is near, and with `_WIDER_FAR` times that 0.93 to 0.97 where it is apart;
where it is far 0.81 to 0.94, under nine filters. By links a walk finds as much as among all rows: at ef=128
0.965 to 0.98 where the query is near, 0.935 to 0.97 with `_WIDER_APART_LINKED` times that where it is apart,
and with `_WIDEST` times 0.935 to 0.99 where it is far, under eight."""

_ROWS_KNOWN = 250_000
_GROWTH, _DENSE_GROWTH = 0.38, 0.2
"""Where nothing is asked the same effort finds less of more rows, and of those that match among them: of a
million recall@10 was 0.958 without a filter and 0.93 to 0.945 with one, of 250,000 0.974 and 0.953. So the
beam is wider by this power of the rows beyond those, the latter where half of all match and by links, less
so the nearer that is to all. With a floor the beam is that of a plan that was measured."""

_WIDER_FAR, _WIDER_APART_LINKED = 4 / 3, 1.2
_WIDEST = 4.0

_ENOUGH = 0.01
"""So much less than others a walk may find for it to find as much."""

_SCAN_MS_PER_ROW = 2e-5
_BUDGET_SHARE = 0.5


class Followed(NamedTuple):
    """Walks that follow one whose best are not near enough.

    Attributes
    ----------
    place : int
        Which of the best is looked at, from 1.
    least : (float, float, float)
        Its prefix scores below which each plan follows; not ascending.
    plans : (Plan, Plan, Plan)
        What follows for a hard query, for one that is harder, and for one that is harder still.
    """

    place: int
    least: tuple[float, float, float]
    plans: tuple[Plan, Plan, Plan]

    def steps(self, nearness: float | NDArray[np.float64]) -> NDArray[np.int64]:
        """Return of walks which plan follows, from 1; 0 where the answer will do."""
        below = np.asarray(nearness)[..., None] < np.array(self.least)
        return np.asarray(below.sum(axis=-1))


def walk_floor(floor: float) -> float:
    """Return the recall that a walk among matching rows is to reach, for a floor of the answer's."""
    return 1.0 - WALK_MISSES * (1.0 - floor)


def filtered(
    plan: Plan,
    k: int,
    rows: int,
    matches: int,
    floor: float | None,
    latency_ms: float | None,
    known: Among | None = None,
    walk_ms: float = 0.0,
    *,
    linked: bool = False,
) -> Plan:
    """Return the plan for k results among matching rows.

    Parameters
    ----------
    plan : Plan
        For all rows: not "exact". With a floor and `known` one that rescores all of ef, and is expected to
        reach :func:`walk_floor`.
    k : int
        Results a query.
    rows, matches : int
        Rows of the index, and those that match; at least one.
    floor : float or None
        Of the recall.
    latency_ms : float or None
        Budget of one query.
    known : Among, optional
        What was measured.
    walk_ms : float
        With it, the time of the plan's walk among all rows.
    linked : bool
        Whether matching rows are linked among themselves; `known` then is of such walks.
    """
    if matches <= max(EXACT_ROWS, k):
        return Plan(strategy="scan", prefix_dim=plan.prefix_dim, ef=matches, candidates=matches)
    misses = k * (MISSES if floor is None else max((1.0 - floor) / 2, 0.001))
    dense = matches >= DENSE * rows
    wider = _WIDER_LINKED if linked else 1.0 if dense else _WIDER
    if floor is None:
        growth = _GROWTH
        if dense or linked:
            growth = _DENSE_GROWTH * min((1.0 - matches / rows) / (1.0 - DENSE), 1.0)
        wider *= max(rows / _ROWS_KNOWN, 1.0) ** growth
    elif known is not None:
        wider = known.wider(_kind(known, 0, dense=dense), walk_floor(floor)) or wider
        misses = k * max((1.0 - WALK_MISSES) * (1.0 - floor), 0.0002) / MISSES_SEEN
    ef = int(wider * plan.ef)
    scans = matches <= _scan_rows_per_ef(linked=linked, dense=dense) * ef
    if latency_ms is not None:  # which a walk of plan.ef among all rows would fill
        slower, scan_ms = LINKED_WALK_COST if linked else WALK_COST, _SCAN_MS_PER_ROW
        if known is not None:
            slower, scan_ms = known.slower, known.scan_ms
        ef = max(int(plan.ef / slower), k)
        scans = matches * scan_ms <= _BUDGET_SHARE * latency_ms
    elif floor is not None and known is not None:
        scans = matches * known.scan_ms <= wider * known.slower * walk_ms
    if scans:
        candidates = min(max(_SCANNED_CANDIDATES, _CANDIDATES_PER_K * k, plan.candidates), matches)
        return Plan(
            strategy="scan", prefix_dim=plan.prefix_dim, ef=candidates, candidates=candidates, misses=misses
        )
    ef = min(ef, matches, MAX_EF)
    return Plan(strategy="graph", prefix_dim=plan.prefix_dim, ef=ef, candidates=ef, misses=misses)


def _scan_rows_per_ef(*, linked: bool, dense: bool) -> int:
    if linked:
        return LINKED_SCAN_ROWS_PER_EF
    return DENSE_SCAN_ROWS_PER_EF if dense else SCAN_ROWS_PER_EF


def wants_share(plan: Plan, rows: int, matches: int, *, kept: bool = False) -> bool:
    """Return whether :func:`by_share` may change a plan; with `kept` a floor is to be kept.

    Where most rows match few queries have to do with the others, and only a floor is worth a look.
    """
    most = rows if kept else DENSE * rows
    return plan.strategy == "graph" and plan.misses > 0.0 and matches < most


def shares(plan: Plan, rows: int, matches: int, *, kept: bool = False) -> tuple[float, float]:
    """Return the least shares of the rows near a query with which :func:`by_share` leaves a plan as it is.

    And with which it only widens the walk; both 0 where shares do not matter.
    """
    if not wants_share(plan, rows, matches, kept=kept):
        return 0.0, 0.0
    return NEAR * matches / rows, FAR * matches / rows


def by_share(
    plan: Plan,
    k: int,
    share: float,
    rows: int,
    matches: int,
    known: Among | None = None,
    *,
    may_scan: bool,
    linked: bool = False,
) -> Plan:
    """Return what is best for one query, by the share of the rows near it that match.

    Parameters
    ----------
    plan : Plan
        To walk among matching rows, from :func:`filtered`.
    k : int
        Results a query.
    share : float
        Of the rows near the query, from 0 to 1.
    rows, matches : int
        Rows of the index, and those that match.
    known : Among, optional
        What was measured, where the plan rests on it.
    may_scan : bool
        Nothing needs to end before a deadline, which a scan would not do.
    linked : bool
        Whether matching rows are linked among themselves: a wider walk then is little work.
    """
    ratio = share * rows / matches
    if ratio >= NEAR:
        return plan
    dense = matches >= DENSE * rows
    wider = _wider(plan, k, 1, known, dense=dense) or (_WIDER_APART_LINKED if linked else _WIDER_FAR)
    if ratio < FAR:
        wider = _wider(plan, k, 2, known, dense=dense) or _WIDEST
        most: float = MAX_SCAN_ROWS_PER_EF
        if dense and known is not None and _finds(plan, k, wider, known):
            most = DENSE_SCAN_ROWS_PER_EF * wider
        elif linked and share > 0.0:
            # a walk by links finds them, unless the query has nothing to do with any
            most = LINKED_SCAN_ROWS_PER_EF * wider
        if may_scan and matches <= most * plan.ef:
            candidates = max(plan.candidates, _SCANNED_CANDIDATES)
            return msgspec.structs.replace(plan, strategy="scan", ef=candidates, candidates=candidates)
    return _as_wide(plan, int(plan.ef * wider), matches)


def followed(
    plan: Plan,
    k: int,
    rows: int,
    matches: int,
    recall: float,
    known: Among | None,
    without: Plan,
    *,
    kept: bool,
) -> tuple[Plan, Followed | None]:
    """Return the walk to begin with, and what follows it; None where nothing was measured.

    Parameters
    ----------
    plan : Plan
        To walk among matching rows that are linked, from :func:`filtered`, without a latency budget.
    k : int
        Results a query.
    rows, matches : int
        Rows of the index, and those that match.
    recall : float
        That the walks are to reach.
    known : Among, optional
        What was measured.
    without : Plan
        To walk among all rows.
    kept : bool
        Whether `recall` is to be reached under any filter, rather than under those that were measured.
    """
    near = None if known is None else known.nearness
    if known is None or near is None or not wants_share(plan, rows, matches):
        return plan, None
    candidates = min(max(plan.candidates, _SCANNED_CANDIDATES), matches)
    scanned = msgspec.structs.replace(
        plan, strategy="scan", ef=candidates, candidates=candidates, misses=plan.misses / 2
    )
    mean, most = (_MISSED_KEPT, _MOST_MISSED_KEPT) if kept else (_MISSED, _MOST_MISSED)
    if kept:  # and if the filter is as the worst of those that were measured
        mean, most = min(mean, 1.0 / near.worst), min(most, most / mean / near.worst)
    beam = max(plan.ef if kept else int(_FIRST * without.ef), near.k)
    while True:
        first = _as_wide(plan, beam, matches)
        ef, scan = (_measured_ef(width, k, known) for width in (first.ef, matches / LINKED_SCAN_ROWS_PER_EF))
        steps = steps_for(near, ef, scan, mean * (1.0 - recall), most * (1.0 - recall), kept=kept)
        if steps.wider < math.inf:
            break
        # every query that was measured wants more: to begin with less is in vain
        if steps.scan == math.inf or first.ef < beam:
            return scanned, None
        beam = WIDER * first.ef
    wider, widest = (_as_wide(plan, times * first.ef, matches) for times in (WIDER, WIDEST))
    return first, Followed(near.k, steps, (wider, widest, scanned))


def _as_wide(plan: Plan, ef: int, matches: int) -> Plan:
    ef = min(ef, matches, MAX_EF)
    return msgspec.structs.replace(plan, ef=ef, candidates=ef)


def _kind(known: Among, step: int, *, dense: bool) -> Kind:
    """Return the kind of walks where the query is near what matches, or one or two steps further from it."""
    kind = OF_MANY[step]
    if dense and kind not in known.kinds:  # among fewer rows no more is found
        kind = ("dense", *OF_FEW[1:])[step]
    return kind if dense else OF_FEW[step]


def _wider(plan: Plan, k: int, step: int, known: Among | None, *, dense: bool) -> float | None:
    """Return times as wide a beam as the plan's has the recall that its has where the query is near."""
    near = None if known is None else _kind(known, 0, dense=dense)
    if known is None or near is None or near not in known.kinds:
        return None
    narrowest = known.kinds[near][0][0]
    recall = known.recall(near, max(_measured_ef(plan.ef, k, known), narrowest)) or 0.0
    without, other = known.wider(near, recall), known.wider(_kind(known, step, dense=dense), recall)
    return None if without is None or other is None else max(other / without, 1.0)


def _finds(plan: Plan, k: int, wider: float, known: Among) -> bool:
    """Return whether so much wider a walk among many rows, few of them near, finds what others do.

    Where such queries were hardly met, they are few, and nothing speaks against it.
    """
    if OF_MANY[2] not in known.kinds:
        return True
    found = known.recall(OF_MANY[2], _measured_ef(wider * plan.ef, k, known)) or 0.0
    return (
        found >= (known.recall(_kind(known, 0, dense=True), _measured_ef(plan.ef, k, known)) or 1.0) - _ENOUGH
    )


def _measured_ef(ef: float, k: int, known: Among) -> float:
    """Return the beam that does for the k that was measured what `ef` does for another."""
    return ef * (known.k + BEYOND_K) / (k + BEYOND_K)


def expected(
    plan: Plan, done: Plan, k: int, rows: int, matches: int, known: Among, relied: Among | None
) -> float | None:
    """Return the recall to expect of a walk among matching rows, if all of its candidates are rescored.

    Parameters
    ----------
    plan, done : Plan
        From :func:`filtered`, and what :func:`by_share` made of it.
    k, rows, matches
        As given to them.
    known, relied : Among
        What was measured, and what the plan rests on.
    """
    dense = matches >= DENSE * rows
    kind: Kind = "dense" if dense and relied is None else _kind(known, 0, dense=dense)
    if done.ef > plan.ef:
        apart = by_share(plan, k, FAR * matches / rows, rows, matches, relied, may_scan=False)
        kind = _kind(known, 1 if done.ef <= apart.ef else 2, dense=dense)
    return known.recall(kind, _measured_ef(done.ef, k, known))


def recall_without(plan: Plan, k: int, known: Among) -> float:
    """Return the recall of a plan's walk among all rows."""
    return known.everywhere_at(_measured_ef(plan.ef, k, known))


def expected_when_near(
    done: Plan, k: int, nearness: float | NDArray[np.float64], known: Among
) -> float | None:
    """Return the recall to expect of walks by links whose best are so near; None if that is not known."""
    if known.nearness is None or np.any(np.asarray(nearness) == math.inf):
        return None
    return 1.0 - float(known.nearness.missed(_measured_ef(done.ef, k, known), nearness).mean())


def fixed(plan: Plan, matches: int, *, linked: bool = False) -> Plan:
    """Return a plan that the caller chose, for matching rows: its numbers stay, the way is chosen."""
    candidates, ef = min(plan.candidates, matches), min(plan.ef, matches)
    scans = matches <= _scan_rows_per_ef(linked=linked, dense=False) * ef
    return msgspec.structs.replace(plan, strategy="scan" if scans else "graph", ef=ef, candidates=candidates)
