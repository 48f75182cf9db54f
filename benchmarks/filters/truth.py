"""The exact best rows of each query among those that match a filter, by brute force over the full vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import Vectors

NO_ROW = -1
_BLOCK_ROWS = 20_000

Mask = Callable[[int, int], NDArray[np.bool_] | None]
"""Given the first row and the one after the last, which of them match: shape (rows,) for all queries, or
(queries, rows); None if all do."""


class _Best:
    """The best k rows a query so far."""

    def __init__(self, queries: int, k: int) -> None:
        self.rows = np.full((queries, k), NO_ROW, np.int64)
        self.scores = np.full((queries, k), -np.inf, np.float32)

    def see(self, block: Vectors, first: int, held: NDArray[np.bool_] | None) -> None:
        better = block > self.scores[:, -1:]
        if held is not None:
            better &= held
        counts = better.sum(axis=1)
        places = np.nonzero(better)[1]
        for query, found in enumerate(np.split(places, np.cumsum(counts)[:-1])):
            if not len(found):
                continue
            k = self.rows.shape[1]
            scores = np.concatenate([self.scores[query], block[query, found]])
            rows = np.concatenate([self.rows[query], first + found])
            if len(scores) > 4 * k:
                some = np.argpartition(-scores, k)[: k + 1]
                scores, rows = scores[some], rows[some]
            order = np.argsort(-scores, kind="stable")[:k]
            self.scores[query], self.rows[query] = scores[order], rows[order]


def best_rows(vectors: Vectors, queries: Vectors, k: int, masks: Sequence[Mask]) -> list[NDArray[np.int64]]:
    """Return, for each mask, the best k rows a query, best first; :data:`NO_ROW` where fewer match.

    One pass over the vectors, however many masks there are.
    """
    best = [_Best(len(queries), k) for _ in masks]
    for first in range(0, len(vectors), _BLOCK_ROWS):
        block = queries @ np.asarray(vectors[first : first + _BLOCK_ROWS]).T
        for one, mask in zip(best, masks, strict=True):
            one.see(block, first, mask(first, first + block.shape[1]))
    return [one.rows for one in best]


def share_found(found: Sequence[Any], truth: NDArray[np.int64]) -> float | None:
    """Return the mean share of the true rows that were found; None if no query has any."""
    shares = []
    for rows, true in zip(found, truth.tolist(), strict=False):
        wanted = set(true) - {NO_ROW}
        if wanted:
            shares.append(len(wanted & set(rows)) / len(wanted))
    return float(np.mean(shares)) if shares else None
