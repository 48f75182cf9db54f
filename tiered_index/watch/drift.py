"""Whether live queries are still like those that calibration asked.

Three numbers of each query are compared with those of the calibration's own queries, answered exactly by
the same rows: its best score, how far the tenth stands below it, and which share of its energy the prefix
holds. Kolmogorov and Smirnov's two-sample statistic tells distributions apart at
``sqrt(-ln(a / 2) / 2) * sqrt((n + m) / (n m))``, with `a` the level of a look shared by the three.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

import msgspec
import numpy as np
from numpy.typing import NDArray

LEVEL = 1e-3
"""Chance that a look takes queries of the same kind for others. A look comes with an eighth of a window."""

LEAST = 50
"""Live queries before the first look."""

FEATURES = ("best score", "score gap", "prefix energy")

GAP_K = 10


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """One number's distribution: how far it is from calibration's, and from where on that tells.

    Attributes
    ----------
    feature : str
        Which.
    statistic, threshold : float
        Largest distance between the two distribution functions, and what chance hardly passes.
    live, calibration : float
        Medians.
    """

    feature: str
    statistic: float
    threshold: float
    live: float
    calibration: float

    @property
    def differs(self) -> bool:
        """Whether the distance passes the threshold."""
        return self.statistic > self.threshold


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """Live queries beside those of calibration.

    Attributes
    ----------
    drifted : bool
        Whether one of the numbers differs.
    queries, reference : int
        How many were compared with how many.
    source : str
        Where the calibration's came from: "given", "live" or "stored".
    compared : tuple of Compared
        Each number.
    """

    drifted: bool
    queries: int
    reference: int
    source: str
    compared: tuple[Compared, ...]


def features(
    queries: NDArray[np.float32], prefix_dim: int, scores: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Return the numbers of queries, shape (n, 3); `scores` are exact, of their best rows, if those tell."""
    energy = np.einsum("ij,ij->i", queries, queries, dtype=np.float64)
    prefix = queries[:, :prefix_dim]
    found = np.full((len(queries), len(FEATURES)), np.nan)
    found[:, 2] = np.einsum("ij,ij->i", prefix, prefix, dtype=np.float64) / np.maximum(energy, 1e-300)
    if scores is not None and scores.shape[1]:
        found[:, 0] = scores[:, 0]
        found[:, 1] = scores[:, 0] - scores[:, min(GAP_K, scores.shape[1]) - 1]
    return found


def compare(live: NDArray[np.float64], reference: NDArray[np.float64], source: str) -> Drift:
    """Compare the numbers of live queries with those of calibration's, each of shape (n, 3)."""
    compared = []
    for i, name in enumerate(FEATURES):
        ours, theirs = (column[~np.isnan(column)] for column in (live[:, i], reference[:, i]))
        if len(ours) >= LEAST and len(theirs) >= LEAST:
            compared.append(
                Compared(
                    feature=name,
                    statistic=distance(ours, theirs),
                    threshold=threshold(len(ours), len(theirs), LEVEL / len(FEATURES)),
                    live=float(np.median(ours)),
                    calibration=float(np.median(theirs)),
                )
            )
    return Drift(
        drifted=any(one.differs for one in compared),
        queries=len(live),
        reference=len(reference),
        source=source,
        compared=tuple(compared),
    )


def distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return Kolmogorov and Smirnov's two-sample statistic."""
    both = np.concatenate([a, b])
    first = np.searchsorted(np.sort(a), both, side="right") / len(a)
    second = np.searchsorted(np.sort(b), both, side="right") / len(b)
    return float(np.abs(first - second).max())


def threshold(n: int, m: int, level: float) -> float:
    """Return what the statistic passes by chance with a probability of `level`, about."""
    return math.sqrt(-math.log(level / 2.0) / 2.0) * math.sqrt((n + m) / (n * m))


class Live:
    """The numbers of the last queries; for one thread.

    Parameters
    ----------
    window : int
        How many.
    """

    def __init__(self, window: int) -> None:
        self._rows: deque[NDArray[np.float64]] = deque(maxlen=window)
        self._step = max(window // 8, 1)
        self._new = 0

    def add(self, rows: Iterable[NDArray[np.float64]]) -> None:
        """Take in queries, each of shape (3,)."""
        for row in rows:
            self._rows.append(row)
            self._new += 1

    def __len__(self) -> int:
        return len(self._rows)

    def due(self) -> bool:
        """Whether enough came since the last look."""
        return len(self._rows) >= LEAST and self._new >= self._step

    def look(self, reference: NDArray[np.float64], source: str) -> Drift:
        """Compare with calibration's."""
        self._new = 0
        return compare(np.stack(self._rows), reference, source)
