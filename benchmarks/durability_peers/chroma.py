"""Chroma, a persistent client on a folder, with its defaults."""

from __future__ import annotations

from pathlib import Path

import chromadb  # type: ignore[import-not-found]
import numpy as np
from chromadb.config import Settings  # type: ignore[import-not-found]

from benchmarks.durability_peers import Vectors

PACKAGE = "chromadb"


class Store:
    """A collection under the inner product."""

    def __init__(self, folder: Path) -> None:
        client = chromadb.PersistentClient(str(folder), Settings(anonymized_telemetry=False))
        self._collection = client.get_or_create_collection(
            "rows", embedding_function=None, metadata={"hnsw:space": "ip"}
        )

    def add(self, ids: list[int], vectors: Vectors) -> None:
        """Add rows; they are acknowledged when this returns."""
        self._collection.add([str(i) for i in ids], embeddings=vectors)

    def rows(self) -> dict[int, Vectors]:
        """Return all rows."""
        found = self._collection.get(include=["embeddings"])
        return {
            int(i): np.array(vector, np.float32)
            for i, vector in zip(found["ids"], found["embeddings"], strict=True)
        }

    def nearest(self, queries: Vectors) -> list[int]:
        """Return the id of the row nearest to each query."""
        return [int(ids[0]) for ids in self._collection.query(query_embeddings=queries, n_results=1)["ids"]]

    def close(self) -> None:
        """Do nothing: there is nothing to close."""
