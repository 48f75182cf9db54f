"""Exact answers without haste: in pieces, on one core, between which others run."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numkong
import numpy as np
from numpy.typing import NDArray

from tiered_index.exact import blocks
from tiered_index.storage.matching import Matching
from tiered_index.storage.snapshot import Snapshot
from tiered_index.validate.vectors import Floats

PIECE_ROWS = 8_192
PIECE_PRODUCTS = 1 << 18
"""Rows, and scores, between two looks at the clock. NumKong multiplied 32 queries of 1,024 dimensions by
8,192 rows in about 10 ms: on the calling thread, without Python's lock, and summing in float64, where BLAS
starts threads of its own and holds the lock that forks wait for."""

_TOLERANCE = 2e-6
"""Scores this close, relatively, are the same: the tiers round differently."""


class Truth(NamedTuple):
    """Best addresses and scores of each query, best first, shape (n, k)."""

    addresses: NDArray[np.int64]
    scores: NDArray[np.float64]


def exact_answers(
    snapshot: Snapshot, queries: Floats, k: int, matching: Matching | None, pause: Callable[[], bool]
) -> Truth | None:
    """Return the exact best k rows of each query, or None where `pause` said to stop.

    Parameters
    ----------
    snapshot : Snapshot
        What is searched.
    queries : ndarray, shape (n, store_dim), float32
        As :func:`tiered_index.validate.vectors.prepare_queries` returns them.
    k : int
        Results a query; fewer come back where fewer rows may be found.
    matching : Matching, optional
        Which rows may be found.
    pause : callable
        Called after each piece; sleeps as it likes, and returns False to end.
    """
    addresses = np.empty((len(queries), 0), np.int64)
    scores = np.empty((len(queries), 0), np.float64)
    step = min(PIECE_ROWS, max(PIECE_PRODUCTS // max(len(queries), 1), 1))
    packed = numkong.dots_pack(np.ascontiguousarray(queries))
    for rows, vectors, norms in blocks(snapshot, matching):
        for start in range(0, len(rows), step):
            piece = slice(start, start + step)
            floats = np.ascontiguousarray(vectors[piece], np.float32)
            found = np.asarray(numkong.dots_packed(floats, packed)).T
            if norms is not None:
                found = found * norms[piece]
            addresses, scores = _best(addresses, scores, rows[piece], found, k)
            if not pause():
                return None
    order = np.lexsort((addresses, -scores), axis=1)
    return Truth(np.take_along_axis(addresses, order, axis=1), np.take_along_axis(scores, order, axis=1))


def _best(
    addresses: NDArray[np.int64],
    scores: NDArray[np.float64],
    rows: NDArray[np.int64],
    found: NDArray[np.float64],
    k: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Keep the best k of what was kept and a piece's."""
    if scores.shape[1] == k:  # after a few pieces hardly a row is good enough for any query
        good = np.flatnonzero((found > scores.min(axis=1)[:, None]).any(axis=0))
        rows, found = rows[good], found[:, good]
    scores = np.concatenate([scores, found], axis=1)
    addresses = np.concatenate([addresses, np.broadcast_to(rows, found.shape)], axis=1)
    if scores.shape[1] > k:
        best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        scores = np.take_along_axis(scores, best, axis=1)
        addresses = np.take_along_axis(addresses, best, axis=1)
    return addresses, scores


def hits(
    addresses: NDArray[np.int64],
    scores: NDArray[np.float32],
    true_addresses: NDArray[np.int64],
    true_scores: NDArray[np.float64],
) -> int:
    """Return how many of the best rows an answer found; a row that ties with the last of them is as good."""
    last = float(true_scores[-1])
    enough = last - _TOLERANCE * max(abs(last), 1e-3)
    true = set(true_addresses.tolist())
    pairs = zip(addresses.tolist(), scores.tolist(), strict=True)
    found = sum(address in true or score >= enough for address, score in pairs)
    return min(int(found), len(true))
