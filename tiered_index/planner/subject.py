"""What the planner sees of an index: callables and numbers."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tiered_index.planner.plan import Plan, Strategy


class Observed(NamedTuple):
    """What one whole search gave and took."""

    rows: NDArray[np.int64]
    total_ms: float
    coarse_ms: float
    rescore_ms: float
    rows_read: int
    margin: float
    first: float
    last: float
    codes: int = 0
    """Prefixes that were scored; 0 where FAISS walked, which does not count them."""


class Subject(Protocol):
    """What is measured: an index, some queries, and their exact answers."""

    width: int
    """Dimensions of the coarse tier."""
    rows: int
    widest_walk: int
    """Largest ef at which the graph is walked rather than scanned; 0 without a graph."""
    stops_early: bool
    """Whether stopping early saves any of the walk."""
    fractions: tuple[float, ...]
    """Candidates for each unit of ef that are worth measuring; all of them first."""
    sketched: bool
    """Whether a walk's rows come in an order of which few need to be read, and none before it ends."""
    truth: NDArray[np.int64]
    """Exact answers, shape (queries, largest k)."""

    def candidates(
        self, query: int, strategy: Strategy, prefix_dim: int, ef: int
    ) -> tuple[NDArray[np.int64], float, int]:
        """Return the rows found, best first, the milliseconds, and how many codes were scored."""

    def search(self, query: int, k: int, plan: Plan) -> Observed:
        """Answer one query."""

    def evict(self, query: int, rows: int) -> bool:
        """Drop a query's best rows from memory; return whether that can be done."""
