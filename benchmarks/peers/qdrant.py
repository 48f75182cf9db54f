"""Qdrant Edge: HNSW over quantised vectors in memory, rescored by full vectors on disk."""

from __future__ import annotations

from typing import Any, ClassVar

import qdrant_edge as qe  # type: ignore[import-not-found]

from benchmarks.peers import Peer, Searcher, Setting, Vectors, widths

_BATCH_ROWS = 1_000
_ONE_SEGMENT_KB = 2**40
_INDEX_FROM_KB = 1_000


class Adapter(Peer):
    """A shard, optimised into one indexed segment; the graph is built with the defaults."""

    BUILT_WITH: ClassVar[Setting] = {"m": 16, "ef_construct": 100}

    PACKAGE = "qdrant-edge-py"
    WRITE = "update() of one point, and flush()"
    FULL_SCAN_KB = _INDEX_FROM_KB
    """Of the vectors that are scored one by one, rather than by a graph."""

    def settings(self, k: int, rows: int) -> list[Setting]:  # noqa: ARG002
        """Return beams and factors of oversampling; binary codes need more of it."""
        factors = [1.0, 2.0, 4.0] if self.options["code"] == "int8" else [3.0, 8.0, 20.0]
        if k > 10:
            factors = factors[:2]
        return [{"ef": w, "oversampling": f} for w in widths(k, 24, 48, 96, 192, 384) for f in factors]

    def build(self, vectors: Vectors) -> None:
        """Upsert the rows and run the optimizers."""
        shard = qe.EdgeShard.create(str(self.folder), self._config())
        for first in range(0, len(vectors), _BATCH_ROWS):
            part = vectors[first : first + _BATCH_ROWS]
            points = [qe.Point(first + i, vector.tolist()) for i, vector in enumerate(part)]
            shard.update(qe.UpdateOperation.upsert_points(points))
        shard.flush()
        shard.optimize()
        shard.close()

    def _config(self) -> Any:
        if self.options["code"] == "int8":
            code = qe.ScalarQuantizationConfig(
                type=qe.ScalarType.Int8, quantile=0.99, memory=qe.Memory.Pinned
            )
        else:
            code = qe.BinaryQuantizationConfig(memory=qe.Memory.Pinned)
        return qe.EdgeConfig(
            vectors=qe.EdgeVectorParams(
                size=self.dim,
                distance=qe.Distance.Dot,
                memory=qe.Memory.Cold,  # full vectors on disk
            ),
            hnsw_config=qe.HnswIndexConfig(
                **self.BUILT_WITH,
                full_scan_threshold=self.FULL_SCAN_KB,
                max_indexing_threads=self.cores,
                memory=qe.Memory.Cached,
            ),
            quantization_config=code,
            optimizers=qe.EdgeOptimizersConfig(
                default_segment_number=1, max_segment_size=_ONE_SEGMENT_KB, indexing_threshold=_INDEX_FROM_KB
            ),
        )

    def open(self, *, mapped: bool) -> None:  # noqa: ARG002 - the configuration decides
        """Load the shard."""
        self._shard = qe.EdgeShard.load(str(self.folder))

    def searcher(self, k: int, **setting: Any) -> Searcher:
        """Return a search of one query."""
        shard = self._shard
        parameters = qe.SearchParams(
            hnsw_ef=setting["ef"],
            quantization=qe.QuantizationSearchParams(rescore=True, oversampling=setting["oversampling"]),
        )

        def search(query: Vectors) -> list[int]:
            nearest = qe.Query.Nearest(query.tolist())
            return [p.id for p in shard.query(qe.QueryRequest(limit=k, query=nearest, params=parameters))]

        return search

    def write(self, row: int, vector: Vectors) -> None:
        """Upsert a point and flush."""
        self._shard.update(qe.UpdateOperation.upsert_points([qe.Point(row, vector.tolist())]))
        self._shard.flush()

    def close(self) -> None:
        """Close the shard."""
        self._shard.close()
