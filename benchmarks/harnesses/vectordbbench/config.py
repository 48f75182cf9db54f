"""Where the index is, and how it is built and searched."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from vectordb_bench.backend.clients.api import (  # type: ignore[import-not-found]
    DBCaseConfig,
    DBConfig,
    MetricType,
)

_METRICS = {MetricType.COSINE: "cosine", MetricType.IP: "dot", MetricType.DP: "dot"}


class TieredIndexConfig(DBConfig):  # type: ignore[misc]
    """The folder of the index."""

    path: str

    def to_dict(self) -> dict[str, Any]:
        """Return the client's `db_config`."""
        return {"path": self.path}


class TieredIndexCaseConfig(BaseModel, DBCaseConfig):  # type: ignore[misc]
    """Settings of the index, and of its searches; None is the package's default."""

    metric_type: MetricType | None = None
    prefix_dim: int | None = None
    graph_degree: int | None = None
    ef_construction: int | None = None
    ef: int | None = None
    candidates: int | None = None

    def index_param(self) -> dict[str, Any]:
        """Return the keyword arguments of ``tiered_index.open``."""
        if self.metric_type not in (None, *_METRICS):
            raise ValueError(f"tiered_index ranks by cosine or inner product, not by {self.metric_type}")
        return {
            "metric": None if self.metric_type is None else _METRICS[self.metric_type],
            "prefix_dim": self.prefix_dim,
            "graph_degree": self.graph_degree,
            "ef_construction": self.ef_construction,
        }

    def search_param(self) -> dict[str, Any]:
        """Return the keyword arguments of ``Index.search``."""
        return {"ef": self.ef, "candidates": self.candidates}
