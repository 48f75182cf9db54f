"""Which of the plans that few queries were asked of are worth asking more."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

WORTH = 1.05
"""A plan is kept if its time is within this factor of the front's at its recall: it may join the front when
measured with all queries."""

LEAST_MISS = 1e-4


def pays(recall: float, time: float, others: list[tuple[float, float]], worth: float = WORTH) -> bool:
    """Tell whether recall and time lie before the front of others: a shorter time at that recall."""
    known: list[tuple[float, float]] = []
    for point in sorted(others, key=lambda other: (-other[0], other[1])):
        if not known or point[1] < known[0][1]:
            known.insert(0, point)
    if len(known) < 2 or not known[0][0] < recall <= known[-1][0]:
        return False
    # as the model does: logarithms of times between those of misses
    misses = -np.log(np.maximum(1.0 - np.array([recall, *(r for r, _ in known)]), LEAST_MISS))
    needed = float(np.interp(misses[0], misses[1:], np.log([t for _, t in known])))
    return math.log(time * worth) < needed


def error_of(recalls: Any) -> Any:
    """Return the standard error of the mean over queries, the first axis; at least one more answer's."""
    return np.maximum(np.std(recalls, axis=0) / np.sqrt(len(recalls)), 0.5 / (len(recalls) + 2))
