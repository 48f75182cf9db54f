"""LanceDB: a table with a vector index, refined by the table's full vectors."""

from __future__ import annotations

from math import isqrt
from typing import Any, ClassVar

import lancedb  # type: ignore[import-not-found]
import lancedb.index  # type: ignore[import-not-found]
import numpy as np
import pyarrow as pa

from benchmarks.peers import Peer, Searcher, Setting, Vectors, widths

_BATCH_ROWS = 50_000
_SMALL_PARTITION_ROWS = 1_024


class Adapter(Peer):
    """A database of one table; one partition of HNSW is the advice for all but very large tables."""

    BUILT_WITH: ClassVar[Setting] = {
        "HnswSq": {"num_partitions": 1, "m": 20, "ef_construction": 300},
        "partitions of others": "sqrt(rows), not below 1024 rows each",
        "dimensions a sub-vector": 8,
    }

    PACKAGE = "lancedb"
    WRITE = "add() of one row: a new version; it is searched exactly until the next optimize()"

    def settings(self, k: int, rows: int) -> list[Setting]:
        """Return beams, or numbers of partitions, each with factors of refining."""
        if self.options["index"] == "HnswSq":
            beams = widths(2 * k, 20, 32, 48, 64, 96, 160, 256)  # refining asks for a multiple of k
            return [{"nprobes": 1, "ef": w, "refine": 2} for w in beams]
        partitions = _partitions(rows)
        probes = sorted({max(round(partitions * share), 1) for share in (0.02, 0.05, 0.1, 0.2, 0.4)})
        factors = (5, 10, 30) if k <= 10 else (2, 5)
        return [{"nprobes": n, "refine": f} for n in probes for f in factors]

    def build(self, vectors: Vectors) -> None:
        """Write the table and its index."""
        schema = pa.schema([("id", pa.int64()), ("vector", pa.list_(pa.float32(), self.dim))])
        table = lancedb.connect(str(self.folder)).create_table("rows", schema=schema)
        for first in range(0, len(vectors), _BATCH_ROWS):
            table.add(_rows(first, np.asarray(vectors[first : first + _BATCH_ROWS]), schema))
        kind = self.options["index"]
        extra: dict[str, Any] = {"num_partitions": _partitions(len(vectors))}
        if kind == "HnswSq":
            extra = self.BUILT_WITH[kind]
        elif kind == "IvfPq":
            extra["num_sub_vectors"] = self.dim // self.BUILT_WITH["dimensions a sub-vector"]
        table.create_index("vector", config=getattr(lancedb.index, kind)(distance_type="dot", **extra))
        table.optimize()

    def open(self, *, mapped: bool) -> None:  # noqa: ARG002 - it reads through caches of its own
        """Open the table."""
        self._table = lancedb.connect(str(self.folder)).open_table("rows")

    def searcher(self, k: int, **setting: Any) -> Searcher:
        """Return a search of one query."""
        table = self._table

        def search(query: Vectors) -> Any:
            asked = table.search(query, vector_column_name="vector").distance_type("dot")
            asked = asked.select(["id", "_distance"]).limit(k).nprobes(setting["nprobes"])
            if "ef" in setting:
                asked = asked.ef(setting["ef"])
            return asked.refine_factor(setting["refine"]).to_arrow()["id"].to_numpy()

        return search

    def write(self, row: int, vector: Vectors) -> None:
        """Add a row."""
        self._table.add(_rows(row, vector[None], self._table.schema))


def _rows(first: int, vectors: Vectors, schema: Any) -> Any:
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    return pa.table([pa.array(np.arange(first, first + len(vectors))), column], schema=schema)


def _partitions(rows: int) -> int:
    """Return sqrt(n), its documented default, or fewer where partitions would be small."""
    return max(min(isqrt(rows), rows // _SMALL_PARTITION_ROWS), 8)
