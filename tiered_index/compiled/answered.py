"""What an answer found and took."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


class Answered(NamedTuple):
    """What one query found, and what it took.

    Attributes
    ----------
    rows, scores : ndarray, shape (found,)
        Best first.
    margin : float
        Standard deviations between the last result and what was rescored last; 0 if too few were.
    missed : float
        How many of the best k are expected among the candidates that were not rescored, where `few` ended it.
    late : bool
        The deadline came first.
    distances, rows_read, cold_rows : int
        Codes scored, full vectors scored, and those of them that were waited for.
    coarse_ms, rescore_ms : float
        Times of the stages.
    """

    rows: Rows
    scores: Floats
    margin: float
    missed: float
    late: bool
    distances: int
    rows_read: int
    cold_rows: int
    coarse_ms: float
    rescore_ms: float


class AnsweredMany(NamedTuple):
    """What several queries found, and what they took together.

    Attributes
    ----------
    rows, scores : ndarray, shape (n, k)
        Best first.
    found : ndarray, shape (n,)
        How many of each row are filled.
    margins, missed : ndarray, shape (n,)
        As of one query.
    late : bool
        The deadline came first for one of them.
    distances, rows_read, cold_rows : int
        In all.
    coarse_ms, rescore_ms : float
        Of each thread, on average.
    """

    rows: Rows
    scores: Floats
    found: Rows
    margins: NDArray[np.float64]
    missed: NDArray[np.float64]
    late: bool
    distances: int
    rows_read: int
    cold_rows: int
    coarse_ms: float
    rescore_ms: float
