"""Index: the face. It delegates, and decides nothing."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tiered_index.config import Dtype, IndexConfig, Metric, make_config, one_of
from tiered_index.errors import IndexClosedError, IndexNotFoundError, ReadOnlyError
from tiered_index.exact import exact_search
from tiered_index.planner.plan import make_plan
from tiered_index.results import SearchResult
from tiered_index.search import search
from tiered_index.stats import IndexStats, index_stats
from tiered_index.storage.commit import Store
from tiered_index.storage.files import Files
from tiered_index.storage.lock import WriterLock
from tiered_index.storage.manifest import Manifest
from tiered_index.storage.snapshot import Snapshot
from tiered_index.storage.write import write_rows
from tiered_index.validate.batch import Intake, RowBatch
from tiered_index.validate.ids import Keys, id_array, id_keys
from tiered_index.validate.vectors import prepare_queries

Mode = Literal["rw", "r"]


def open_index(
    path: str | os.PathLike[str],
    dim: int | None = None,
    *,
    metric: Metric | None = None,
    prefix_dim: int | None = None,
    store_dim: int | None = None,
    dtype: Dtype | None = None,
    graph_degree: int | None = None,
    ef_construction: int | None = None,
    mode: Mode = "rw",
) -> Index:
    """Open an index, or create it if there is none and `dim` is given.

    The settings are fixed when the index is created; given again later, they must be the same.

    Parameters
    ----------
    path : path
        The index folder.
    dim : int, optional
        Length of the vectors; needed to create.
    metric : {"cosine", "dot"}, default "cosine"
        How full vectors are compared; higher is better.
    prefix_dim : int, default 256
        Leading dimensions held in memory; a multiple of 8, or all.
    store_dim : int, optional
        Leading dimensions kept on disk and ranked by; all by default.
    dtype : {"float32", "float16"}, default "float32"
        How full vectors are stored.
    graph_degree : int, default 24
        M of HNSW.
    ef_construction : int, default 100
        Beam width while graphs are built.
    mode : {"rw", "r"}
        "r" neither creates nor writes.

    Raises
    ------
    ParameterError
        A setting out of range.
    IndexNotFoundError
        There is none, and `dim` is not given or `mode` is "r".
    ConfigMismatchError
        The index was made with other settings.
    NotAnIndexError
        The path is a file, or a folder of something else.
    CorruptIndexError
        Files are missing or damaged.
    """
    one_of("mode", mode, ("rw", "r"))
    settings = {
        "store_dim": store_dim,
        "prefix_dim": prefix_dim,
        "metric": metric,
        "dtype": dtype,
        "graph_degree": graph_degree,
        "ef_construction": ef_construction,
    }
    store = Store(Path(path), Files())
    if store.exists():
        manifest = store.newest()
        manifest.config.check_same(dim=dim, **settings)
    elif dim is None or mode == "r":
        raise IndexNotFoundError(f"{path}: there is no index here; give dim= to create one")
    else:
        manifest = store.create(make_config(dim, **settings))  # type: ignore[arg-type]
    return Index(store, Snapshot(manifest, store.segments), mode)


def index_exists(path: str | os.PathLike[str]) -> bool:
    """Tell whether there is an index at `path`; raise NotAnIndexError if there is something else."""
    return Store(Path(path), Files()).exists()


class Index:
    """An open index; made by :func:`tiered_index.open`.

    Any number of threads may search it while one writes. The first write takes the writer's lock, which
    is held until :meth:`close`.
    """

    def __init__(self, store: Store, snapshot: Snapshot, mode: Mode) -> None:
        self._store = store
        self._current: Snapshot | None = snapshot
        self._mode = mode
        self._lock: WriterLock | None = None
        self._write_mutex = threading.RLock()

    def add(self, ids: Any, vectors: Any, metadata: Any = None) -> None:
        """Add rows, durably and all together.

        Parameters
        ----------
        ids : sequence of str or of int
            One kind an index; the first rows decide which.
        vectors : array_like, shape (n, dim)
            NumPy, nested sequences, Arrow lists, or anything with ``__array__``.
        metadata : columns or sequence of mappings, optional
            Table, RecordBatch, DataFrame, mapping of columns, or one mapping a row. The first rows decide
            the columns and their types.

        Raises
        ------
        InvalidInputError
            One of its subclasses, naming value and rows; the index is as it was.
        IndexLockedError
            Another process is writing.
        StorageError
            The disk failed; the index is as it was, unless it is a CommitUncertainError.
        """
        self.write(lambda intake: intake.batches(ids, vectors, metadata))

    def write(self, batches: Callable[[Intake], Iterable[RowBatch]]) -> int:
        """Add a stream of checked batches as one commit; what `add` and ingestion are made of.

        Parameters
        ----------
        batches : callable
            Given what checks rows against this index, returns the batches.

        Returns
        -------
        int
            How many rows were added.
        """
        with self._writing() as snapshot:
            manifest = snapshot.manifest
            intake = Intake(manifest.config, manifest.id_kind, snapshot.schema)
            self._advance(write_rows(self._store, snapshot, batches(intake)))
            return self.count() - snapshot.rows

    def find(self, ids: pa.Array, keys: Keys) -> NDArray[np.int64]:
        """Return a number below 0 for each checked id that the index does not hold; for ingestion."""
        return self._snapshot().find(ids, keys)

    def get(self, ids: Any, *, include_vectors: bool = False) -> pa.Table:
        """Return rows by id, in the order of `ids`; ids that are not in the index are left out.

        Parameters
        ----------
        ids : sequence of str or of int
            Which rows.
        include_vectors : bool
            Add the column ``vector``, as it is stored.

        Returns
        -------
        pyarrow.Table
            Columns id, the metadata columns and, if asked, vector.
        """
        snapshot = self._snapshot()
        array = id_array(ids, snapshot.manifest.id_kind)
        addresses = snapshot.find(array, id_keys(array))
        return snapshot.table(addresses[addresses >= 0], vectors=include_vectors)

    def count(self) -> int:
        """Return the number of rows."""
        return self._snapshot().rows

    def __len__(self) -> int:
        return self.count()

    def search(
        self,
        query: Any,
        k: int = 10,
        *,
        prefix_dim: int | None = None,
        ef: int | None = None,
        candidates: int | None = None,
        exact: bool = False,
    ) -> SearchResult:
        """Find the k rows whose full vectors score highest.

        Parameters
        ----------
        query : array_like, shape (dim,) or (n, dim)
            One query, or several.
        k : int
            Results a query; fewer come back where the index holds fewer rows.
        prefix_dim : int, optional
            Leading dimensions that find candidates: a multiple of 8 up to the index's.
        ef : int, optional
            Beam width of the walk through the graph.
        candidates : int, optional
            Rows to rescore by their full vectors.
        exact : bool
            Score every row's full vector instead.

        Returns
        -------
        SearchResult
            ids and scores of shape (k,) for one query, (n, k) for several.

        Raises
        ------
        InvalidInputError
            One of its subclasses, for a query or a number that cannot be used.
        IndexClosedError
            After :meth:`close`.
        """
        started = perf_counter()
        snapshot = self._snapshot()
        plan = make_plan(
            k,
            snapshot.config.prefix_dim,
            prefix_dim=prefix_dim,
            ef=ef,
            candidates=candidates,
            exact=exact,
        )
        queries, single = prepare_queries(query, snapshot.config)
        hits = (
            exact_search(snapshot, queries, k, started)
            if exact
            else search(snapshot, queries, k, plan, started)
        )
        return SearchResult(hits, snapshot, single=single)

    def stats(self) -> IndexStats:
        """Return counts, and the bytes of each tier in memory and on disk."""
        return index_stats(self._snapshot())

    @property
    def config(self) -> IndexConfig:
        """The settings the index was made with."""
        return self._snapshot().config

    @property
    def schema(self) -> pa.Schema:
        """The metadata columns; empty before the first rows."""
        schema = self._snapshot().schema
        return pa.schema([]) if schema is None else schema

    @property
    def path(self) -> Path:
        """The index folder."""
        return self._store.root

    @property
    def closed(self) -> bool:
        """Whether the index was closed."""
        return self._current is None

    def _snapshot(self) -> Snapshot:
        snapshot = self._current
        if snapshot is None:
            raise IndexClosedError(f"{self._store.root}: the index was closed")
        return snapshot

    @contextmanager
    def _writing(self) -> Iterator[Snapshot]:
        """Hold the writer's lock, at the newest generation."""
        with self._write_mutex:
            self._snapshot()
            if self._mode == "r":
                raise ReadOnlyError(f"{self._store.root}: was opened with mode='r'")
            if self._lock is None:
                self._lock = WriterLock(self._store.root)
                self._advance(self._store.newest())  # another writer may have been here
            yield self._snapshot()

    def _advance(self, manifest: Manifest) -> None:
        snapshot = self._snapshot()
        if manifest.generation != snapshot.manifest.generation:
            self._current = Snapshot(manifest, self._store.segments, snapshot.segments)

    def close(self) -> None:
        """Close the files and let the next writer in; closing again does nothing."""
        with self._write_mutex:
            snapshot, self._current = self._current, None
            if snapshot is not None:
                snapshot.close()
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._current is None:
            return f"Index({str(self._store.root)!r}, closed)"
        config = self._current.config
        return (
            f"Index({str(self._store.root)!r}, rows={self._current.rows}, dim={config.dim}, "
            f"prefix_dim={config.prefix_dim}, metric={config.metric!r})"
        )
