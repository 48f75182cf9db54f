"""Searches that are prepared: all that is the same for each query was done before.

Most calls of a service ask alike. What they ask is decided once, for a snapshot and for what is observed of
its times; each query then takes one compiled call. Anything else, of a query or of an answer, goes the way
of :func:`tiered_index.ask.ask`, which says what is wrong with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiered_index.by_road import enough_of
from tiered_index.compiled import FAR_FEWER_NEAR, FEWER_NEAR, NONE_NEAR
from tiered_index.compiled.answered import TooFar
from tiered_index.compiled.layout import NEARNESS, TOOK
from tiered_index.config import Budget
from tiered_index.decision import Decision
from tiered_index.outcome import Outcome
from tiered_index.planner.feedback import State
from tiered_index.planner.filtered import by_share, shares
from tiered_index.planner.plan import Plan
from tiered_index.planning import Planning
from tiered_index.results import Hits, SearchResult, SearchStats
from tiered_index.storage.linking import Linking
from tiered_index.storage.matching import Matching
from tiered_index.storage.scope import Scope
from tiered_index.storage.snapshot import Snapshot
from tiered_index.validate.vectors import prepare_queries

LEARN_AFTER_NS = 1_000_000
"""Queries that come in sooner after one that was learnt from are not: learning takes as much of Python as the
rest of a call, and leaves less of that in the caches."""

DECIDED_MS, DECIDED_CALLS = 2.0, 256
"""To decide anew takes .2 to .6 ms. What was decided for a budget below the former stands for so many calls,
whatever is observed of times: each has its deadline, and not one in a hundred is late for a decision."""

_FLOAT32 = np.dtype(np.float32)
_KEPT = 256
_TRIED, _FEW = 16, 0.25

Called = tuple[int, float | None, float | None, Budget | None, str | None, int | None, int | None, int | None]
"""k, latency_budget_ms, min_recall, budget, profile, prefix_dim, ef and candidates, as given to a search."""

Basis = tuple[int, State | None, bool]
"""What a decision rests on: the epoch of plans, what was observed of them, whether the rows are linked."""


class Prepared:
    """A search for one query at a time, as it was decided for a snapshot.

    Parameters
    ----------
    snapshot : Snapshot
        What is searched.
    planning : Planning
        What learns.
    k : int
        Results a query.
    decision : Decision
        How; deadlines are counted from the beginning of a call.
    scope : Scope
        Which rows may be found.
    """

    __slots__ = (
        "_answer",
        "_calls",
        "_decision",
        "_k",
        "_otherwise",
        "_planning",
        "_row_bytes",
        "_scope",
        "_shape",
        "_wider",
    )

    def __init__(
        self, snapshot: Snapshot, planning: Planning, k: int, decision: Decision, scope: Scope
    ) -> None:
        self._row_bytes = snapshot.row_bytes
        self._planning = planning
        self._k = k
        self._decision = decision
        self._scope = scope  # for as long as its addresses are used
        self._calls = self._otherwise = 0
        self._shape = (snapshot.config.dim,)
        self._answer: Callable[..., Any] | None = None
        self._wider: dict[int, tuple[Plan, Callable[..., Any] | None]] = {}
        plan, rows, followed = decision.plan, (snapshot.rows, scope.rows), decision.followed
        if plan.strategy == "exact":
            return
        if followed is not None:
            self._answer = self._prepared(snapshot, plan, least=followed.least[0])
            for step, wider in enumerate(followed.plans, 1):
                self._wider[step] = wider, self._prepared(snapshot, wider)
            return
        least, far = shares(plan, *rows, kept=decision.kept)
        self._answer = self._prepared(snapshot, plan, shares=(least, far))
        if least and self._answer is not None:  # the plans where fewer of the rows near a query may be found
            may_scan, linked = not decision.limits.call_ns, scope.road is not None and scope.road.linked
            for code, share in ((FEWER_NEAR, (least + far) / 2), (FAR_FEWER_NEAR, far / 2), (NONE_NEAR, 0.0)):
                wider = by_share(plan, k, share, *rows, decision.relied, may_scan=may_scan, linked=linked)
                self._wider[code] = wider, self._prepared(snapshot, wider)

    def _prepared(
        self,
        snapshot: Snapshot,
        plan: Plan,
        *,
        shares: tuple[float, float] = (0.0, 0.0),
        least: float = -math.inf,
    ) -> Callable[..., Any] | None:
        config, scope, road = snapshot.config, self._scope, self._scope.road
        followed = self._decision.followed
        k = min(self._k, scope.rows)
        if (
            road is None
            or config.dim != config.store_dim
            or not road.takes(k, plan.ef, scan=plan.strategy == "scan")
        ):
            return None
        answer: Callable[..., Any] = road.prepare(
            k,
            plan,
            self._decision.limits,
            enough_of(plan, k, scope.rows),
            unit=config.metric == "cosine",
            directions=snapshot.directions,
            shares=shares,
            place=0 if followed is None else followed.place,
            least=least,
        ).answer
        return answer

    def stands(self, then: Basis, now: Basis) -> bool:
        """Return whether to answer by what was decided on another basis."""
        latency_ms = self._decision.budget.latency_ms
        if latency_ms is None or latency_ms >= DECIDED_MS or self._calls >= DECIDED_CALLS:
            return False
        (epoch, before, linked), after = then, now[1]
        if before is None or after is None or (epoch, after, linked) != now:
            return False
        return (before.cold_share, before.misses) == (after.cold_share, after.misses)

    def _ask(self, query: NDArray[np.float32], started_ns: int) -> tuple[Plan, Any] | None:
        """Return the plan that answered, and what it found."""
        answer, plan = self._answer, self._decision.plan  # another thread may take the former away
        if answer is None:
            return None
        self._calls += 1
        found, walked = answer(query, started_ns), None
        if type(found) is TooFar and self._decision.followed is not None:
            walked = found.told
            found = int(self._decision.followed.steps(walked[NEARNESS]))
        if type(found) is int and found in self._wider:
            plan, answer = self._wider[found]
            if answer is None:
                return None
            found = answer(query, started_ns)
            if walked is not None and type(found) is tuple:
                found[3][TOOK] += walked[TOOK]
        if type(found) is int:
            self._otherwise += 1
            if self._otherwise > _TRIED and self._otherwise > _FEW * self._calls:
                self._answer = None  # most queries want another way than was decided
            return None
        return plan, found

    def search(self, snapshot: Snapshot, query: Any, started_ns: int) -> SearchResult | None:
        """Answer a query of float32; None where that takes another way.

        The snapshot, for which it was prepared, keeps this object, and not the other way round: files of an
        earlier generation are let go of with the last result of it.
        """
        if query.shape != self._shape:
            return None
        asked = self._ask(query, started_ns)
        if asked is None:
            return None
        plan, (rows, ids, scores, told) = asked
        planning = self._planning
        if planning.due():
            planning.keep(prepare_queries(query, snapshot.config)[0][0])
        if ids is None:
            ids = snapshot.ids(rows)
        total_ms = (perf_counter_ns() - started_ns) / 1e6
        hits = partial(_hits, plan, rows, scores, told, total_ms, self._row_bytes)
        outcome = Outcome(self._decision, planning.chooser, self._k, hits, total_ms)
        if planning.chooser is not None and started_ns >= planning.learn_from_ns:
            planning.learn_from_ns = started_ns + LEARN_AFTER_NS
            planning.learn(self._decision, outcome.learn)
        return SearchResult(ids, scores, rows, plan, snapshot, outcome)

    def hits(self, query: NDArray[np.float32], started_ns: int) -> Hits | None:
        """Answer a query of the right type and shape, and learn nothing of it."""
        asked = self._ask(query, started_ns)
        if asked is None:
            return None
        plan, (rows, _, scores, told) = asked
        took_ms = (perf_counter_ns() - started_ns) / 1e6
        return _hits(plan, rows, scores, told, took_ms, self._row_bytes)


def _hits(
    plan: Plan,
    rows: NDArray[np.int64],
    scores: NDArray[np.float32],
    told: NDArray[np.float64],
    total_ms: float,
    row_bytes: int,
) -> Hits:
    """Say what was found and what it took; until then a result keeps these, and no more of a search."""
    margin, missed, nearness, late, distances, rows_read, cold_rows, coarse_ns, rescore_ns = told.tolist()
    scan = plan.strategy == "scan"
    stats = SearchStats(
        total_ms=total_ms,
        coarse_ms=coarse_ns / 1e6,
        rescore_ms=rescore_ns / 1e6,
        queries=1,
        parts_walked=int(not scan),
        parts_scanned=int(scan),
        rows_read=int(rows_read),
        bytes_read=int(rows_read) * row_bytes,
        cold_rows=int(cold_rows),
        distances=int(distances),
    )
    return Hits(rows[None], scores[None], plan, stats, bool(late), margin, missed, nearness)


class PreparedSearches:
    """Finds, or makes, what is prepared for a call: a snapshot, or the rows of a filter, keep it.

    Parameters
    ----------
    planning : Planning
        What decides, and learns.
    linking : Linking
        What links the rows of filters that are asked often.
    """

    def __init__(self, planning: Planning, linking: Linking) -> None:
        self._planning = planning
        self._linking = linking

    def search(
        self, snapshot: Snapshot, query: Any, called: Called, started_ns: int, where: Any = None
    ) -> SearchResult | None:
        """Answer one query; None where that takes another way.

        Parameters
        ----------
        snapshot : Snapshot
            What is searched.
        query : ndarray, shape (dim,), float32
            Anything else takes another way.
        called : tuple
            k, latency_budget_ms, min_recall, budget, profile, prefix_dim, ef and candidates, as given.
        started_ns : int
            ``perf_counter_ns()`` when the call came in.
        where : mapping or pyarrow.compute.Expression, optional
            Which rows may be found.
        """
        if type(query) is not np.ndarray or query.dtype != _FLOAT32 or query.ndim != 1:
            return None
        given: tuple[Any, ...] = called
        k, latency_ms, min_recall, _, _, prefix_dim, ef, candidates = given
        # True and 200.0 equal, as keys, the 1 and 200 that were checked when a search was prepared
        if not (
            type(k) is int
            and (latency_ms is None or isinstance(latency_ms, float) or type(latency_ms) is int)
            and (min_recall is None or isinstance(min_recall, float) or type(min_recall) is int)
            and (prefix_dim is None or type(prefix_dim) is int)
            and (ef is None or type(ef) is int)
            and (candidates is None or type(candidates) is int)
        ):
            return None
        known, matching = snapshot.prepared, None
        if where is not None:
            matching = snapshot.matching(where)
            if matching.count == snapshot.rows:
                matching = None
            else:
                known = matching.prepared
        self._planning.catch_up()
        chooser = self._planning.chooser
        linked = matching is not None and matching.linked
        basis = self._planning.epoch, None if chooser is None else chooser.feedback.state(), linked
        try:
            found = known.get(called)
        except TypeError:  # what has no hash is no number and no budget
            return None
        if found is None or (found[0] != basis and not found[1].stands(found[0], basis)):
            scope = snapshot.scope if matching is None else matching.scope
            if scope.road is None:
                return None
            found = basis, self._prepare(snapshot, called, scope, matching)
            if len(known) >= _KEPT:
                known.clear()
            if matching is None or matching.linked == linked:  # else what was prepared keeps links that went
                known[called] = found
                if matching is not None:
                    snapshot.weigh(matching)
        searches: Prepared = found[1]
        answer = searches.search(snapshot, query, started_ns)
        if answer is not None and matching is not None and self._linking.counts(matching):
            self._linking.asked(snapshot, matching, answer.stats.coarse_ms)
        return answer

    def _prepare(
        self, snapshot: Snapshot, called: Called, scope: Scope, matching: Matching | None
    ) -> Prepared:
        k, latency_ms, min_recall, budget, profile, prefix_dim, ef, candidates = called
        asked = self._planning.asked(budget, profile, latency_ms, min_recall)
        fixed = {"prefix_dim": prefix_dim, "ef": ef, "candidates": candidates}
        matches, linked = (None, False) if matching is None else (scope.rows, matching.linked)
        decision = self._planning.decide(snapshot, k, 1, asked, fixed, 0, matches, linked=linked)
        return Prepared(snapshot, self._planning, k, decision, scope)
