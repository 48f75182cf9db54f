"""Exact search: every full vector is scored, in one pass over the disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiered_index.blas import product
from tiered_index.planner.plan import EXACT
from tiered_index.results import Hits, SearchStats
from tiered_index.storage.live import ROW_BITS, ROW_MASK
from tiered_index.storage.matching import Matching
from tiered_index.storage.snapshot import Snapshot
from tiered_index.validate.vectors import Floats

_GATHERED_ROWS = 8_192

_SPARSE = 8
"""Where fewer than one row in so many may be found, they are read one by one."""

_Block = tuple[NDArray[np.int64], NDArray[Any], Floats | None]
"""Addresses, vectors as they are stored, and one over their lengths."""


def exact_search(
    snapshot: Snapshot, queries: Floats, k: int, started: float, matching: Matching | None = None
) -> Hits:
    """Answer queries by scoring every row, or every row that matches a filter.

    Parameters and return value are those of :func:`tiered_index.search.search`. Memory is bounded by
    one row group of vectors and its scores; all queries share the pass.
    """
    count = snapshot.rows if matching is None else matching.count
    k = min(k, count)
    best = _Best(len(queries), k)
    for rows, vectors, norms in blocks(snapshot, matching):
        best.see(rows, _scores(queries, vectors, norms))
    addresses, scores = best.ranked()
    finished = perf_counter()
    rows_read = count if len(queries) else 0
    return Hits(
        addresses,
        scores,
        EXACT,
        SearchStats(
            total_ms=(finished - started) * 1e3,
            coarse_ms=0.0,
            rescore_ms=(finished - started) * 1e3,
            queries=len(queries),
            parts_walked=0,
            parts_scanned=0,
            rows_read=rows_read,
            bytes_read=rows_read * snapshot.row_bytes,
        ),
    )


def exact_among(
    snapshot: Snapshot, queries: Floats, k: int, number: int, masks: Sequence[NDArray[np.bool_]]
) -> list[NDArray[np.int64]]:
    """Return the best k rows of one segment under each of several filters, which share the pass.

    Parameters
    ----------
    snapshot : Snapshot
        With the segment.
    queries : ndarray, shape (n, store_dim), float32
        Of unit length under cosine.
    k : int
        Results a query; fewer where fewer rows match.
    number : int
        The segment.
    masks : sequence of ndarray, shape (rows,), bool
        Which of its rows match.

    Returns
    -------
    list of ndarray, shape (n, k), int64
        Addresses, best first, of each filter.
    """
    best = [_Best(len(queries), k) for _ in masks]
    for addresses, vectors, norms in blocks(snapshot, None):
        if not len(addresses) or addresses[0] >> ROW_BITS != number:
            continue
        scores, rows = _scores(queries, vectors, norms), addresses & ROW_MASK
        for one, mask in zip(best, masks, strict=True):
            held = mask[rows]
            one.see(addresses[held], scores[:, held])
    return [one.ranked()[0] for one in best]


def without_own(addresses: NDArray[np.int64], own: NDArray[np.int64]) -> NDArray[np.int64]:
    """Drop each query's own row, or the last where it was not found, from its answers."""
    dropped = addresses == own[:, None]
    dropped[~dropped.any(axis=1), -1] = True
    kept: NDArray[np.int64] = addresses[~dropped].reshape(len(addresses), -1)
    return kept


def _scores(queries: Floats, vectors: NDArray[Any], norms: Floats | None) -> Floats:
    scores = product(queries, vectors.astype(np.float32, copy=False).T)
    if norms is not None:
        scores *= norms
    return scores


class _Best:
    """The best k rows of each query so far."""

    def __init__(self, queries: int, k: int) -> None:
        self._k = k
        self._addresses = np.empty((queries, 0), np.int64)
        self._scores = np.empty((queries, 0), np.float32)

    def see(self, rows: NDArray[np.int64], block: Floats) -> None:
        scores = np.concatenate([self._scores, block], axis=1)
        addresses = np.concatenate([self._addresses, np.broadcast_to(rows, block.shape)], axis=1)
        if self._k and scores.shape[1] > self._k:
            # argpartition first: a whole sort of each block would cost more than its products
            best = np.argpartition(-scores, self._k - 1, axis=1)[:, : self._k]
            scores = np.take_along_axis(scores, best, axis=1)
            addresses = np.take_along_axis(addresses, best, axis=1)
        self._scores, self._addresses = scores, addresses

    def ranked(self) -> tuple[NDArray[np.int64], Floats]:
        order = np.lexsort((self._addresses, -self._scores), axis=1)
        addresses = np.take_along_axis(self._addresses, order, axis=1)
        return addresses, np.take_along_axis(self._scores, order, axis=1)


def blocks(snapshot: Snapshot, matching: Matching | None) -> Iterator[_Block]:
    """Yield the rows that may be found: read from end to end, or one by one where they are few."""
    for number, live in enumerate(snapshot.segments):
        segment, kept = live.segment, live.live
        norms = segment.lookup.inverse_norms
        if matching is not None:
            rows = np.array(matching.rows[number].to_array(), np.int64)
            if len(rows) * _SPARSE < segment.rows:
                for start in range(0, len(rows), _GATHERED_ROWS):
                    some = rows[start : start + _GATHERED_ROWS]
                    gathered = segment.full.gather(some)
                    yield (number << ROW_BITS) + some, gathered, None if norms is None else norms[some]
                continue
            kept = np.zeros(segment.rows, bool)
            kept[rows] = True
        for first, vectors in segment.full.blocks():
            here = slice(first, first + len(vectors))
            addresses = (number << ROW_BITS) + first + np.arange(len(vectors))
            chosen = slice(None) if kept is None else kept[here]
            yield addresses[chosen], vectors[chosen], None if norms is None else norms[here][chosen]
