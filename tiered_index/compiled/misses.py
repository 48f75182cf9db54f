"""How many of the best may be among the rows that were not read."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from tiered_index.compiled.operations import real

_SAMPLED = 32
_FAR = 5.0  # standard deviations
_SLOWEST = 0.98  # of misses in 64 rows, the share in the 64 that follow
_ROOT_HALF = math.sqrt(0.5)


@njit
def margin(kth, recent):  # type: ignore[no-untyped-def]
    """Return how many standard deviations the k-th best score stands above the last rescored."""
    mean = 0.0
    for score in recent:
        mean += score
    mean /= len(recent)
    variance = 0.0
    for score in recent:
        variance += (score - mean) ** 2
    deviation = np.sqrt(variance / len(recent))
    return (kth - mean) / max(deviation, 1e-12)


@njit
def misses(sums, count, kth, beam, first, size):  # type: ignore[no-untyped-def]
    """Return how many of ``beam[first:size]`` can be expected to score above `kth`.

    A full score is taken to lie about its regression on the prefix score as those read so far do. Of many
    rows a few dozen are looked at, evenly spaced. Fewer than three full scores tell nothing.
    """
    if count < 3:
        return np.float64(size - first)
    x, y = sums[0] / count, sums[1] / count
    xx = max(sums[2] / count - x * x, 1e-12)
    yy = max(sums[4] / count - y * y, 0.0)
    slope = min(max((sums[3] / count - x * y) / xx, 0.0), np.sqrt(yy / xx))
    spread = np.sqrt(max(yy - slope * slope * xx, 1e-12) * count / (count - 2))
    step = max((size - first) // _SAMPLED, 1)
    total = 0.0
    for i in range(first + step // 2, size, step):
        above = (kth - y - slope * (real(beam[i] >> 32) - x)) / spread
        total += 0.5 * math.erfc(above * _ROOT_HALF) * step
    return total


@njit
def misses_beyond(sums, count, kth, beam, size, beyond):  # type: ignore[no-untyped-def]
    """Return the same of `beyond` rows that found no room in a beam, whose last rows show how it goes on."""
    some = min(size // 2, 2 * _SAMPLED)
    last = misses(sums, count, kth, beam, size - some, size)
    before = misses(sums, count, kth, beam, size - 2 * some, size - some)
    if beyond <= 0 or before <= 0.0:
        return 0.0
    ratio = min(last / before, _SLOWEST)
    return min(last * ratio / (1.0 - ratio), np.float64(beyond))


@njit
def misses_by_estimates(sums, count, kth, order, first, size):  # type: ignore[no-untyped-def]
    """Return how many of the sorted ``order[first:size]`` can be expected to score above `kth`.

    A full score is taken to lie about its estimate, which is unbiased, as those of the rows read did.
    """
    spread = np.sqrt(max(sums[2] - 2.0 * sums[3] + sums[4], 1e-24) / count)
    total = 0.0
    for i in range(first, size):
        above = (kth - real(order[i] >> 32)) / spread
        if above > _FAR:
            break
        total += 0.5 * math.erfc(above * _ROOT_HALF)
    return total
