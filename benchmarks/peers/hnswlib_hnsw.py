"""hnswlib: HNSW over full vectors, in memory."""

from __future__ import annotations

from typing import Any, ClassVar

import hnswlib  # type: ignore[import-untyped]
import numpy as np

from benchmarks.peers import Peer, Searcher, Setting, Vectors, widths


class Adapter(Peer):
    """A file; it can be read into memory only."""

    BUILT_WITH: ClassVar[Setting] = {"M": 32, "ef_construction": 200}
    PACKAGE = "hnswlib"
    WRITE = "add_items() of one row, and the file rewritten: hnswlib keeps nothing else on disk"

    def settings(self, k: int, rows: int) -> list[Setting]:  # noqa: ARG002
        """Return values of ef."""
        return [{"ef": w} for w in widths(k, 16, 24, 32, 48, 64, 96, 128, 192, 320)]

    def build(self, vectors: Vectors) -> None:
        """Add the rows and write the file."""
        index = hnswlib.Index(space="ip", dim=self.dim)
        index.init_index(max_elements=len(vectors), **self.BUILT_WITH)
        index.add_items(np.asarray(vectors), np.arange(len(vectors)), num_threads=self.cores)
        index.save_index(self._path)

    def open(self, *, mapped: bool) -> None:  # noqa: ARG002 - it cannot be mapped
        """Read the file."""
        self._index = hnswlib.Index(space="ip", dim=self.dim)
        self._index.load_index(self._path)

    def threads(self, count: int) -> None:
        """Set the threads of a call."""
        self._index.set_num_threads(count)

    def searcher(self, k: int, **setting: Any) -> Searcher:
        """Return a search of one query."""
        index = self._index
        index.set_ef(setting["ef"])
        return lambda query: index.knn_query(query, k)[0][0]

    def many(self, queries: Vectors, k: int, **setting: Any) -> Any:
        """Search all queries in one call."""
        self._index.set_ef(setting["ef"])
        return self._index.knn_query(queries, k)[0]

    def write(self, row: int, vector: Vectors) -> None:
        """Add a row and write the file."""
        if self._index.get_current_count() == self._index.get_max_elements():
            self._index.resize_index(self._index.get_max_elements() + 1_000)
        self._index.add_items(vector[None], [row])
        self._index.save_index(self._path)

    @property
    def _path(self) -> str:
        return str(self.folder / "index.hnsw")
