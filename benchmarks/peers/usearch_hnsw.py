"""USearch: HNSW over vectors as bfloat16 or 8-bit integers, without full vectors beside them."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from usearch.index import Index  # type: ignore[import-not-found]

from benchmarks.peers import Peer, Searcher, Setting, Vectors, widths


class Adapter(Peer):
    """A file, loaded or viewed; the graph is built with the defaults."""

    BUILT_WITH: ClassVar[Setting] = {"connectivity": 16, "expansion_add": 128}

    PACKAGE = "usearch"
    WRITE = "add() of one row, and the file rewritten: USearch keeps nothing else on disk"

    def settings(self, k: int, rows: int) -> list[Setting]:  # noqa: ARG002
        """Return values of expansion_search, around the default of 64."""
        return [{"expansion": w} for w in widths(k, 16, 24, 32, 48, 64, 96, 128, 192, 320)]

    def build(self, vectors: Vectors) -> None:
        """Add the rows and write the file."""
        index = Index(
            ndim=self.dim,
            metric="cos",  # the one that i8 supports for vectors of unit length
            dtype=self.options["dtype"],
            **self.BUILT_WITH,
        )
        index.add(np.arange(len(vectors)), np.asarray(vectors), threads=self.cores)
        index.save(self._path)

    def open(self, *, mapped: bool) -> None:
        """Load the file, or view it in place."""
        self._index = Index.restore(self._path, view=mapped)

    def searcher(self, k: int, **setting: Any) -> Searcher:
        """Return a search of one query."""
        index = self._index
        index.expansion_search = setting["expansion"]
        return lambda query: index.search(query, k, threads=1).keys

    def many(self, queries: Vectors, k: int, **setting: Any) -> Any:
        """Search all queries in one call."""
        self._index.expansion_search = setting["expansion"]
        return self._index.search(queries, k, threads=self.cores).keys

    def write(self, row: int, vector: Vectors) -> None:
        """Add a row and write the file."""
        self._index.add(row, vector)
        self._index.save(self._path)

    @property
    def _path(self) -> str:
        return str(self.folder / "index.usearch")
