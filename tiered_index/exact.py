"""Exact search: every full vector is scored, in one pass over the disk."""

from __future__ import annotations

from time import perf_counter

import numpy as np

from tiered_index.blas import product
from tiered_index.planner.plan import EXACT
from tiered_index.results import Hits, SearchStats
from tiered_index.storage.live import ROW_BITS
from tiered_index.storage.snapshot import Snapshot
from tiered_index.validate.vectors import Floats


def exact_search(snapshot: Snapshot, queries: Floats, k: int, started: float) -> Hits:
    """Answer queries by scoring every row.

    Parameters and return value are those of :func:`tiered_index.search.search`. Memory is bounded by
    one row group of vectors and its scores; all queries share the pass.
    """
    k = min(k, snapshot.rows)
    addresses = np.empty((len(queries), 0), np.int64)
    scores = np.empty((len(queries), 0), np.float32)
    for number, live in enumerate(snapshot.segments):
        norms = live.segment.lookup.inverse_norms
        for first, vectors in live.segment.full.blocks():
            block = product(queries, vectors.astype(np.float32, copy=False).T)
            if norms is not None:
                block *= norms[first : first + len(vectors)]
            rows = (number << ROW_BITS) + first + np.arange(len(vectors))
            if live.live is not None:
                kept = live.live[first : first + len(vectors)]
                block, rows = block[:, kept], rows[kept]
            scores = np.concatenate([scores, block], axis=1)
            addresses = np.concatenate([addresses, np.broadcast_to(rows, block.shape)], axis=1)
            if scores.shape[1] > k:
                # argpartition first: a whole sort of each block would cost more than its products
                best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
                scores = np.take_along_axis(scores, best, axis=1)
                addresses = np.take_along_axis(addresses, best, axis=1)
    order = np.lexsort((addresses, -scores), axis=1)
    finished = perf_counter()
    rows_read = snapshot.rows if len(queries) else 0
    return Hits(
        np.take_along_axis(addresses, order, axis=1),
        np.take_along_axis(scores, order, axis=1),
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
