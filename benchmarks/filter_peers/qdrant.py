"""Qdrant Edge: payload indexes made before the rows, so that the graph has links within their values."""

from __future__ import annotations

from typing import Any, ClassVar

import qdrant_edge as qe  # type: ignore[import-not-found]

from benchmarks.filter_peers import Columns, Condition, Filtered, FilteredSearcher, Where, conditions
from benchmarks.peers import Setting, Vectors, qdrant

_BATCH_ROWS = 1_000


class Adapter(qdrant.Adapter, Filtered):
    """A shard; a tenant is a keyword that is marked as one.

    With the option `acorn`, a walk among less than 0.4 of the rows goes by their neighbours' neighbours too,
    which is advised for strict filters that are joined, should recall drop.
    """

    FULL_SCAN_KB = 10_000  # the default: a graph of its own for each value that more rows have
    INDEXES: ClassVar[Setting] = {
        "category": "keyword",
        "month": "integer",
        "tenant": "tenant",
        "share": "float",
    }

    def build_rows(self, vectors: Vectors, columns: Columns) -> None:
        """Create the payload indexes, upsert the rows and run the optimizers."""
        shard = qe.EdgeShard.create(str(self.folder), self._config())
        for column, schema in (
            ("category", qe.KeywordIndexParams()),
            ("month", qe.IntegerIndexParams(lookup=True, range=True)),
            ("tenant", qe.KeywordIndexParams(is_tenant=True)),
            ("share", qe.FloatIndexParams()),
        ):
            shard.update(qe.UpdateOperation.create_field_index(column, schema))
        for first in range(0, len(vectors), _BATCH_ROWS):
            part = vectors[first : first + _BATCH_ROWS]
            last = first + len(part)
            points = []
            for i, (vector, category) in enumerate(zip(part, columns.categories(first, last), strict=True)):
                payload = {
                    "category": category,
                    "month": int(columns.month[first + i]),
                    "tenant": str(columns.tenant[first + i]),
                    "share": float(columns.share[first + i]),
                }
                points.append(qe.Point(first + i, vector.tolist(), payload))
            shard.update(qe.UpdateOperation.upsert_points(points))
        shard.flush()
        shard.optimize()
        shard.close()

    def translate(self, where: Where) -> Any:
        """Return a filter."""
        asked = conditions(where)
        musts = [_condition(c) for c in asked if c.operator != "$nin"]
        nots = [
            qe.FieldCondition(c.column, match=qe.MatchAny(list(c.value)))
            for c in asked
            if c.operator == "$nin"
        ]
        return qe.Filter(must=musts or None, must_not=nots or None)

    def filtered(self, k: int, **setting: Any) -> FilteredSearcher:
        """Return a search of one query."""
        shard = self._shard
        parameters = qe.SearchParams(
            hnsw_ef=setting["ef"],
            quantization=qe.QuantizationSearchParams(rescore=True, oversampling=setting["oversampling"]),
            acorn=qe.AcornSearchParams(enable=True) if self.options["acorn"] else None,
        )

        def search(query: Vectors, where: Any) -> list[int]:
            nearest = qe.Query.Nearest(query.tolist())
            request = qe.QueryRequest(limit=k, query=nearest, filter=where, params=parameters)
            return [point.id for point in shard.query(request)]

        return search


def _condition(condition: Condition) -> Any:
    column, operator, value = condition
    if operator == "$eq":
        return qe.FieldCondition(column, match=qe.MatchValue(str(value) if column == "tenant" else value))
    return qe.FieldCondition(column, range=qe.RangeFloat(**{operator[1:]: float(value)}))
