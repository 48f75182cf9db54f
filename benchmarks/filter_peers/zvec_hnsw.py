"""Zvec: a filter as a string, answered by inverted indexes of the fields."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import zvec  # type: ignore[import-not-found]

from benchmarks.filter_peers import Columns, Condition, Filtered, FilteredSearcher, Where, conditions
from benchmarks.peers import Setting, Vectors, zvec_hnsw

_BATCH_ROWS = 1_000
_FIELD = "vector"
_SIGNS = {"$eq": "=", "$gte": ">=", "$lt": "<"}


class Adapter(zvec_hnsw.Adapter, Filtered):
    """A collection whose fields have inverted indexes, for ranges where they are asked."""

    INDEXES: ClassVar[Setting] = {
        "category": "inverted",
        "month": "range",
        "tenant": "inverted",
        "share": "range",
    }

    def build_rows(self, vectors: Vectors, columns: Columns) -> None:
        """Insert the rows and optimize."""
        inverted, ranges = zvec.InvertIndexParam(), zvec.InvertIndexParam(enable_range_optimization=True)
        schema = zvec.CollectionSchema(
            name="rows",
            fields=[
                zvec.FieldSchema("category", zvec.DataType.STRING, nullable=True, index_param=inverted),
                zvec.FieldSchema("month", zvec.DataType.INT32, index_param=ranges),
                zvec.FieldSchema("tenant", zvec.DataType.INT32, index_param=inverted),
                zvec.FieldSchema("share", zvec.DataType.DOUBLE, index_param=ranges),
            ],
            vectors=zvec.VectorSchema(_FIELD, zvec.DataType.VECTOR_FP32, self.dim, self._index()),
        )
        collection = zvec.create_and_open(self._path, schema)
        for first in range(0, len(vectors), _BATCH_ROWS):
            part = np.asarray(vectors[first : first + _BATCH_ROWS])
            last = first + len(part)
            documents = []
            for i, category in enumerate(columns.categories(first, last)):
                fields: dict[str, Any] = {
                    "month": int(columns.month[first + i]),
                    "tenant": int(columns.tenant[first + i]),
                    "share": float(columns.share[first + i]),
                }
                if category is not None:
                    fields["category"] = category
                documents.append(zvec.Doc(id=str(first + i), vectors={_FIELD: part[i]}, fields=fields))
            failed = [status for status in collection.insert(documents) if not status.ok()]
            if failed:
                raise RuntimeError(f"insert: {failed[0]}")
        collection.optimize()
        collection.flush()
        collection.close()

    def translate(self, where: Where) -> str:
        """Return an expression."""
        return " AND ".join(map(_condition, conditions(where)))

    def filtered(self, k: int, **setting: Any) -> FilteredSearcher:
        """Return a search of one query."""
        collection = self._collection
        parameters = zvec.HnswQueryParam(ef=setting["ef"])

        def search(query: Vectors, where: Any) -> list[int]:
            asked = zvec.Query(_FIELD, vector=query, param=parameters)
            found = collection.query_internal_ids(asked, topk=k, filter=where)
            return [int(key) for key in collection.resolve_internal_ids(found) if key is not None]

        return search


def _condition(condition: Condition) -> str:
    column, operator, value = condition
    if operator == "$nin":  # that alone is not true of nulls
        return f"({column} NOT IN ({', '.join(map(_literal, value))}) OR {column} IS NULL)"
    return f"{column} {_SIGNS[operator]} {_literal(value)}"


def _literal(value: Any) -> str:
    return f"'{value}'" if isinstance(value, str) else repr(value)
