"""Exact rankings by prefixes of many lengths, of the same vectors in several orders, in one stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tiered_index.blas import product
from tiered_index.config import Metric
from tiered_index.validate.vectors import Floats

_BLOCK_ROWS = 8_192
"""Rows that are scored at a time: 16 MB of scores for 500 queries."""

_TINY = 1e-30
"""Squared lengths of prefixes that are zero are raised to this; they score 0."""

Rows = NDArray[np.int64]


class View(NamedTuple):
    """A way to order the dimensions, and what is to be ranked by.

    Attributes
    ----------
    dims : sequence of int
        Prefixes to rank by, rising.
    kept : int
        How many rows are kept of each ranking.
    order : ndarray, shape (dim,), optional
        A permutation of the dimensions.
    rotation : ndarray, shape (dim, dim), optional
        Or a rotation: ``vectors @ rotation``.
    """

    dims: Sequence[int]
    kept: int
    order: NDArray[np.int64] | None = None
    rotation: Floats | None = None

    def seen(self, vectors: Floats) -> Floats:
        """Return vectors with their dimensions in this order, up to the longest prefix."""
        last = self.dims[-1]
        if self.rotation is not None:
            return product(vectors, self.rotation[:, :last])
        return vectors if self.order is None else vectors[:, self.order[:last]]


def rankings(docs: Floats, queries: Floats, views: Sequence[View], metric: Metric) -> list[dict[int, Rows]]:
    """Rank documents for each query by each prefix of each view.

    A longer prefix adds its further dimensions to the scores of the shorter one, so that all lengths take
    one product. Memory is that of a block and of the rows that are kept.

    Parameters
    ----------
    docs : ndarray, shape (n, dim), float32
        Documents; of unit length under cosine.
    queries : ndarray, shape (q, dim), float32
        Queries.
    views : sequence of View
        Orders of the dimensions.
    metric : {"cosine", "dot"}
        Under cosine prefixes are brought to unit length again, as the coarse tier does it.

    Returns
    -------
    list of dict
        For each view and dimension the best rows, shape (q, kept), best first.
    """
    asked = [view.seen(queries) for view in views]
    best = [{dim: _Best(len(queries), view.kept) for dim in view.dims} for view in views]
    for start in range(0, len(docs), _BLOCK_ROWS):
        block = docs[start : start + _BLOCK_ROWS]
        for view, q, tops in zip(views, asked, best, strict=True):
            seen = view.seen(block)
            scores = np.zeros((len(q), len(block)), np.float32)
            squares = np.zeros(len(block), np.float32)
            done = 0
            for dim in view.dims:
                part = seen[:, done:dim]
                scores += product(np.ascontiguousarray(q[:, done:dim]), part.T)
                squares += np.einsum("ij,ij->i", part, part)
                done = dim
                if metric == "cosine":
                    norms: Floats = np.sqrt(np.maximum(squares, np.float32(_TINY)))
                    tops[dim].offer(scores / norms, start)
                else:
                    tops[dim].offer(scores, start)
    return [{dim: top.rows() for dim, top in tops.items()} for tops in best]


class _Best:
    """The best rows of each query so far."""

    def __init__(self, queries: int, count: int) -> None:
        self._count = count
        self._scores = np.empty((queries, 0), np.float32)
        self._rows = np.empty((queries, 0), np.int64)

    def offer(self, scores: Floats, first_row: int) -> None:
        """Take the scores of consecutive rows into account, shape (queries, rows)."""
        if self._scores.shape[1] < self._count:
            rows = np.broadcast_to(np.arange(first_row, first_row + scores.shape[1]), scores.shape)
        else:
            scores, rows = self._better(scores, first_row)
        self._scores = np.concatenate([self._scores, scores], axis=1)
        self._rows = np.concatenate([self._rows, rows], axis=1)
        if self._scores.shape[1] > self._count:
            kept = np.argpartition(-self._scores, self._count - 1, axis=1)[:, : self._count]
            self._scores = np.take_along_axis(self._scores, kept, axis=1)
            self._rows = np.take_along_axis(self._rows, kept, axis=1)

    def _better(self, scores: Floats, first_row: int) -> tuple[Floats, Rows]:
        """Pick what beats each query's last: few, which need no partition of them all."""
        query, place = np.nonzero(scores > self._scores.min(axis=1, keepdims=True))
        counts = np.bincount(query, minlength=len(scores))
        column = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
        picked = np.full((len(scores), int(counts.max(initial=0))), -np.inf, np.float32)
        rows = np.full(picked.shape, -1, np.int64)
        picked[query, column] = scores[query, place]
        rows[query, column] = first_row + place
        return picked, rows

    def rows(self) -> Rows:
        """Return the rows, best first, equal scores by row."""
        order = np.lexsort((self._rows, -self._scores), axis=1)
        return np.take_along_axis(self._rows, order, axis=1)


def places_of(truth: Rows, found: Rows) -> NDArray[np.int64]:
    """Return the place in `found`, shape (q, n), of each row of `truth`, shape (q, k); n if it is not there.

    A true neighbour is in the answer after rescoring exactly if it is among the candidates, since none but
    other true neighbours score higher: recall after C candidates is the share of places below C.
    """
    places = np.empty(truth.shape, np.int64)
    for query, (wanted, rows) in enumerate(zip(truth, found, strict=True)):
        same = wanted[:, None] == rows
        places[query] = np.where(same.any(axis=1), same.argmax(axis=1), len(rows))
    return places
