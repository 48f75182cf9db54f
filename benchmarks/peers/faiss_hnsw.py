"""FAISS HNSW over vectors in full or as 8-bit scalars, all in memory."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import faiss
import numpy as np

from benchmarks.peers import Peer, Searcher, Setting, Vectors, widths

_TRAIN_ROWS = 100_000


class FaissPeer(Peer):
    """A file; a subclass says what is in it and how it is searched."""

    PACKAGE = "faiss-cpu"
    WRITE = "add() of one row, and the file rewritten: FAISS keeps nothing else on disk"

    def save(self, index: Any) -> None:
        """Write the file."""
        faiss.write_index(index, str(self.folder / "index.faiss"))

    def open(self, *, mapped: bool) -> None:
        """Read the file into memory, or map it."""
        flags = faiss.IO_FLAG_MMAP_IFC if mapped else 0
        self.index = faiss.read_index(str(self.folder / "index.faiss"), flags)

    def threads(self, count: int) -> None:
        """Set OpenMP's threads."""
        faiss.omp_set_num_threads(count)

    @abstractmethod
    def parameters(self, k: int, **setting: Any) -> Any:
        """Return FAISS's search parameters."""

    def searcher(self, k: int, **setting: Any) -> Searcher:
        """Return a search of one query."""
        index, parameters = self.index, self.parameters(k, **setting)
        return lambda query: index.search(query[None], k, params=parameters)[1][0]

    def many(self, queries: Vectors, k: int, **setting: Any) -> Any:
        """Search all queries in one call."""
        return self.index.search(queries, k, params=self.parameters(k, **setting))[1]

    def write(self, row: int, vector: Vectors) -> None:  # noqa: ARG002 - rows are numbered in order
        """Add a row and write the file."""
        self.index.add(vector[None])
        self.save(self.index)


class Adapter(FaissPeer):
    """IndexHNSWFlat or IndexHNSWSQ; M is the default of its factory."""

    BUILT_WITH: ClassVar[Setting] = {"M": 32, "efConstruction": 200}

    def settings(self, k: int, rows: int) -> list[Setting]:  # noqa: ARG002
        """Return values of efSearch."""
        return [{"ef": w} for w in widths(k, 16, 24, 32, 48, 64, 96, 128, 192, 320)]

    def build(self, vectors: Vectors) -> None:
        """Train the scalars if there are any, add the rows, and write the file."""
        spec = f"HNSW{self.BUILT_WITH['M']},{self.options['storage']}"
        index = faiss.index_factory(self.dim, spec, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = self.BUILT_WITH["efConstruction"]
        if not index.is_trained:
            index.train(np.ascontiguousarray(vectors[:: max(len(vectors) // _TRAIN_ROWS, 1)]))
        index.add(np.asarray(vectors))
        self.save(index)

    def parameters(self, k: int, **setting: Any) -> Any:  # noqa: ARG002
        """Return HNSW's."""
        return faiss.SearchParametersHNSW(efSearch=setting["ef"])
