"""The client."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from vectordb_bench.backend.clients.api import VectorDB  # type: ignore[import-not-found]

import tiered_index as ti


class TieredIndex(VectorDB):  # type: ignore[misc]
    """An index in a folder, opened by each process that uses it.

    Parameters
    ----------
    dim : int
        Length of the vectors.
    db_config : dict
        What :class:`TieredIndexConfig` returns.
    db_case_config : TieredIndexCaseConfig
        Settings.
    collection_name : str
        Name of the index in its folder.
    drop_old : bool
        Remove what is there.
    """

    name = "TieredIndex"
    thread_safe = True

    def __init__(
        self,
        dim: int,
        db_config: dict[str, Any],
        db_case_config: Any,
        collection_name: str = "rows",
        drop_old: bool = False,
        **_: Any,
    ) -> None:
        self._path = Path(db_config["path"]) / f"{collection_name}.tidx"
        self._plan = db_case_config.search_param()
        self._index: ti.Index | None = None
        if drop_old:
            shutil.rmtree(self._path, ignore_errors=True)
        ti.open(self._path, dim, **db_case_config.index_param()).close()

    @contextmanager
    def init(self) -> Iterator[None]:
        """Open the index."""
        with ti.open(self._path) as self._index:
            yield
        self._index = None  # what is copied to another process must not hold an open index

    def insert_embeddings(
        self, embeddings: list[list[float]], metadata: list[int], *_: Any, **__: Any
    ) -> tuple[int, Exception | None]:
        """Add rows as one commit."""
        try:
            self._opened.add(metadata, np.asarray(embeddings, np.float32))
        except ti.TieredIndexError as error:
            return 0, error
        return len(metadata), None

    def search_embedding(self, query: list[float], k: int = 100, *_: Any, **__: Any) -> list[int]:
        """Return the ids of the k best rows."""
        found: list[int] = self._opened.search(query, k, **self._plan).ids.tolist()
        return found

    def optimize(self, data_size: int | None = None) -> None:  # noqa: ARG002
        """Merge all segments into one."""
        self._opened.optimize()

    @property
    def _opened(self) -> ti.Index:
        if self._index is None:
            raise RuntimeError("call init() first")
        return self._index
