"""LanceDB, a table in a folder, with its defaults."""

from __future__ import annotations

from pathlib import Path

import lancedb  # type: ignore[import-not-found]
import numpy as np
import pyarrow as pa

from benchmarks.durability_peers import DIM, Vectors

PACKAGE = "lancedb"
_SCHEMA = pa.schema([("id", pa.int64()), ("vector", pa.list_(pa.float32(), DIM))])


class Store:
    """A table without an index: searches compare all vectors."""

    def __init__(self, folder: Path) -> None:
        database = lancedb.connect(str(folder))
        self._table = database.create_table("rows", schema=_SCHEMA, exist_ok=True)

    def add(self, ids: list[int], vectors: Vectors) -> None:
        """Add rows; they are acknowledged when this returns."""
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIM)
        self._table.add(pa.table([pa.array(ids, pa.int64()), column], schema=_SCHEMA))

    def rows(self) -> dict[int, Vectors]:
        """Return all rows."""
        table = self._table.to_arrow()
        stored = np.array(table["vector"].to_pylist(), np.float32).reshape(-1, DIM)
        return dict(zip(table["id"].to_pylist(), stored, strict=True))

    def nearest(self, queries: Vectors) -> list[int]:
        """Return the id of the row nearest to each query."""
        return [
            self._table.search(query).distance_type("dot").limit(1).to_arrow()["id"][0].as_py()
            for query in queries
        ]

    def close(self) -> None:
        """Do nothing: there is nothing to close."""
