"""The coarse tier of one segment: a mapped FAISS file, searched at any prefix dimension."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tiered_index.coarse import _faiss
from tiered_index.errors import CorruptIndexError

GRAPH_MIN_ROWS = 4_096
"""Smaller segments get no graph. At 4,000 rows of 256 dimensions a scan took 60 us and a walk with
ef=96 65 us, at 8,000 rows 96 and 72 us, and a scan misses nothing."""

SCAN_ROWS_PER_EF = 40
"""A segment of at most this many rows for each unit of ef is scanned though it has a graph: the walk
would score as many codes, in a worse order. The same measurement: 4,000 rows at ef=96."""

_ADD_ROWS = 32_768
"""Rows that are linked at a time: each call to FAISS prepares a lock for every node there is."""

_parameters = lru_cache(maxsize=256)(_faiss.search_parameters)


class Candidates(NamedTuple):
    """What the coarse tier found.

    Attributes
    ----------
    rows : ndarray, shape (n, count), int64
        Rows of the segment, best first; -1 where there were no more.
    scores : ndarray, shape (n, count), float32
        Inner products of the prefixes.
    scanned : bool
        Whether every code was scored, rather than the graph walked.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    scanned: bool


class CoarseBuilder:
    """Encodes prefixes, and links them into a graph when there are enough of them.

    Parameters
    ----------
    prefix_dim : int
        Length of the prefixes.
    graph_degree, ef_construction : int
        M and efConstruction of HNSW.
    """

    def __init__(self, prefix_dim: int, graph_degree: int, ef_construction: int) -> None:
        self._prefix_dim = prefix_dim
        self._graph_degree = graph_degree
        self._ef_construction = ef_construction
        self._waiting: list[NDArray[np.float32]] = []
        self._waiting_rows = 0
        self._index: Any = None

    def add(self, prefixes: NDArray[np.float32]) -> None:
        """Take prefixes of shape (n, prefix_dim), of unit length under cosine."""
        self._waiting.append(prefixes)
        self._waiting_rows += len(prefixes)
        if self._waiting_rows >= _ADD_ROWS:
            self._flush()

    def write(self, sink: Any) -> bool:
        """Call `sink` with the bytes of a FAISS index file; return whether it holds a graph."""
        self._flush()
        _faiss.write(self._index, sink)
        return _faiss.is_graph(self._index)

    def _flush(self) -> None:
        if self._index is None:
            self._index = (
                _faiss.new_flat(self._prefix_dim)
                if self._waiting_rows < GRAPH_MIN_ROWS
                else _faiss.new_graph(self._prefix_dim, self._graph_degree, self._ef_construction)
            )
        if self._waiting:
            _faiss.add(self._index, np.concatenate(self._waiting))
        self._waiting.clear()
        self._waiting_rows = 0


class CoarseTier:
    """A segment's codes and graph, mapped from its file and shared with every process that maps it.

    Parameters
    ----------
    path : str
        A FAISS index file that :class:`CoarseBuilder` wrote.
    prefix_dim : int
        Length of the codes in it.
    rows : int
        How many it must hold.

    Raises
    ------
    CorruptIndexError
        The file is not such an index, or holds another number of rows or dimensions.
    """

    def __init__(self, path: str, prefix_dim: int, rows: int) -> None:
        self._index = _faiss.read_mapped(path)
        if (self._index.d, self._index.ntotal) != (prefix_dim, rows):
            raise CorruptIndexError(
                f"{path}: {self._index.ntotal} codes of {self._index.d} dimensions, "
                f"where {rows} of {prefix_dim} were written"
            )
        self.prefix_dim = prefix_dim
        self.rows = rows
        self.has_graph = _faiss.is_graph(self._index)
        self._views: dict[int, tuple[Any, Any]] = {}
        self._views_lock = threading.Lock()

    def search(self, prefixes: NDArray[np.float32], ef: int, count: int, *, scan: bool = False) -> Candidates:
        """Find each prefix's best `count` rows.

        Parameters
        ----------
        prefixes : ndarray, shape (n, d), float32, C-contiguous
            d is any multiple of 8 up to ``prefix_dim``, or ``prefix_dim`` itself.
        ef : int
            Beam width of the walk; at least `count` is used.
        count : int
            How many rows a query, at most ``rows``.
        scan : bool
            Score every code even where there is a graph.
        """
        flat, graph = self._view(prefixes.shape[1])
        ef = max(ef, count)
        if graph is not None and not scan and self.rows > SCAN_ROWS_PER_EF * ef:
            rows, scores = _faiss.search(graph, prefixes, count, _parameters(ef))
            if rows[:, -1].min() >= 0:
                return Candidates(rows, scores, scanned=False)
            # Fewer than asked for: the graph has parts that the walk did not reach.
        rows, scores = _faiss.search(flat, prefixes, count)
        return Candidates(rows, scores, scanned=True)

    def memory_bytes(self) -> tuple[int, int]:
        """Return the bytes of the codes and of the graph."""
        return _faiss.memory_bytes(self._index)

    def _view(self, dim: int) -> tuple[Any, Any]:
        view = self._views.get(dim)
        if view is None:
            with self._views_lock:
                flat = _faiss.flat_view(self._index, dim)
                view = (flat, _faiss.graph_view(self._index, flat) if self.has_graph else None)
                self._views[dim] = view
        return view
