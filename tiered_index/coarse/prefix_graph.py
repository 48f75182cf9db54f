"""The coarse tier of one segment: a mapped FAISS file, searched at any prefix dimension."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tiered_index.coarse.content import Content, read_content
from tiered_index.coarse.lazy import _faiss
from tiered_index.coarse.links import Links, all_rows, links_bytes
from tiered_index.coarse.selection import Selection
from tiered_index.compiled import get_engine
from tiered_index.config import CodeKind
from tiered_index.errors import CorruptIndexError
from tiered_index.mapped import MappedFile
from tiered_index.resident import Extent

GRAPH_MIN_ROWS = 4_096
"""Smaller segments get no graph. At 4,000 rows of 256 dimensions a scan took 60 us and a walk with
ef=96 65 us, at 8,000 rows 96 and 72 us, and a scan misses nothing."""

SCAN_ROWS_PER_EF = 40
"""A segment of at most this many rows for each unit of ef is scanned though it has a graph: the walk
would score as many codes, in a worse order. The same measurement: 4,000 rows at ef=96."""

NEAR_EF, NEAR_ROWS = 16, 48
"""Beam of a walk that looks around a query, and of the rows that it meets how many are looked at."""

SCANNED_ROWS = SCAN_ROWS_PER_EF * 1_024
"""Segments of at most so many are scanned now and then, by FAISS: it opens them when the index is opened, and
not while somebody waits for an answer."""

_ADD_ROWS = 32_768
"""Rows that are linked at a time: each call to FAISS prepares a lock for every node there is."""


@lru_cache(maxsize=256)
def _parameters(ef: int) -> Any:
    return _faiss.search_parameters(ef)


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
    distances : int
        Codes that were scored, for all queries; 0 where FAISS walked, which does not count them.
    late : bool
        The deadline came first.
    walk_ms : float
        Time of a compiled walk; 0 for any other way.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    scanned: bool
    distances: int
    late: bool = False
    walk_ms: float = 0.0


class Written(NamedTuple):
    """What a coarse tier's file holds.

    Attributes
    ----------
    has_graph : bool
        Whether codes are linked.
    code : {"bf16", "sq8"}
        What a dimension is: a bfloat16 number, or a byte, which is a step of its range.
    """

    has_graph: bool
    code: CodeKind


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

    def write(self, sink: Any) -> Written:
        """Call `sink` with the bytes of a FAISS index file, and say what it holds.

        The codes of a graph are made bytes before, if that loses little.
        """
        self._flush()
        has_graph = _faiss.is_graph(self._index)
        narrowed = has_graph and _faiss.narrow(self._index)
        _faiss.write(self._index, sink)
        return Written(has_graph, "sq8" if narrowed else "bf16")

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
    """Codes, perhaps under a graph, searched at any prefix dimension.

    Parameters
    ----------
    content : Content
        Where codes and links are.
    mapped : MappedFile, optional
        The file that they are mapped from.
    index : faiss index, optional
        FAISS's own of the same; without it, FAISS opens the file when something is left to it.
    """

    def __init__(self, content: Content, mapped: MappedFile | None = None, index: Any = None) -> None:
        self._content = content
        self._opened: dict[str, Any] = {} if index is None else {"index": index}
        self.mapped = mapped
        self.prefix_dim = content.dim
        self.rows = content.rows
        self.has_graph = content.graph is not None
        self.code: CodeKind = "bf16" if content.ranges is None else "sq8"
        self._views: dict[int, tuple[Any, Any]] = {}
        self._engine: Any = get_engine() if self.has_graph else None
        if self._engine is not None and self.rows >= self._engine.MAX_ROWS:
            self._engine = None
        self.fields: Any = None
        """What the compiled engine knows of the graph, valid as long as the tier; None without one."""
        if self._engine is not None and content.graph is not None:
            ranges, graph = content.ranges, content.graph
            self.fields = self._engine.graph_fields(
                content.codes.ctypes.data,
                content.codes.shape[1],
                graph.offsets.ctypes.data,
                graph.links.ctypes.data,
                graph.degrees,
                graph.entry,
                graph.top_level,
                0 if ranges is None else ranges.ctypes.data,
            )
        if self.fields is None or self.rows <= SCANNED_ROWS:
            self._view(self.prefix_dim)
        self._links = all_rows(self.fields)
        self._every: NDArray[np.int32] | None = None

    @classmethod
    def open(cls, path: str, prefix_dim: int, rows: int) -> CoarseTier:
        """Map a segment's codes and graph from its file; every process that maps it shares them.

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
        mapped = MappedFile(path)
        content, index = read_content(mapped.descriptor), None
        if content is None:
            index = _faiss.read_mapped(path, mapped.descriptor)
            content = _faiss.content_of(index)
        if (content.dim, content.rows) != (prefix_dim, rows):
            raise CorruptIndexError(
                f"{path}: {content.rows} codes of {content.dim} dimensions, "
                f"where {rows} of {prefix_dim} were written"
            )
        return cls(content, mapped, index)

    @classmethod
    def gathered(cls, parts: Sequence[tuple[CoarseTier, NDArray[np.int64]]]) -> CoarseTier:
        """Copy some rows of several tiers into one array of codes in memory, in that order."""
        index = _faiss.flat_of(np.concatenate([tier.codes()[rows] for tier, rows in parts]))
        return cls(_faiss.content_of(index), index=index)

    def codes(self) -> NDArray[np.uint8]:
        """Return the codes, shape (rows, bytes a code), as a view that lives as long as the tier.

        A code is bf16 numbers, or in a graph bytes.
        """
        self.check()
        return self._content.codes

    def encode(self, prefixes: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return the codes of prefixes, shape (n, bytes a code), as this tier has them."""
        return _faiss.encode(prefixes, self._content.ranges)

    def tolerance(self, prefixes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return how far from prefixes what their codes stand for may lie, shape (n, prefix_dim)."""
        return _faiss.tolerance(prefixes, self._content.ranges)

    def decode(self, codes: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return what codes of this tier stand for, shape (n, prefix_dim)."""
        return _faiss.decode(codes, self._content.ranges)

    def search(
        self,
        prefixes: NDArray[np.float32],
        ef: int,
        count: int,
        *,
        scan: bool = False,
        among: Selection | None = None,
        deadline_ns: int = 0,
    ) -> Candidates:
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
        among : Selection, optional
            Find these rows only; `count` is at most as many.
        deadline_ns : int
            When the compiled walk of a single query ends with what it has, on the clock of
            ``perf_counter_ns``; 0 for none. FAISS's walk and a scan do not look at the clock.
        """
        self.check()
        if not len(prefixes):
            return Candidates(np.empty((0, count), np.int64), np.empty((0, count), np.float32), False, 0)
        ef = max(ef, count)
        scans = self._scans(ef if among is None else among.wider(ef), scan)
        if self.fields is not None and len(prefixes) == 1:
            found = self._by_engine(prefixes[0], ef, count, among, deadline_ns, scan=scans)
            if found is not None:
                return found
        flat, graph = self._view(prefixes.shape[1])
        if graph is not None and not scans:
            parameters = _parameters(ef) if among is None else among.parameters(ef)
            rows, scores = _faiss.search(graph, prefixes, count, parameters)
            if rows[:, -1].min() >= 0:
                return Candidates(rows, scores, scanned=False, distances=0)
            # Fewer than asked for: the graph has parts that the walk did not reach.
        parameters = None if among is None else among.parameters(None)
        rows, scores = _faiss.search(flat, prefixes, count, parameters)
        return Candidates(rows, scores, scanned=True, distances=len(prefixes) * self.rows)

    def _scans(self, ef: int, scan: bool) -> bool:
        return scan or not self.has_graph or self.rows <= SCAN_ROWS_PER_EF * ef

    def _by_engine(
        self,
        prefix: NDArray[np.float32],
        ef: int,
        count: int,
        among: Selection | None,
        deadline_ns: int,
        *,
        scan: bool,
    ) -> Candidates | None:
        """Walk, or scan; None if fewer than `count` were found, and not for want of time."""
        settings, links = self.settings(among, scan=scan), self.links_of(among)
        rows, scores, distances, late, ms = self._engine.walk(
            links.graph, prefix, count if scan else ef, deadline_ns=deadline_ns, **settings
        )
        if len(rows) < count and not late:
            return None
        return Candidates(rows[None, :count], scores[None, :count], scan, distances, late, ms)

    def settings(self, among: Selection | None, *, scan: bool) -> dict[str, Any]:
        """Return what tells the compiled engine which rows to score or to walk to, valid as long as both."""
        if among is not None:
            return among.settings(scan=scan)
        if not scan:
            return {}
        if self._every is None:  # no lock, as in :meth:`_view`
            self._every = np.arange(self.rows, dtype=np.int32)
        return {"rows": self._every}

    def near(self, prefix: NDArray[np.float32]) -> NDArray[np.int64] | None:
        """Return some of the rows nearest to a query, whatever is asked of them; None where FAISS walks."""
        if self.fields is None:
            return None
        self.check()
        found: NDArray[np.int64] = self._engine.near(self.fields, prefix, NEAR_EF, NEAR_ROWS)
        return found

    def links_of(self, among: Selection | None) -> Links:
        """Return what a compiled walk among some rows goes by, which must live as long as the walk."""
        links = None if among is None else among.links
        return self._links if links is None else links

    def link(self, among: Selection, going_on: Callable[[], bool]) -> None:
        """Link some rows among themselves, so that walks among them take no longer than among all.

        Parameters
        ----------
        among : Selection
            Which; they stay linked as long as it lives, or until its ``links`` are taken away.
        going_on : callable
            Asked every few milliseconds; when it returns False, nothing comes of it.
        """
        self.check()
        among.link(self._engine, self.fields, self._degree, going_on)

    def links_bytes(self, rows: int) -> int:
        """Return what links among so many rows take in memory."""
        return links_bytes(self.rows, rows, self._degree)

    def close(self) -> None:
        """Let go of the file; the mapping stays until the tier goes."""
        if self.mapped is not None:
            self.mapped.close()

    def check(self) -> None:
        """Raise if the file was closed or has become shorter."""
        if self.mapped is not None:
            self.mapped.check()

    def memory_bytes(self) -> tuple[int, int]:
        """Return the bytes of the codes and of the graph."""
        sizes = [size for _, size in self.extents()]
        return sizes[0], sum(sizes[1:])

    def extents(self) -> list[Extent]:
        """Return the memory that searches read: of codes, and of what the graph is made of."""
        arrays: list[NDArray[Any]] = [self._content.codes]
        if self._content.graph is not None:
            arrays += [self._content.graph.links, self._content.graph.offsets]
        return [(array.ctypes.data, array.nbytes) for array in arrays]

    @property
    def _degree(self) -> int:
        return 0 if self._content.graph is None else self._content.graph.degrees[0]

    @property
    def _index(self) -> Any:
        """FAISS's own of the same; no lock, as in :meth:`_view`."""
        if "index" not in self._opened and self.mapped is not None:
            index = _faiss.read_mapped(self.mapped.path, self.mapped.descriptor)
            self._opened.setdefault("index", index)
        return self._opened["index"]

    def _view(self, dim: int) -> tuple[Any, Any]:
        view = self._views.get(dim)
        if view is None:
            # No lock: two threads may both make one, and a lock that is held during a fork stays held
            flat = _faiss.flat_view(self._index, dim)
            graph = _faiss.graph_view(self._index, flat) if self.has_graph else None
            view = self._views.setdefault(dim, (flat, graph))
        return view
