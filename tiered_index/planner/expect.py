"""What to expect of a single answer."""

from __future__ import annotations

import math

from tiered_index.planner.margins import at
from tiered_index.planner.model import FRACTIONS, STORED_MISSES, Calibration
from tiered_index.planner.plan import BEYOND_K, Plan

DRIFT_MISSES = 1.75
"""By how much misses are multiplied when the scores of late are not those that calibration saw.
Sentences missed 1.3 to 1.7 times as often as was estimated after calibration with titles."""

_LEAST_MISS = 1e-4


class Expectation:
    """The recall of single answers, from the margins they end with.

    A margin tells an easy query from a hard one, whatever distribution the query comes from: of what
    calibration saw with such a margin, the mean recall is expected. How much that is too much or too little
    of a plan's answers in the mean was measured too, and is made up for.

    Parameters
    ----------
    calibration : Calibration
        What was measured.
    k : int
        Results a query; of the k that were measured, the nearest tells.
    """

    def __init__(self, calibration: Calibration, k: int) -> None:
        nearest = min(calibration.margins, key=lambda known: abs(math.log(known / k)))
        self._curve = calibration.margins[nearest]
        self._worse = STORED_MISSES if calibration.source == "stored" else 1.0
        self.scores = calibration.scores[nearest]
        self._narrower = (nearest + BEYOND_K) / (k + BEYOND_K)
        self._whole = calibration.fractions != FRACTIONS  # by sketches, what a walk kept tells of its margin
        self._claims = tuple((math.log(ef), claim) for ef, claim in calibration.claims.get(nearest, ()))
        self._stopped = [one for one in calibration.stopped if one.k == nearest]

    def recall(self, margin: float, predicted: float, plan: Plan | None = None, *, drifted: bool) -> float:
        """Return what is expected.

        Parameters
        ----------
        margin : float
            That the answer ended with.
        predicted : float
            Mean recall of the plan.
        plan : Plan, optional
            What was done. Where it is not known, or nothing was measured of its margins, never more is
            expected than `predicted` and half of what misses to 1.
        drifted : bool
            Whether queries are other ones of late.
        """
        missed = 1.0 - at(self._curve, margin)
        claim = None if plan is None else self._claim(plan)
        if claim is None:
            missed = max(missed * self._worse, 0.5 * (1.0 - predicted))
        else:
            missed *= (1.0 - predicted) / max(1.0 - claim, _LEAST_MISS)
        return max(1.0 - missed * (DRIFT_MISSES if drifted else 1.0), 0.0)

    def _claim(self, plan: Plan) -> float | None:
        """Return the mean recall that margins of a plan's answers tell; None if that is not known."""
        if not plan.early_stop:
            width = max((plan.ef if self._whole else plan.candidates) * self._narrower, 1.0)
            return at(self._claims, math.log(width)) if self._claims else None
        alike = [
            (one.plan.early_stop, one.claim)
            for one in self._stopped
            if one.claim is not None
            and (one.plan.ef, one.plan.candidates, one.plan.misses) == (plan.ef, plan.candidates, plan.misses)
        ]
        return at(tuple(sorted(alike)), plan.early_stop) if alike else None
