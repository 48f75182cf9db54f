"""Explaining a plan: what is predicted of it, what it beat, and what it took."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

import msgspec
import numpy as np

from tiered_index.config import Budget
from tiered_index.errors import ParameterError
from tiered_index.planner.choose import Prediction, front
from tiered_index.planner.filtered import Followed
from tiered_index.planner.plan import Plan
from tiered_index.planner.times import Times, added, quantiles
from tiered_index.planning import Planning
from tiered_index.results import SearchResult, SearchStats
from tiered_index.storage.snapshot import Snapshot
from tiered_index.validate.vectors import as_array

ALTERNATIVES = 6
"""Faster plans with less recall and slower ones with more, in all."""


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What is predicted of a plan; times in milliseconds.

    Attributes
    ----------
    plan : Plan
        The plan.
    recall, error : float
        Mean recall@k, and its standard error.
    coarse, rescore, total : Times
        Mean, p50, p95 and p99 by stage, and of the whole call.
    verdict : str
        Why it was chosen, or was not.
    """

    plan: Plan
    recall: float
    error: float
    coarse: Times
    rescore: Times
    total: Times
    verdict: str


class Actual(msgspec.Struct, frozen=True, kw_only=True):
    """What one search took.

    Attributes
    ----------
    ids : list
        What was found.
    stats : SearchStats
        Milliseconds by stage and counters.
    complete, degraded_reason, estimated_recall
        As in the result.
    recall : float or None
        Against the exact answer, where that was asked for.
    """

    ids: list[Any]
    stats: SearchStats
    complete: bool
    degraded_reason: str | None
    estimated_recall: float | None
    recall: float | None


class Follows(msgspec.Struct, frozen=True, kw_only=True):
    """What follows a walk among the rows of a filter whose best rows are not near enough.

    Attributes
    ----------
    place : int
        Which of the best is looked at, from 1.
    below : float
        Prefix score below which it follows.
    plan : Plan
        The plan.
    """

    place: int
    below: float
    plan: Plan


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a search is done as it is.

    Attributes
    ----------
    k : int
        Results a query.
    budget : Budget
        What was asked.
    plan : Plan
        What is done.
    expected : Expected or None
        What is predicted; None where nothing was measured.
    alternatives : list of Expected
        Plans that were not chosen, fastest first.
    concern : str or None
        What cannot be kept of what was asked.
    basis : str
        What predictions rest on.
    actual : Actual or None
        What the search took, if a query was given.
    matches : int or None
        How many rows match the filter, if one was given.
    selectivity : float or None
        The same as a share of all rows.
    linked : bool
        Whether they are linked among themselves; see :meth:`Index.warm`.
    sketch : int
        Bits of the sketches that order what was found, of which candidates are the best; 0 for the order of
        prefixes.
    follows : list of Follows
        What follows the plan for hard queries, the hardest last; empty where nothing does.
    """

    k: int
    budget: Budget
    plan: Plan
    expected: Expected | None
    alternatives: list[Expected]
    concern: str | None
    basis: str
    actual: Actual | None
    matches: int | None = None
    selectivity: float | None = None
    linked: bool = False
    sketch: int = 0
    follows: list[Follows] = []

    def __str__(self) -> str:
        return text(self)


def explain(
    search: Callable[..., SearchResult],
    planning: Planning,
    snapshot: Snapshot,
    query: Any,
    k: int,
    budget: Budget,
    where: Any = None,
    *,
    exact: bool,
) -> Explanation:
    """Explain what `search` does; the parameters are those of :meth:`Index.explain`."""
    if exact and query is None:
        raise ParameterError("exact=True compares answers: give a query")
    matching = None if where is None else snapshot.matching(where)
    matches, linked = (None, False) if matching is None else (matching.count, matching.linked)
    some = None if matches in (None, snapshot.rows) else max(matches, 1)
    decision = planning.decide(snapshot, k, 1, budget, {}, 0, some, linked=linked)
    chosen, others = decision.prediction, []
    chooser = planning.chooser_for(snapshot)
    if chooser is not None and chosen is not None:
        known = front(chooser.options(k, snapshot.rows), chooser.feedback.state())
        deadline_ms = decision.limits.call_ns / 1e6 or inf
        others = [_expected(one, _verdict(one, chosen, budget, deadline_ms)) for one in _near(known, chosen)]
    actual = None
    if query is not None:
        if as_array(query).ndim != 1:
            raise ParameterError(f"explain takes one query, not an array of shape {np.shape(query)}")
        actual = _actual(search, query, k, budget, where, exact=exact)
    return Explanation(
        k=k,
        budget=budget,
        plan=decision.plan,
        expected=None if chosen is None else _expected(chosen, "chosen"),
        alternatives=others,
        concern=decision.concern,
        basis=planning.basis(snapshot),
        actual=actual,
        matches=matches,
        linked=linked,
        sketch=snapshot.config.tail_sketch,
        follows=_follows(decision.followed),
        selectivity=None if matches is None else matches / max(snapshot.rows, 1),
    )


def _follows(followed: Followed | None) -> list[Follows]:
    if followed is None:
        return []
    ends = (*followed.least[1:], -inf)  # where one begins the next ends; one of no width is never done
    steps = zip(followed.plans, followed.least, ends, strict=True)
    return [
        Follows(place=followed.place, below=below, plan=plan) for plan, below, end in steps if below > end
    ]


def _actual(
    search: Callable[..., SearchResult], query: Any, k: int, budget: Budget, where: Any, *, exact: bool
) -> Actual:
    result = search(query, k, budget=budget, where=where)
    recall = None
    if exact:
        truth = search(query, k, exact=True, where=where)
        recall = float(np.isin(result.ids, truth.ids).sum() / max(len(truth.ids), 1))
    return Actual(
        ids=result.ids.tolist(),
        stats=result.stats,
        complete=result.complete,
        degraded_reason=result.degraded_reason,
        estimated_recall=result.estimated_recall,
        recall=recall,
    )


def _near(known: list[Prediction], chosen: Prediction) -> list[Prediction]:
    """Return some faster and some slower plans of the front, well apart."""
    faster = [one for one in known if one.total.mean < chosen.total.mean and one.plan != chosen.plan]
    slower = [one for one in known if one.total.mean >= chosen.total.mean and one.plan != chosen.plan]
    half = ALTERNATIVES // 2

    def spread(ones: list[Prediction], nearest: int) -> list[Prediction]:
        if len(ones) <= half:
            return ones
        return [ones[i] for i in sorted({nearest, *np.linspace(0, len(ones) - 1, half).astype(int).tolist()})]

    return spread(faster, len(faster) - 1) + spread(slower, 0)


def _verdict(one: Prediction, chosen: Prediction, budget: Budget, deadline_ms: float) -> str:
    if budget.latency_ms is not None and one.total.p99 > budget.latency_ms:
        return f"p99 {one.total.p99:.2f} ms is over the budget"
    stages_ms = added(quantiles(one.coarse), quantiles(one.rescore))[3]
    if stages_ms > deadline_ms:
        return f"p99 {stages_ms:.2f} ms of walk and rescoring is over their {deadline_ms:.2f} ms"
    if budget.min_recall is not None and one.recall < budget.min_recall:
        return "below the floor"
    if one.total.mean >= chosen.total.mean:
        return "slower" if budget.asks else "more recall, slower"
    return "less recall"


def _expected(prediction: Prediction, verdict: str) -> Expected:
    told = {name: value for name, value in prediction._asdict().items() if name != "state"}
    return Expected(**told, verdict=verdict)


def plan_words(plan: Plan) -> str:
    """Put a plan into words."""
    if plan.strategy == "exact":
        return "exact, every full vector"
    rescored = f"{plan.candidates} candidates rescored"
    if plan.misses:
        rescored = f"up to {rescored}, until {plan.misses:g} misses are expected"
    if plan.strategy == "scan":
        return f"scan on {plan.prefix_dim} dimensions, {rescored}"
    beam = f"ef {plan.ef}"
    if plan.early_stop:
        beam = f"ef up to {plan.ef}, until {plan.early_stop} rows led to nothing better"
    return f"graph on {plan.prefix_dim} dimensions, {beam}, {rescored}"


def plan_label(plan: Plan) -> str:
    """Put a plan into a table's cell."""
    if plan.strategy == "exact":
        return "exact"
    if plan.strategy == "scan":
        return f"scan d={plan.prefix_dim} C={plan.candidates}"
    if plan.early_stop:
        return f"graph d={plan.prefix_dim} ef<={plan.ef} patience={plan.early_stop}"
    return f"graph d={plan.prefix_dim} ef={plan.ef} C={plan.candidates}"


def text(explanation: Explanation) -> str:
    """Return an explanation as lines of text."""
    asked = [
        *([f"{explanation.budget.latency_ms:g} ms"] if explanation.budget.latency_ms is not None else []),
        *([f"recall {explanation.budget.min_recall:g}"] if explanation.budget.min_recall is not None else []),
    ]
    lines = [f"asked: k={explanation.k}, {' and '.join(asked) or 'no budget'}"]
    if explanation.matches is not None:
        linked = ", linked among themselves" if explanation.linked else ""
        lines.append(
            f"where: {explanation.matches:,} rows match, {explanation.selectivity:.2%} of all{linked}"
        )
    lines.append(f"plan:  {plan_words(explanation.plan)}")
    lines += [
        f"then:  {plan_words(one.plan)}, if the prefix score of #{one.place} is below {one.below:.3f}"
        for one in explanation.follows
    ]
    if explanation.sketch and explanation.plan.strategy != "exact":
        lines.append(f"order: candidates are the best by prefix and {explanation.sketch}-bit tail sketch")
    if explanation.concern:
        lines.append(f"note:  {explanation.concern}")
    if explanation.expected is not None:
        lines.append("")
        lines += _table([explanation.expected, *explanation.alternatives])
    lines += ["", f"predictions rest on: {explanation.basis}"]
    if explanation.actual is not None:
        lines += ["", *_actual_lines(explanation.actual)]
    return "\n".join(lines)


def rows_of(ones: list[Expected]) -> list[tuple[str, ...]]:
    """Return a table's cells: plan, recall, milliseconds by stage, mean and p99 in all, verdict."""
    return [
        (
            plan_label(one.plan),
            f"{one.recall:.3f}",
            f"{one.coarse.mean:.3f}",
            f"{one.rescore.mean:.3f}",
            f"{one.total.mean:.3f}",
            f"{one.total.p99:.3f}",
            one.verdict,
        )
        for one in ones
    ]


HEADER = ("plan", "recall", "coarse ms", "rescore ms", "mean ms", "p99 ms", "")


def _table(ones: list[Expected]) -> list[str]:
    rows = [HEADER, *rows_of(ones)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    return [
        "  ".join(
            cell.ljust(width) if i in (0, len(HEADER) - 1) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _actual_lines(actual: Actual) -> list[str]:
    stats = actual.stats
    lines = [
        f"took:  {stats.total_ms:.3f} ms: coarse {stats.coarse_ms:.3f}, rescoring {stats.rescore_ms:.3f}",
        f"       {stats.distances or 'uncounted'} distances, {stats.cold_rows} rows from disk",
        f"       {stats.rows_read} rows, {stats.bytes_read:,} bytes read",
    ]
    recalls = []
    if actual.estimated_recall is not None:
        recalls.append(f"estimated recall {actual.estimated_recall:.3f}")
    if actual.recall is not None:
        recalls.append(f"actual recall {actual.recall:.3f}")
    if recalls:
        lines.append(f"       {', '.join(recalls)}")
    if actual.degraded_reason:
        lines.append(f"       degraded: {actual.degraded_reason}")
    return lines
