"""The index of this package."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import tiered_index as ti
from benchmarks.durability_peers import DIM, Vectors

PACKAGE = "tiered-index"


class Store:
    """An index; `verify` compares every byte with its digest after it was opened."""

    def __init__(self, folder: Path, *, verify: bool) -> None:
        self._index = ti.open(folder, DIM, prefix_dim=16, metric="dot")
        if verify and not (report := self._index.verify()).ok:
            raise ti.CorruptIndexError(report.problems[0])

    def add(self, ids: list[int], vectors: Vectors) -> None:
        """Add rows; they are acknowledged when this returns."""
        self._index.add(ids, vectors)

    def rows(self) -> dict[int, Vectors]:
        """Return all rows."""
        found = self._index.search(np.ones(DIM), k=max(len(self._index), 1), exact=True).ids  # all there are
        table = self._index.get(found.tolist(), include_vectors=True)
        stored = table["vector"].combine_chunks().flatten().to_numpy().reshape(-1, DIM)
        return dict(zip(table["id"].to_pylist(), stored, strict=True))

    def nearest(self, queries: Vectors) -> list[int]:
        """Return the id of the row nearest to each query."""
        ids: list[int] = self._index.search(queries, k=1).ids[:, 0].tolist()
        return ids

    def close(self) -> None:
        """Close the store."""
        self._index.close()
