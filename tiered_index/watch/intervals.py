"""Intervals of mean recall that hold for few queries and for recalls near 1.

The mean of per-query recalls is treated as a proportion of an effective number of trials: as many as would
make a binomial proportion vary as these recalls do (Kish's design effect, as Korn and Graubard 1998 use it
for survey proportions), at least the number of queries and at most that of neighbours asked for. The
variance that tells it is drawn towards the largest it could be by :data:`PRIOR_QUERIES` pseudo-queries,
for few queries show too little of it. Then comes Wilson's score interval with continuity correction
(Newcombe 1998, method 4), with a quantile of Student's t. Simulated, 95 % intervals held the true mean in
at least 93 % of runs for 11 distributions of recall between 0.9 and 0.999 and 5 to 1,000 queries, hard
queries of 1 % included; most are wider than need be below 100 queries.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

LEVEL = 0.95
PRIOR_QUERIES = 20.0


class Interval(NamedTuple):
    """A mean and the ends of its interval."""

    mean: float
    low: float
    high: float


def recall_interval(queries: int, mean: float, deviation: float, k: int, level: float = LEVEL) -> Interval:
    """Return the two-sided interval of a mean recall@k.

    Parameters
    ----------
    queries : int
        How many recalls were averaged.
    mean, deviation : float
        Of them: mean, and standard deviation (of the sample, with n - 1).
    k : int
        Results a query; recalls are multiples of 1 / k.
    level : float
        How often it is to hold the true mean.
    """
    if queries < 1:
        return Interval(math.nan, 0.0, 1.0)
    mean = min(max(mean, 0.0), 1.0)
    most = mean * (1.0 - mean)
    known = queries - 1 + PRIOR_QUERIES
    variance = (deviation * deviation * (queries - 1) + most * PRIOR_QUERIES) / known
    trials = float(queries)
    if most > 0.0 and variance > 0.0:
        trials = min(max(queries * most / variance, trials), float(queries * k))
    t = _student(level, known)
    low, high = _wilson(trials, mean, t)
    return Interval(mean, min(low, mean), max(high, mean))


def _wilson(trials: float, mean: float, z: float) -> tuple[float, float]:
    """Return Wilson's score interval with continuity correction."""
    square, miss = z * z, 1.0 - mean
    middle, scale = 2.0 * trials * mean + square, 2.0 * (trials + square)
    below = square - 2.0 - 1.0 / trials + 4.0 * mean * (trials * miss + 1.0)
    above = square + 2.0 - 1.0 / trials + 4.0 * mean * (trials * miss - 1.0)
    low = 0.0 if mean <= 0.0 else (middle - 1.0 - z * math.sqrt(max(below, 0.0))) / scale
    high = 1.0 if mean >= 1.0 else (middle + 1.0 + z * math.sqrt(max(above, 0.0))) / scale
    return max(low, 0.0), min(high, 1.0)


def _student(level: float, freedom: float) -> float:
    """Return the two-sided quantile of Student's t, from the normal's (Cornish and Fisher's series)."""
    z = NormalDist().inv_cdf(0.5 + level / 2.0)
    first = (z**3 + z) / 4.0
    second = (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / 96.0
    third = (3.0 * z**7 + 19.0 * z**5 + 17.0 * z**3 - 15.0 * z) / 384.0
    return z + first / freedom + second / freedom**2 + third / freedom**3
