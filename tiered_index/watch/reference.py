"""The calibration's own queries, answered exactly by the rows of today: what drift is measured against."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tiered_index.calibration import stored_queries
from tiered_index.planner.model import Calibration, Source
from tiered_index.storage.calibration import read_calibration
from tiered_index.storage.commit import Store
from tiered_index.storage.snapshot import Snapshot
from tiered_index.watch.drift import GAP_K, features
from tiered_index.watch.truth import exact_answers

MOST = 256
"""Queries of the calibration's that are answered: in a pass or two."""

ROWS_CHANGED = 0.2
"""By which share rows may change before they are answered again."""


class Reference(NamedTuple):
    """Numbers of calibration's queries, shape (n, 3), where those came from, and what it fits."""

    values: NDArray[np.float64]
    source: Source
    made: str
    rows: int

    def fits(self, calibration: Calibration, rows: int) -> bool:
        """Return whether it is of this calibration and about so many rows."""
        return self.made == calibration.made and abs(rows - self.rows) <= ROWS_CHANGED * max(self.rows, 1)


def make_reference(
    snapshot: Snapshot, store: Store, calibration: Calibration, pause: Callable[[], bool]
) -> Reference | None:
    """Answer a calibration's queries exactly; none of them where they were not kept.

    Returns None where `pause` said to stop; it is that of :func:`tiered_index.watch.truth.exact_answers`.
    """
    own = None
    if calibration.source == "stored":
        asked = stored_queries(snapshot, MOST)
        queries, own = asked.vectors, asked.own
    else:
        kept = read_calibration(store)
        if kept is None or kept.calibration.made != calibration.made:
            queries = np.empty((0, snapshot.config.store_dim), np.float32)
        else:
            places = np.linspace(0, len(kept.queries) - 1, min(MOST, len(kept.queries))).astype(int)
            queries = kept.queries[places]
    scores = np.empty((len(queries), 0))
    if len(queries) and snapshot.rows:
        wanted = min(GAP_K + (own is not None), snapshot.rows)
        truth = exact_answers(snapshot, queries, wanted, None, pause)
        if truth is None:
            return None
        scores = truth.scores
        if own is not None:  # a row is not to be its own neighbour
            dropped = truth.addresses == own[:, None]
            dropped[~dropped.any(axis=1), -1] = True
            scores = scores[~dropped].reshape(len(queries), -1)
    values = features(queries, snapshot.config.prefix_dim, scores)
    return Reference(values, calibration.source, calibration.made, snapshot.rows)
