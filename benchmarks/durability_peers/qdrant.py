"""Qdrant Edge, a shard in a folder, with its defaults."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import qdrant_edge as qe  # type: ignore[import-not-found]

from benchmarks.durability_peers import DIM, Vectors

PACKAGE = "qdrant-edge-py"


class Store:
    """A shard; an update is acknowledged when it returned, or with `flush` when it was flushed too."""

    def __init__(self, folder: Path, *, flush: bool) -> None:
        self._flush = flush
        if (folder / "edge_config.json").exists():
            self._shard = qe.EdgeShard.load(str(folder))
        else:
            folder.mkdir(exist_ok=True)
            config = qe.EdgeConfig(vectors=qe.EdgeVectorParams(size=DIM, distance=qe.Distance.Dot))
            self._shard = qe.EdgeShard.create(str(folder), config)

    def add(self, ids: list[int], vectors: Vectors) -> None:
        """Add rows; they are acknowledged when this returns."""
        points = [qe.Point(i, vector.tolist()) for i, vector in zip(ids, vectors, strict=True)]
        self._shard.update(qe.UpdateOperation.upsert_points(points))
        if self._flush:
            self._shard.flush()

    def rows(self) -> dict[int, Vectors]:
        """Return all rows."""
        records, _ = self._shard.scroll(qe.ScrollRequest(limit=100_000, with_vector=True))
        return {record.id: np.array(record.vector, np.float32) for record in records}

    def nearest(self, queries: Vectors) -> list[int]:
        """Return the id of the row nearest to each query."""
        return [
            self._shard.query(qe.QueryRequest(limit=1, query=qe.Query.Nearest(query.tolist())))[0].id
            for query in queries
        ]

    def close(self) -> None:
        """Close the store."""
        self._shard.close()
