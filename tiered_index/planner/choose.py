"""Choosing a plan: the most recall within a time, or the least time at a recall."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tiered_index.config import Budget
from tiered_index.planner.expect import Expectation
from tiered_index.planner.feedback import AS_MEASURED, Drift, Feedback, State
from tiered_index.planner.model import Calibration, Options, options, to_deadline
from tiered_index.planner.plan import Plan
from tiered_index.planner.times import Quantiles, Times, added

FLOOR_ERRORS = 0.5
"""Standard errors of the measured recall by which a prediction must pass the floor, so that it is kept on
queries that were not seen."""

_ROWS_GRAIN = 0.05
_KEPT = 1_024


class Prediction(NamedTuple):
    """What is expected of a plan.

    Attributes
    ----------
    plan : Plan
        The plan.
    recall, error : float
        Mean recall@k, and its standard error.
    coarse, rescore, total : Times
        By stage, and of the whole call; milliseconds.
    state : State
        What corrected these.
    """

    plan: Plan
    recall: float
    error: float
    coarse: Times
    rescore: Times
    total: Times
    state: State = AS_MEASURED


class Choice(NamedTuple):
    """A plan, and whether it is expected to keep what was asked."""

    prediction: Prediction
    budget_fits: bool
    floor_reached: bool


class Chooser:
    """Chooses among a calibration's plans; what was chosen before is looked up.

    Parameters
    ----------
    calibration : Calibration
        What was measured.
    """

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration
        self.feedback = Feedback()
        self.drift = Drift()
        self._expectations: dict[int, Expectation] = {}
        self._options: dict[tuple[int, int, float], Options] = {}
        self._choices: dict[tuple[object, ...], Choice] = {}
        self._predictions: dict[tuple[object, ...], Prediction] = {}
        self._whole: dict[tuple[int, int, float, State], tuple[Prediction | None]] = {}
        self._measured: dict[tuple[int, int], dict[Plan, float]] = {}

    def choose(self, k: int, rows: int, budget: Budget, after_ms: float = 0.0) -> Choice:
        """Choose a plan.

        Parameters
        ----------
        k : int
            Results a query.
        rows : int
            Rows the index holds.
        budget : Budget
            At least one of its parts is set. With both, the budget rules: the least time that reaches the
            floor, else the most recall that fits. Where no plan fits with 99 of 100 queries, 95 will do;
            where that is so of none either, it is the fastest.
        after_ms : float
            How long before the end of the budget the deadline of both stages is: a plan fits if one query of
            a hundred meets it.
        """
        state = self.feedback.state()
        grain = _grain(rows)
        key = (k, grain, budget.latency_ms, budget.min_recall, after_ms, state)
        found = self._choices.get(key)
        if found is None:
            if len(self._choices) >= _KEPT:
                self._choices.clear()
            found = self._choices[key] = choose(self.options(k, rows), state, budget, after_ms)
        return found

    def whole(self, k: int, rows: int, floor: float) -> Prediction | None:
        """Return the narrowest walk that reaches a floor where all of its beam is rescored, or None."""
        state = self.feedback.state()
        key = (k, _grain(rows), floor, state)
        known = self._whole.get(key)
        if known is None:
            if len(self._whole) >= _KEPT:
                self._whole.clear()
            found = options(self.calibration, k, _rows(key[1]), state.cold_share, worthwhile=False)
            sure = _recall(found, state) - FLOOR_ERRORS * found.error
            width = max((plan.prefix_dim for plan in found.plans), default=0)
            places = [
                i
                for i, plan in enumerate(found.plans)
                if (plan.strategy, plan.prefix_dim, plan.early_stop) == ("graph", width, 0.0)
                and plan.candidates == plan.ef
                and sure[i] >= floor
            ]
            best = min(places, key=lambda i: found.plans[i].ef, default=None)
            # held here too: another thread may empty the table
            known = self._whole[key] = (None if best is None else _prediction(found, best, state),)
        return known[0]

    def options(self, k: int, rows: int) -> Options:
        """Return what there is to choose among, as it was measured."""
        key = (k, _grain(rows), self.feedback.state().cold_share)
        found = self._options.get(key)
        if found is None:
            if len(self._options) >= _KEPT:
                self._options.clear()
            # of a thousand plans a few dozen are worth keeping
            found = self._options[key] = options(self.calibration, k, _rows(key[1]), key[2])
        return found

    def saw(self, k: int, first: float, last: float) -> None:
        """Take in the best and the k-th score of an answer, to see queries change."""
        self.drift.observe(first, last, self._expectation(k).scores)

    def expect(self, k: int, margin: float, prediction: Prediction, *, late: bool, drifted: bool) -> float:
        """Return the recall to expect of answers, from their mean margin."""
        known = self._expectation(k)
        plan = None if late else prediction.plan  # which is not what was done
        return known.recall(margin, prediction.recall, plan, drifted=drifted)

    def _expectation(self, k: int) -> Expectation:
        found = self._expectations.get(k)
        if found is None:
            found = self._expectations[k] = Expectation(self.calibration, k)
        return found

    def measured(self, k: int, rows: int) -> dict[Plan, float]:
        """Return the recall that calibration predicts of each plan, without what was seen of late."""
        key = (k, _grain(rows))
        known = self._measured.get(key)
        if known is None:
            if len(self._measured) >= _KEPT:
                self._measured.clear()
            found = options(self.calibration, k, _rows(key[1]), worthwhile=False)
            known = self._measured[key] = dict(zip(found.plans, found.recall.tolist(), strict=True))
        return known

    def predict(self, k: int, rows: int, plan: Plan) -> Prediction:
        """Return what is expected of any plan: as much as of the nearest one that was measured."""
        key = (k, _grain(rows), plan, self.feedback.state())
        known = self._predictions.get(key)
        if known is not None:
            return known
        found = options(
            self.calibration, k, _rows(key[1]), self.feedback.state().cold_share, worthwhile=False
        )

        def distance(i: int) -> tuple[bool, bool, float]:
            other = found.plans[i]
            return (
                other.strategy != plan.strategy or bool(other.early_stop) != bool(plan.early_stop),
                other.prefix_dim != plan.prefix_dim,
                abs(math.log(max(other.candidates, 1) / max(plan.candidates, 1)))
                + abs(math.log(max(other.ef, 1) / max(plan.ef, 1)))
                + abs(other.early_stop - plan.early_stop),
            )

        nearest = min(range(len(found.plans)), key=distance)
        if len(self._predictions) >= _KEPT:
            self._predictions.clear()
        known = _prediction(found, nearest, self.feedback.state())._replace(plan=plan)
        self._predictions[key] = known
        return known


def choose(found: Options, state: State, budget: Budget, after_ms: float = 0.0) -> Choice:
    """Choose among options; see :meth:`Chooser.choose`."""
    total, stages = totals(found, state), added(*_corrected(found, state))
    mean, high = total[:, 0], total[:, 3]
    recall = _recall(found, state)
    sure = recall - FLOOR_ERRORS * found.error
    fits = wanted = np.full(len(mean), True)
    if budget.latency_ms is not None:
        spent = [np.maximum(total[:, i], stages[:, i] + after_ms) for i in (3, 2)]
        fits, mostly = (to_deadline(found.plans, ms) <= budget.latency_ms for ms in spent)
        # one read in two dozen that calibration had to wait for is the 99th percentile of all plans
        wanted = fits if fits.any() else mostly
    reaches = np.full(len(mean), True) if budget.min_recall is None else sure >= budget.min_recall
    if budget.min_recall is not None and (wanted & reaches).any():
        best = int(np.where(wanted & reaches, mean, np.inf).argmin())
    elif wanted.any():
        best = int(np.lexsort((mean, -np.where(wanted, recall, -1.0)))[0])
    else:
        best = int(high.argmin())
    return Choice(_prediction(found, best, state), bool(fits[best]), bool(reaches[best]))


def totals(found: Options, state: State) -> Quantiles:
    """Return each option's time, corrected by what was observed of late."""
    coarse, rescore = _corrected(found, state)
    return added(coarse, rescore, found.rest)


def front(found: Options, state: State) -> list[Prediction]:
    """Return the options that no other beats in both mean time and recall, fastest first."""
    mean = totals(found, state)[:, 0]
    kept: list[int] = []
    for i in np.lexsort((-found.recall, mean)).tolist():
        if not kept or found.recall[i] > found.recall[kept[-1]]:
            kept.append(i)
    return [_prediction(found, i, state) for i in kept]


def _prediction(found: Options, i: int, state: State) -> Prediction:
    one = found.take(slice(i, i + 1))
    coarse, rescore = _corrected(one, state)
    stages = (coarse[0], rescore[0], added(coarse, rescore, one.rest)[0])
    recall = float(_recall(one, state)[0])
    coarse_ms, rescore_ms, total_ms = (Times(*stage.tolist()) for stage in stages)
    return Prediction(one.plans[0], recall, float(one.error[0]), coarse_ms, rescore_ms, total_ms, state)


def _recall(found: Options, state: State) -> NDArray[np.float64]:
    return found.recall if state.misses is None else state.misses.recall(found.plans, found.recall)


def _corrected(found: Options, state: State) -> tuple[Quantiles, Quantiles]:
    rescore = found.rescore * state.rescore
    if found.plans[-1].strategy == "exact":  # which stands last
        rescore[-1] = found.rescore[-1]
    return found.coarse * state.coarse, rescore


def _grain(rows: int) -> int:
    return round(math.log(max(rows, 1)) / _ROWS_GRAIN)


def _rows(grain: int) -> int:
    return round(math.exp(grain * _ROWS_GRAIN))
