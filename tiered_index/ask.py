"""Asking: one search from what is asked to what is said of the answer."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter_ns
from typing import Any

from tiered_index.config import Budget
from tiered_index.decision import Decision
from tiered_index.errors import BudgetNotMetError, ZeroVectorError
from tiered_index.exact import exact_search
from tiered_index.outcome import Outcome
from tiered_index.planning import Planning
from tiered_index.results import Hits, SearchResult
from tiered_index.search import search
from tiered_index.storage.linking import Linking
from tiered_index.storage.snapshot import Snapshot
from tiered_index.validate.vectors import prepare_queries


def ask(
    snapshot: Snapshot,
    planning: Planning,
    linking: Linking,
    query: Any,
    k: int,
    budget: Budget,
    fixed: Mapping[str, Any],
    started_ns: int,
    *,
    strict: bool,
    where: Any = None,
) -> SearchResult:
    """Plan, search, and say what became of it.

    Parameters
    ----------
    snapshot : Snapshot
        What is searched.
    planning : Planning
        Chooses, and learns.
    linking : Linking
        Links the rows of filters that are asked often.
    query : array_like, shape (dim,) or (n, dim)
        One query, or several.
    k : int
        Results a query.
    budget : Budget
        What is asked.
    fixed : mapping
        Parts of the plan that the caller fixed; None where not.
    started_ns : int
        ``perf_counter_ns()`` when the call came in.
    strict : bool
        Whether to raise rather than return less than was asked.
    where : mapping or pyarrow.compute.Expression, optional
        Which rows may be found.
    """
    queries, single = prepare_queries(query, snapshot.config)
    matching = None if where is None else snapshot.matching(where)
    if matching is not None and matching.count == snapshot.rows:
        matching = None
    matches = None if matching is None else max(matching.count, 1)
    scope = snapshot.scope if matching is None else matching.scope

    def decide(budget: Budget, fixed: Mapping[str, Any]) -> Decision:
        linked = matching is not None and matching.linked
        return planning.decide(snapshot, k, len(queries), budget, fixed, started_ns, matches, linked=linked)

    def found(decision: Decision) -> Hits:
        started = started_ns / 1e9
        plan, limits, known, followed = decision.plan, decision.limits, decision.relied, decision.followed
        how = limits, scope, known, followed
        return search(snapshot, queries, k, plan, started, *how, kept=decision.kept)

    decision = decide(budget, fixed)
    if strict and decision.concern is not None:
        raise BudgetNotMetError(decision.concern)
    if decision.plan.strategy == "exact":
        hits = exact_search(snapshot, queries, k, started_ns / 1e9, matching)
    else:
        try:
            hits = found(decision)
        except ZeroVectorError:
            if fixed.get("prefix_dim") is not None or decision.plan.prefix_dim == snapshot.config.prefix_dim:
                raise
            # a prefix that the planner chose is zero; the whole one may not be
            decision = decide(
                Budget(latency_ms=budget.latency_ms), {"prefix_dim": snapshot.config.prefix_dim}
            )
            hits = found(decision)
        if matching is not None and linking.counts(matching):
            linking.asked(snapshot, matching, hits.stats.coarse_ms)
        if single and planning.due():
            planning.keep(queries[0])
    addresses, scores = (hits.addresses[0], hits.scores[0]) if single else (hits.addresses, hits.scores)
    ids = snapshot.ids(addresses.reshape(-1)).reshape(addresses.shape)
    outcome = Outcome(decision, planning.chooser, k, hits, (perf_counter_ns() - started_ns) / 1e6)
    if len(queries) == 1:
        planning.learn(decision, outcome.learn)
    result = SearchResult(ids, scores, addresses, hits.plan, snapshot, outcome)
    if strict and result.degraded_reason is not None:
        raise BudgetNotMetError(result.degraded_reason)
    return result
