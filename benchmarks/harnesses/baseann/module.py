"""The algorithm, for a folder beside ``base`` in ann-benchmarks or VIBE."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import tiered_index as ti

from ..base.module import BaseANN  # type: ignore[import-untyped]

_METRICS = {"angular": "cosine", "cosine": "cosine", "normalized": "cosine", "ip": "dot"}


class TieredIndex(BaseANN):  # type: ignore[misc]
    """An index in a temporary folder.

    Parameters
    ----------
    metric : str
        As the harness names it.
    prefix_dim : int or None
        Leading dimensions that find candidates; None is the package's default. Of vectors that are not
        Matryoshka embeddings take all.
    graph_degree, ef_construction : int
        Of the graph.
    """

    def __init__(self, metric: str, prefix_dim: int | None, graph_degree: int, ef_construction: int) -> None:
        if metric not in _METRICS:
            raise NotImplementedError(f"tiered_index ranks by cosine or inner product, not by {metric}")
        self._settings: dict[str, Any] = {
            "metric": _METRICS[metric],
            "prefix_dim": prefix_dim,
            "graph_degree": graph_degree,
            "ef_construction": ef_construction,
        }
        self._folder = Path(tempfile.mkdtemp(prefix="tiered-index-"))
        self._plan: dict[str, Any] = {}

    def fit(self, X: Any) -> None:
        """Index the rows; their ids are their numbers."""
        self._index = ti.open(self._folder / "rows.tidx", X.shape[1], **self._settings)
        self._index.add(np.arange(len(X)), np.asarray(X, np.float32))

    def set_query_arguments(self, ef: int | None, candidates: int | None = None) -> None:
        """Fix beam width and candidates; None leaves them to the planner."""
        given = {"ef": ef, "candidates": candidates}
        self._plan = {name: value for name, value in given.items() if value is not None}

    def query(self, q: Any, n: int) -> Any:
        """Return the n best rows."""
        return self._index.search(q, n, **self._fitting(n)).ids

    def batch_query(self, X: Any, n: int) -> None:
        """Answer all queries in one call."""
        self.res = self._index.search(X, n, **self._fitting(n)).ids

    def _fitting(self, n: int) -> dict[str, Any]:
        return {name: max(value, n) for name, value in self._plan.items()}

    def done(self) -> None:
        """Remove the index."""
        self._index.close()
        shutil.rmtree(self._folder)

    def __str__(self) -> str:
        return f"tiered_index({self._settings}, {self._plan})"
