"""What an answer found and took."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


class TooFar(NamedTuple):
    """Instead of an answer: a walk whose best are not near enough.

    Attributes
    ----------
    told : ndarray of float64
        What it took, as said of an answer.
    """

    told: NDArray[np.float64]


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
    nearness : float
        Prefix score of the one of the best that was asked for, of a walk: -inf if fewer were found, inf if
        none was asked for.
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
    nearness: float
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
    margins, missed, nearness : ndarray, shape (n,)
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
    nearness: NDArray[np.float64]
    late: bool
    distances: int
    rows_read: int
    cold_rows: int
    coarse_ms: float
    rescore_ms: float
