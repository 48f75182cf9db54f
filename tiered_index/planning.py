"""From what is asked of a search to a plan, and from what happened to what is said of the answer."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiered_index.config import Budget, in_range
from tiered_index.decision import Decision
from tiered_index.errors import ParameterError
from tiered_index.limits import NO_LIMITS, Limits
from tiered_index.machine import fingerprint
from tiered_index.planner import filtered as filtering
from tiered_index.planner.choose import Chooser, Prediction
from tiered_index.planner.model import Calibration
from tiered_index.planner.plan import EXACT, MAX_K, make_plan
from tiered_index.storage.snapshot import Snapshot

LIVE_QUERIES = 512
"""How many of the queries of searches are kept, at random among all, to calibrate with."""

_AFTER_NS = 46_000
"""What may come after the last look at the clock: a few rows, their ids, and the result."""

_AFTER_MOST = 0.3
"""Or the 99th percentile that calibration saw of a call beside its stages, if that is more, up to this share
of the budget."""

_AFTER_SHARE, _AFTER_SHARE_MS = 0.04, 0.2
"""Besides, a share of the budget, up to so much: a long walk leaves little of Python in the caches."""

_AFTER_COLD_NS = 220_000
"""The same where a row may have to be waited for."""

_LONGEST_MS = 1e9
"""Later deadlines are none."""

_ROWS_CHANGED = 0.2

NO_BUDGET = Budget()


class Planning:
    """What an open index knows of its plans: the calibration, budgets by name, and queries it saw."""

    def __init__(self) -> None:
        self.chooser: Chooser | None = None
        self.epoch = 0
        """Grows with each change of what searches are decided by, but for what is observed of them."""
        self.learn_from_ns = 0
        """When a query must come in that is learnt from, on the clock of ``perf_counter_ns``."""
        self._unlearnt: Callable[[], None] | None = None
        self._budget = NO_BUDGET
        self._profiles: dict[str, Budget] = {}
        self._live: list[NDArray[np.float32]] = []
        self._seen = 0
        self._next = 1
        self._weight = 1.0

    def use(self, calibration: Calibration) -> None:
        """Choose by this calibration from now on."""
        chooser = Chooser(calibration)
        for k in calibration.ks:  # else the first searches would wait for it
            chooser.options(k, calibration.rows)
        self.chooser = chooser
        self.epoch += 1

    @property
    def budget(self) -> Budget:
        """What searches ask for that say nothing themselves."""
        return self._budget

    @budget.setter
    def budget(self, budget: Budget) -> None:
        self._budget = budget
        self.epoch += 1

    def chooser_for(self, snapshot: Snapshot) -> Chooser | None:
        """Return what chooses plans; None if another coarse tier was measured, or none."""
        chooser = self.chooser
        return (
            chooser if chooser is None or chooser.calibration.rebuilt == snapshot.manifest.rebuilt else None
        )

    @property
    def profiles(self) -> dict[str, Budget]:
        """Budgets by name."""
        return self._profiles

    @profiles.setter
    def profiles(self, profiles: Any) -> None:
        if not isinstance(profiles, Mapping):
            raise ParameterError(f"profiles are budgets by name, not {profiles!r}")
        for name, budget in profiles.items():
            if not isinstance(name, str) or not isinstance(budget, Budget):
                raise ParameterError(f"profiles are budgets by name, not {name!r}: {budget!r}")
        self._profiles = dict(profiles)
        self.epoch += 1

    def asked(
        self,
        budget: Any,
        profile: Any,
        latency_ms: float | None = None,
        min_recall: float | None = None,
    ) -> Budget:
        """Return what a call asks: its own numbers, else its budget, its profile, or the index's budget."""
        numbers = latency_ms is not None or min_recall is not None
        if budget is None and profile is None and not numbers:
            return self._budget
        if (budget is not None) + (profile is not None) + numbers > 1:
            raise ParameterError("give one of budget=, profile=, or latency_budget_ms= and min_recall=")
        if numbers:
            return Budget(latency_ms=latency_ms, min_recall=min_recall)
        if profile is not None:
            if not isinstance(profile, str) or profile not in self._profiles:
                known = ", ".join(map(repr, sorted(self._profiles))) or "none"
                raise ParameterError(f"no profile {profile!r}; there are: {known}")
            return self._profiles[profile]
        if not isinstance(budget, Budget):
            raise ParameterError(f"budget must be a Budget, not {budget!r}")
        return budget

    def decide(
        self,
        snapshot: Snapshot,
        k: int,
        queries: int,
        budget: Budget,
        fixed: Mapping[str, Any],
        started_ns: int,
        matches: int | None = None,
        *,
        linked: bool = False,
    ) -> Decision:
        """Choose how to search.

        Parameters
        ----------
        snapshot : Snapshot
            What is searched.
        k : int
            Results a query.
        queries : int
            How many share the budget.
        budget : Budget
            What is asked.
        fixed : mapping
            Parts of the plan that the caller fixed, as :func:`make_plan` takes them.
        started_ns : int
            When the call came in, on the clock of ``perf_counter_ns``.
        matches : int, optional
            How many rows match the filter, at least one; without it, there is none.
        linked : bool
            Whether those are linked among themselves.
        """
        in_range("k", k, 1, MAX_K)
        self.catch_up()
        chooser = self.chooser_for(snapshot)
        prediction, concern = None, None
        among, relies, followed = None, False, None
        fixed = {name: value for name, value in fixed.items() if value is not None}
        if fixed or not budget.asks or chooser is None:
            config = snapshot.config
            plan = make_plan(k, config.prefix_dim, sketch=config.tail_sketch, **fixed)
            if not fixed and budget.min_recall is not None and budget.latency_ms is None:
                # nothing is known of any other plan
                plan, concern = EXACT, "not calibrated: every vector is scored; see calibrate()"
            elif not fixed and budget.asks:
                concern = "not calibrated: the default plan, up to the deadline; see calibrate()"
            elif chooser is not None and plan is not EXACT:
                prediction = chooser.predict(k, snapshot.rows, plan)
                floor = budget.min_recall
                if floor is not None and prediction.recall < floor:
                    concern = f"recall {prediction.recall:.3f} is expected of the plan that was given"
        elif budget.min_recall == 1.0 and budget.latency_ms is None:
            plan = EXACT
        else:
            shared = budget
            if budget.latency_ms is not None and queries > 1:
                shared = Budget(latency_ms=budget.latency_ms / queries, min_recall=budget.min_recall)
            after_ms = 0.0
            if budget.latency_ms is not None:
                after_ms = _after_ns(budget.latency_ms, chooser) / 1e6 / queries
            choice = chooser.choose(k, snapshot.rows, shared, after_ms)
            prediction = choice.prediction
            plan = prediction.plan
            if not choice.budget_fits:
                most = prediction.total.p99 * queries
                concern = f"the plan is expected to take up to {most:.2f} ms"
            elif not choice.floor_reached:
                concern = f"recall {prediction.recall:.3f} is the most that fits the budget"
        if matches is not None and plan is not EXACT:
            # what was measured without a filter says how wide to search, and no more
            prediction = None
            one_ms = None if budget.latency_ms is None else budget.latency_ms / max(queries, 1)
            among = None if chooser is None else chooser.calibration.among
            if among is not None and linked:
                among = among.linked or among  # without links walks find no more
            floor, walk_ms = budget.min_recall, 0.0
            relies = among is not None and floor is not None and one_ms is None and not fixed
            if chooser is not None and floor is not None and relies:
                walk = chooser.whole(k, snapshot.rows, filtering.walk_floor(floor))
                plan = plan if walk is None else walk.plan
                walk_ms = math.inf if walk is None else walk.coarse.p50  # none reaches it: a scan does
            if "ef" in fixed or "candidates" in fixed:
                plan = filtering.fixed(plan, matches, linked=linked)
            else:
                without = plan
                plan = filtering.filtered(
                    plan,
                    k,
                    snapshot.rows,
                    matches,
                    floor,
                    one_ms,
                    among if relies or one_ms else None,
                    walk_ms,
                    linked=linked,
                )
                if linked and among is not None and one_ms is None:
                    kept = floor is not None
                    recall = (
                        filtering.recall_without(without, k, among)
                        if floor is None
                        else filtering.walk_floor(floor)
                    )
                    scope = snapshot.rows, matches
                    plan, followed = filtering.followed(plan, k, *scope, recall, among, without, kept=kept)
            if plan.strategy == "scan" and chooser is not None:
                concern = None  # it was that of a walk among all rows
        limits = NO_LIMITS
        if budget.latency_ms is not None or chooser is not None:
            limits = _limits(budget, prediction, chooser, queries, started_ns)
        known = among, relies, followed
        return Decision(plan, limits, budget, prediction, concern, matches, snapshot.rows, *known)

    def learn(self, decision: Decision, learnt: Callable[[], None]) -> None:
        """Learn from a search now; from one with a deadline when the next one comes in.

        That would come after the deadline: 30 us after a walk of .4 ms, 150 after one of 20, which leave
        nothing of it in the caches.
        """
        if decision.limits.call_ns:
            self._unlearnt = learnt
        else:
            learnt()

    def catch_up(self) -> None:
        """Learn from the search before, if that is left to do."""
        learnt, self._unlearnt = self._unlearnt, None
        if learnt is not None:
            learnt()

    def due(self) -> bool:
        """Count a query that was asked; return whether it is one to :meth:`keep`.

        All have the same chance. After the first ones, the next is drawn by how many it passes over, so that
        most calls cost one comparison (Li, "Reservoir-sampling algorithms of time complexity
        O(n(1 + log(N/n)))", 1994, algorithm L).
        """
        self._seen += 1
        return self._seen >= self._next

    def keep(self, query: NDArray[np.float32]) -> None:
        """Keep a query, of unit length under cosine; in the place of another, if there are enough."""
        if len(self._live) < LIVE_QUERIES:
            self._live.append(query.copy())
            self._next = self._seen + 1
            if len(self._live) < LIVE_QUERIES:
                return
            weight = 1.0
        else:
            weight = self._weight
            self._live[random.randrange(LIVE_QUERIES)] = query.copy()  # noqa: S311 - a sample, not a secret
        weight *= _chance() ** (1.0 / LIVE_QUERIES)  # not in place: other threads may be here too
        self._weight, self._next = weight, self._seen + 1 + int(math.log(_chance()) / math.log1p(-weight))

    def forget(self) -> None:
        """Keep none of the queries that were asked so far."""
        self._live, self._seen, self._next = [], 0, 1

    def live_queries(self) -> NDArray[np.float32] | None:
        """Return the queries that were kept, shape (n, store_dim); None before there are any."""
        return np.stack(self._live) if self._live else None

    def basis(self, snapshot: Snapshot) -> str:
        """Say what predictions rest on, and whether it still fits."""
        if self.chooser is None:
            return "nothing was measured; see calibrate()"
        if self.chooser_for(snapshot) is None:
            return "the coarse tier that was measured is another; calibrate() again"
        calibration = self.chooser.calibration
        kinds = {"given": "given", "live": "earlier", "stored": "stored vectors as"}
        said = f"{calibration.queries} {kinds[calibration.source]} queries, {calibration.made}"
        if calibration.source == "stored":
            said += "; real queries may miss more, which predictions allow for"
        if calibration.fingerprint != fingerprint():
            said += "; measured on another machine or version: calibrate() again"
        if self.chooser.drift.drifted:
            said += "; queries of late are unlike them: calibrate() again, with such queries"
        change = snapshot.rows / max(calibration.rows, 1) - 1.0
        if abs(change) > _ROWS_CHANGED:
            said += f"; rows have changed by {change:+.0%} since: calibrate() again"
        return said


def _chance() -> float:
    return 1.0 - random.random()  # noqa: S311 - a sample; never 0


def _after_ns(latency_ms: float, chooser: Chooser | None) -> int:
    """Return how long before the end of a budget both stages are to have ended."""
    after_ns = _AFTER_NS
    if chooser is not None:
        rests_ms = min(chooser.calibration.rest.p99, _AFTER_MOST * latency_ms)
        after_ns = max(after_ns, int(rests_ms * 1e6))
        if chooser.feedback.state().cold_share > 0.0:
            after_ns = max(after_ns, _AFTER_COLD_NS)
    return after_ns + int(min(_AFTER_SHARE * latency_ms, _AFTER_SHARE_MS) * 1e6)


def _limits(
    budget: Budget, prediction: Prediction | None, chooser: Chooser | None, queries: int, started_ns: int
) -> Limits:
    cold = chooser is not None and chooser.feedback.state().cold_share > 0.0
    if budget.latency_ms is None:
        return Limits(cold=cold)
    after_ns = _after_ns(budget.latency_ms, chooser)
    call_ns = started_ns + int(min(budget.latency_ms, _LONGEST_MS) * 1e6) - after_ns
    rescore_ms = prediction.rescore.p50 if prediction is not None else 0.0
    # no less than half for the walk: rescoring needs candidates
    walk_ms = min(max(budget.latency_ms - rescore_ms * queries, budget.latency_ms / 2), _LONGEST_MS)
    return Limits(max(started_ns + int(walk_ms * 1e6) - after_ns, 1), max(call_ns, 1), cold)
