"""What to expect of a single answer."""

from __future__ import annotations

import bisect
import math

from tiered_index.planner.model import STORED_MISSES, Calibration

DRIFT_MISSES = 1.75
"""By how much misses are multiplied when the scores of late are not those that calibration saw.
Sentences missed 1.3 to 1.7 times as often as was estimated after calibration with titles."""


class Expectation:
    """The recall of single answers, from the margins they end with.

    A margin tells an easy query from a hard one, whatever plan was chosen and whatever distribution the
    query comes from: of what calibration saw with such a margin, the mean recall is expected.

    Parameters
    ----------
    calibration : Calibration
        What was measured.
    k : int
        Results a query; of the k that were measured, the nearest tells.
    """

    def __init__(self, calibration: Calibration, k: int) -> None:
        nearest = min(calibration.margins, key=lambda known: abs(math.log(known / k)))
        pairs = calibration.margins[nearest]
        self._margins = [margin for margin, _ in pairs]
        self._recalls = [recall for _, recall in pairs]
        self._worse = STORED_MISSES if calibration.source == "stored" else 1.0
        self.scores = calibration.scores[nearest]

    def recall(self, margin: float, predicted: float, *, drifted: bool) -> float:
        """Return what is expected, which is never more than `predicted` and half of what misses to 1."""
        after = bisect.bisect(self._margins, margin)
        if after in (0, len(self._margins)):
            seen = self._recalls[0 if after == 0 else -1]
        else:
            low, high = self._margins[after - 1], self._margins[after]
            first, second = self._recalls[after - 1], self._recalls[after]
            seen = first + (second - first) * (margin - low) / (high - low)
        seen = 1.0 - (1.0 - seen) * self._worse
        estimate = min(seen, predicted + 0.5 * (1.0 - predicted))
        return max(1.0 - (1.0 - estimate) * (DRIFT_MISSES if drifted else 1.0), 0.0)
