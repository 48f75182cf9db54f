"""LanceDB: the filter is evaluated first, by scalar indexes, and the vector index is given the rows."""

from __future__ import annotations

from typing import Any, ClassVar

import lancedb  # type: ignore[import-not-found]
import lancedb.index  # type: ignore[import-not-found]
import numpy as np
import pyarrow as pa

from benchmarks.filter_peers import Columns, Condition, Filtered, FilteredSearcher, Where, conditions
from benchmarks.peers import Setting, Vectors, lance

_BATCH_ROWS = 50_000
_SIGNS = {"$eq": "=", "$gte": ">=", "$lt": "<"}


class Adapter(lance.Adapter, Filtered):
    """A table with an index of each column: bitmaps where there are few values, as is advised."""

    INDEXES: ClassVar[Setting] = {"category": "Bitmap", "month": "BTree", "tenant": "BTree", "share": "BTree"}

    def build_rows(self, vectors: Vectors, columns: Columns) -> None:
        """Write the table and its indexes."""
        schema = pa.schema(
            [
                ("id", pa.int64()),
                ("vector", pa.list_(pa.float32(), self.dim)),
                ("category", pa.string()),
                ("month", pa.int32()),
                ("tenant", pa.int32()),
                ("share", pa.float64()),
            ]
        )
        table = lancedb.connect(str(self.folder)).create_table("rows", schema=schema)
        for first in range(0, len(vectors), _BATCH_ROWS):
            part = np.asarray(vectors[first : first + _BATCH_ROWS])
            last = first + len(part)
            arrays = [
                pa.array(np.arange(first, last)),
                pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), self.dim),
                pa.array(columns.categories(first, last), pa.string()),
                *(pa.array(values[first:last]) for values in (columns.month, columns.tenant, columns.share)),
            ]
            table.add(pa.table(arrays, schema=schema))
        config = lancedb.index.HnswSq(distance_type="dot", **self.BUILT_WITH["HnswSq"])
        table.create_index("vector", config=config)
        for column, kind in self.INDEXES.items():
            table.create_index(column, config=getattr(lancedb.index, kind)())
        table.optimize()

    def translate(self, where: Where) -> str:
        """Return an SQL condition."""
        return " AND ".join(map(_condition, conditions(where)))

    def filtered(self, k: int, **setting: Any) -> FilteredSearcher:
        """Return a search of one query."""
        table = self._table

        def search(query: Vectors, where: Any) -> Any:
            asked = table.search(query, vector_column_name="vector").distance_type("dot")
            if where is not None:
                asked = asked.where(where, prefilter=True)
            asked = asked.select(["id", "_distance"]).limit(k).nprobes(setting["nprobes"]).ef(setting["ef"])
            return asked.refine_factor(setting["refine"]).to_arrow()["id"].to_numpy()

        return search


def _condition(condition: Condition) -> str:
    column, operator, value = condition
    if operator == "$nin":  # SQL's is not true of nulls
        return f"({column} NOT IN ({', '.join(map(_literal, value))}) OR {column} IS NULL)"
    return f"{column} {_SIGNS[operator]} {_literal(value)}"


def _literal(value: Any) -> str:
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)
