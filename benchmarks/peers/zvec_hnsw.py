"""Zvec: HNSW over vectors in full, as 8-bit integers or as RaBitQ codes, refined by full vectors."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import zvec  # type: ignore[import-not-found]

from benchmarks.peers import Peer, Searcher, Setting, Vectors, widths

_BATCH_ROWS = 1_000
_FIELD = "vector"


class Adapter(Peer):
    """A collection of one vector field; the graph is built with the defaults.

    Rotation before int8, ``QuantizerParam(enable_rotate=True)``, is left off: in 0.8.0 it finds nothing.
    """

    BUILT_WITH: ClassVar[Setting] = {"m": 50, "ef_construction": 500}
    PACKAGE = "zvec"
    WRITE = "insert() of one document, and flush()"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        zvec.init(log_level=zvec.LogLevel.ERROR)

    def settings(self, k: int, rows: int) -> list[Setting]:  # noqa: ARG002
        """Return values of ef."""
        return [{"ef": w} for w in widths(k, 16, 24, 32, 48, 64, 96, 160, 300)]

    def build(self, vectors: Vectors) -> None:
        """Insert the rows and optimize."""
        schema = zvec.CollectionSchema(
            name="rows",
            vectors=zvec.VectorSchema(_FIELD, zvec.DataType.VECTOR_FP32, self.dim, self._index()),
        )
        collection = zvec.create_and_open(self._path, schema)
        for first in range(0, len(vectors), _BATCH_ROWS):
            part = vectors[first : first + _BATCH_ROWS]
            _check(collection.insert([_document(first + i, vector) for i, vector in enumerate(part)]))
        collection.optimize()
        collection.flush()
        collection.close()

    def _index(self) -> Any:
        metric = zvec.MetricType.IP
        if self.options["code"] == "rabitq":
            return zvec.HnswRabitqIndexParam(metric, total_bits=7, num_clusters=16, **self.built_with)
        code = zvec.QuantizeType.INT8 if self.options["code"] == "int8" else zvec.QuantizeType.UNDEFINED
        return zvec.HnswIndexParam(metric, quantize_type=code, **self.built_with)

    def open(self, *, mapped: bool) -> None:  # noqa: ARG002 - it is mapped always
        """Open the collection to read: only so the quick form of a query can be had."""
        self._collection = zvec.open(self._path, zvec.CollectionOption(read_only=True, enable_mmap=True))
        self._writes = False

    def searcher(self, k: int, **setting: Any) -> Searcher:
        """Return a search of one query."""
        collection = self._collection
        code = self.options["code"]
        parameter = zvec.HnswRabitqQueryParam if code == "rabitq" else zvec.HnswQueryParam
        parameters = parameter(ef=setting["ef"], is_using_refiner=code != "float32")

        def search(query: Vectors) -> list[int]:
            asked = zvec.Query(_FIELD, vector=query, param=parameters)
            found = collection.query_internal_ids(asked, topk=k)
            return [int(key) for key in collection.resolve_internal_ids(found) if key is not None]

        return search

    def write(self, row: int, vector: Vectors) -> None:
        """Insert a document and flush."""
        if not self._writes:
            self._collection.close()
            self._collection = zvec.open(self._path)
            self._writes = True
        _check([self._collection.insert(_document(row, vector))])
        self._collection.flush()

    def close(self) -> None:
        """Close the collection."""
        self._collection.close()

    @property
    def _path(self) -> str:
        return str(self.folder / "collection")


def _document(row: int, vector: Vectors) -> Any:
    return zvec.Doc(id=str(row), vectors={_FIELD: np.asarray(vector)})


def _check(statuses: Any) -> None:
    failed = [status for status in statuses if not status.ok()]
    if failed:
        raise RuntimeError(f"insert: {failed[0]}")
