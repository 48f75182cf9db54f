"""What is observed of late corrects what was measured once: a busier machine, a cold page cache."""

from __future__ import annotations

import math
from typing import NamedTuple

from tiered_index.planner.model import Times

STEP = 0.01
"""By how much a stage's logarithmic correction moves with each query. Only the sign of the error counts, so
that one stalled query moves it no further than any other; 70 slow queries in a row double it."""

MAX_FACTOR = 20.0
_GRAIN = 0.1
"""Corrections are used in steps of ten per cent, so that choices made before are found again."""

COLD_RATE = 0.1
"""Weight of the newest query in the share of rows that had to be waited for."""

_COLD_GRAIN = 0.25


class State(NamedTuple):
    """What corrects predictions: factors of the stages' times, and the share of cold rows."""

    coarse: float
    rescore: float
    cold_share: float


class Feedback:
    """Follows the median of observed against predicted times, per stage.

    Threads may race; what is lost is one step.
    """

    def __init__(self) -> None:
        self._coarse = 0.0
        self._rescore = 0.0
        self._cold_share = 0.0
        self._state = State(1.0, 1.0, 0.0)

    def state(self) -> State:
        """Return the corrections, in steps."""
        return self._state

    def observe(
        self,
        coarse: Times,
        rescore: Times,
        coarse_ms: float,
        rescore_ms: float,
        rows_read: int,
        cold_rows: int,
    ) -> None:
        """Take in one query. Stages were predicted with the corrections of :meth:`state`."""
        if not rows_read:
            return
        state = self._state
        self._cold_share += COLD_RATE * (cold_rows / rows_read - self._cold_share)
        self._coarse = _moved(self._coarse, coarse_ms, coarse.p50 / state.coarse)
        if (cold_rows > 0) == (state.cold_share > 0.0):  # else another time was predicted than was observed
            self._rescore = _moved(self._rescore, rescore_ms, rescore.p50 / state.rescore)
        cold = round(self._cold_share / _COLD_GRAIN) * _COLD_GRAIN
        self._state = State(_stepped(self._coarse), _stepped(self._rescore), cold)


def _moved(correction: float, observed: float, predicted: float) -> float:
    if observed <= 0.0 or predicted <= 0.0:
        return correction
    error = math.log(observed / predicted) - correction
    limit = math.log(MAX_FACTOR)
    return min(max(correction + math.copysign(min(STEP, abs(error)), error), -limit), limit)


def _stepped(correction: float) -> float:
    return math.exp(round(correction / _GRAIN) * _GRAIN)
