"""How sure a mean over queries is, and whether one prefix stands out among shuffled ones."""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from tiered_index.blas import product

RESAMPLES = 1_000
"""Of the bootstrap; the ends of its intervals then move by a few per cent of their width."""

STUDENT = {4: 3.182, 8: 2.365}
"""Student's t for 95 %, by how many shuffles there are: of one degree of freedom less."""

_NORMAL = 1.96
_SEED = 95


class Estimate(msgspec.Struct, frozen=True):
    """A figure and its interval of 95 %.

    Attributes
    ----------
    value, low, high : float
        Mean over the queries, and the ends of the interval.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


class Bootstrap:
    """Draws queries with replacement: always the same draws, so that differences are paired.

    Percentile intervals (Efron, 1979). Queries are drawn and not results, since the k results of a query
    stand or fall together. Where no query missed anything, the interval has no width.

    Parameters
    ----------
    queries : int
        How many there are.
    """

    def __init__(self, queries: int) -> None:
        random = np.random.default_rng(_SEED)
        self._weights = random.multinomial(queries, np.full(queries, 1 / queries), RESAMPLES) / queries

    def mean(self, values: NDArray[np.float64]) -> Estimate:
        """Estimate the mean of one value a query, shape (queries,)."""
        return _estimate(float(values.mean()), product(self._weights, values))

    def ratio(self, above: NDArray[np.float64], below: NDArray[np.float64]) -> Estimate:
        """Estimate the ratio of two means; 1 where the one below is 0."""
        means = product(self._weights, below)
        ratios = np.divide(product(self._weights, above), means, out=np.ones_like(means), where=means > 0)
        whole = float(below.mean())
        return _estimate(float(above.mean()) / whole if whole > 0 else 1.0, ratios)


def stands_out(one: NDArray[np.float64], others: NDArray[np.float64], boot: Bootstrap) -> Estimate:
    """Estimate how far one prefix lies above others that were drawn at random.

    Were it drawn like them, it would differ from their mean by their own spread times sqrt(1 + 1/n), and it
    is that which the interval allows for, beside the choice of queries: it is one for *a new draw*
    (Student's t), wider than the one for the mean.

    Parameters
    ----------
    one : ndarray, shape (queries,)
        Of the one.
    others : ndarray, shape (n, queries)
        Of the others; n is a key of :data:`STUDENT`.
    boot : Bootstrap
        Draws the queries.
    """
    n = len(others)
    paired = boot.mean(one - others.mean(axis=0))
    spread = float(others.mean(axis=1).std(ddof=1)) * math.sqrt(1 + 1 / n)
    by_queries = (paired.high - paired.low) / 2 / _NORMAL
    half = math.hypot(STUDENT[n] * spread, _NORMAL * by_queries)
    return Estimate(paired.value, paired.value - half, paired.value + half)


def _estimate(value: float, draws: NDArray[np.float64]) -> Estimate:
    low, high = np.percentile(draws, [2.5, 97.5])
    return Estimate(value, min(float(low), value), max(float(high), value))
