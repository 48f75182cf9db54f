"""What is observed of late corrects what was measured once: a busier machine, a cold page cache."""

from __future__ import annotations

import math
from typing import NamedTuple

from tiered_index.planner.misses import Correction

STEP = 0.01
"""By how much a stage's logarithmic correction moves with each query. Only the sign of the error counts, so
that one stalled query moves it no further than any other; 70 slow queries in a row double it."""

MAX_FACTOR = 20.0
_GRAIN = 0.1
_LEAVES = 0.8
"""Corrections are used in steps of ten per cent, so that choices made before are found again; each is kept
until the correction is so many steps away, or a query in ten would wait for another choice."""

COLD_RATE = 0.1
"""Weight of the newest query in the share of rows that had to be waited for."""

_COLD_GRAIN = 0.25

DRIFT_RATE = 0.03
DRIFT_LIMIT = 0.5
"""Standard deviations of a score; without drift the running mean keeps within 0.12."""


class State(NamedTuple):
    """What corrects predictions: factors of the stages' times, the share of cold rows, and of misses."""

    coarse: float
    rescore: float
    cold_share: float
    misses: Correction | None = None


AS_MEASURED = State(1.0, 1.0, 0.0)
"""No corrections."""


class Feedback:
    """Follows the median of observed against predicted times, per stage.

    Threads may race; what is lost is one step.
    """

    def __init__(self) -> None:
        self._coarse = 0.0
        self._rescore = 0.0
        self._cold_share = 0.0
        self._misses: Correction | None = None
        self._state = AS_MEASURED

    def state(self) -> State:
        """Return the corrections, in steps."""
        return self._state

    def observe(
        self,
        predicted: tuple[float, float],
        observed: tuple[float, float],
        rows_read: int,
        cold_rows: int,
        *,
        cut: bool = False,
        then: State | None = None,
    ) -> None:
        """Take in one query.

        Parameters
        ----------
        predicted, observed : (float, float)
            Milliseconds of walk and rescoring.
        rows_read, cold_rows : int
            Rows rescored, and those of them from disk.
        cut : bool
            The deadline came first: the walk may have taken longer than was observed. The prediction
            of the rescoring is that of the rows that were read.
        then : State, optional
            Corrections that the prediction was made with; by default those of now.
        """
        if not rows_read:
            return
        now = self._state
        then = now if then is None else then
        self._cold_share += COLD_RATE * (cold_rows / rows_read - self._cold_share)
        if not cut or observed[0] > predicted[0]:
            self._coarse = _moved(self._coarse, observed[0], predicted[0] / then.coarse)
        if (cold_rows > 0) == (then.cold_share > 0.0):  # else it was another time than predicted
            self._rescore = _moved(self._rescore, observed[1], predicted[1] / then.rescore)
        cold = round(self._cold_share / _COLD_GRAIN) * _COLD_GRAIN
        coarse, rescore = _stepped(self._coarse, now.coarse), _stepped(self._rescore, now.rescore)
        self._state = State(coarse, rescore, cold, self._misses)

    def use_misses(self, correction: Correction | None) -> None:
        """Correct recalls by this from now on; see :mod:`tiered_index.planner.misses`."""
        self._misses = correction
        self._state = self._state._replace(misses=correction)


def _moved(correction: float, observed: float, predicted: float) -> float:
    if observed <= 0.0 or predicted <= 0.0:
        return correction
    error = math.log(observed / predicted) - correction
    limit = math.log(MAX_FACTOR)
    return min(max(correction + math.copysign(min(STEP, abs(error)), error), -limit), limit)


def _stepped(correction: float, before: float) -> float:
    """Return the step of a correction: the one it was on, until it is clearly nearer to another."""
    if abs(correction - math.log(before)) < _LEAVES * _GRAIN:
        return before
    return math.exp(round(correction / _GRAIN) * _GRAIN)


class Drift:
    """Follows the scores of answers: whether queries are still like those that calibration saw."""

    def __init__(self) -> None:
        self._first = 0.0
        self._last = 0.0

    def observe(self, first: float, last: float, seen: tuple[float, float, float, float]) -> None:
        """Take in the best and the k-th score of an answer, beside what calibration saw of both."""
        self._first += DRIFT_RATE * (_deviations(first, seen[0], seen[1]) - self._first)
        self._last += DRIFT_RATE * (_deviations(last, seen[2], seen[3]) - self._last)

    @property
    def drifted(self) -> bool:
        """Whether the mean of either has moved further than chance would move it."""
        return max(abs(self._first), abs(self._last)) > DRIFT_LIMIT


def _deviations(score: float, mean: float, deviation: float) -> float:
    away = (score - mean) / max(deviation, 1e-12)
    return min(max(away, -5.0), 5.0)
