"""A FAISS index in memory, written to a file that takes the place of the one before."""

from __future__ import annotations

import os
from pathlib import Path

import faiss
import numpy as np

from benchmarks.durability_peers import DIM, Vectors

PACKAGE = "faiss-cpu"


class Store:
    """HNSW over single-precision vectors, with ids."""

    def __init__(self, folder: Path, *, sync_file: bool, sync_folder: bool) -> None:
        self._sync_file, self._sync_folder = sync_file, sync_folder
        folder.mkdir(exist_ok=True)
        self._path = folder / "index.faiss"
        if self._path.exists():
            self._index = faiss.read_index(str(self._path))
        else:
            self._index = faiss.IndexIDMap2(faiss.IndexHNSWFlat(DIM, 16, faiss.METRIC_INNER_PRODUCT))

    def add(self, ids: list[int], vectors: Vectors) -> None:
        """Add rows; they are acknowledged when this returns."""
        self._index.add_with_ids(vectors, np.array(ids))
        new = self._path.with_suffix(".new")
        faiss.write_index(self._index, str(new))
        if self._sync_file:
            _sync(new)
        new.replace(self._path)
        if self._sync_folder:
            _sync(self._path.parent)
            _sync(self._path.parent.parent)

    def rows(self) -> dict[int, Vectors]:
        """Return all rows."""
        ids = faiss.vector_to_array(self._index.id_map).tolist()
        return {i: self._index.reconstruct(i) for i in ids}

    def nearest(self, queries: Vectors) -> list[int]:
        """Return the id of the row nearest to each query."""
        ids: list[int] = self._index.search(queries, 1)[1][:, 0].tolist()
        return ids

    def close(self) -> None:
        """Do nothing: there is nothing to close."""


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
