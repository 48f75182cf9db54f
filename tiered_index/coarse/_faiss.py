"""The only module that imports faiss.

It knows two shapes of index, both over the inner product: an HNSW graph (``IndexHNSWSQ``), whose codes are
bf16 or a byte a dimension, and a flat array (``IndexScalarQuantizer``), whose codes are bf16. A *view*
scores only the first d dimensions of the same codes: a scalar quantizer of dimension d whose ``code_size`` is
still that of the whole code steps over the rest, and a graph over it walks the same links. Codes and links of
a mapped file are assigned as views, so a view costs no memory.

Codes of a graph begin at a multiple of a cache line in the file, and so in memory when it is mapped: a
walk over codes that lie across lines took 1.2 times as long. FAISS's format has no room to choose where,
so two transforms that do nothing, and levels that no node reaches, move them.

Graphs are built on bf16 codes: on 250,000 prefixes of 256 dimensions that took as long as building on
float32 (33.7 s against 37.4 s) in half the memory, and the recall was the same. When a graph is complete,
and the range of each dimension is known, its codes become bytes (``QT_8bit``), unless that would lose much.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from tiered_index.coarse.content import Content, Graph
from tiered_index.coarse.lazy import PROCESS
from tiered_index.errors import CorruptIndexError

CODE_BYTES_PER_DIM = 2
"""Of bf16."""

LINE_BYTES = 64

MAX_BYTES_LOSS = 0.03
"""What bytes may lose of the codes, as a share of their length (root mean square). Embeddings lose 0.01, and
as many of the best ten are then among the best 16 to 96 prefixes as are with float32, within 0.001. Where a
few numbers are a dozen times as large as the others, whose steps are then coarse, codes stay bf16."""

_INT_BYTES = 4
_WRITE_BYTES = 1 << 22
"""Written at a time, from a multiple of it on: Linux keeps what was written so in huge pages, where the file
system has them, and maps those. A walk then took 0.9 x the time; processes share them as any others."""

BF16_STEP = np.float32(2.0**-7)
"""Between two neighbouring numbers, as a share of the number."""

BYTE_STEPS = np.float32(255.0)
_ROWS_AT_ONCE = 16_384
_BF16 = faiss.ScalarQuantizer.QT_bf16
_BYTES = faiss.ScalarQuantizer.QT_8bit
_INNER_PRODUCT = faiss.METRIC_INNER_PRODUCT

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


class _Threads(threading.local):
    """FAISS keeps the number of OpenMP threads per calling thread; so does this note of it."""

    current = 0


_threads = _Threads()
_cores = os.cpu_count() or 1


def _after_fork() -> None:
    # GNU OpenMP's pool does not survive a fork: a parallel region in the child would wait for ever.
    global _cores
    _cores = 1
    faiss.omp_set_num_threads(1)
    _threads.current = 1


os.register_at_fork(after_in_child=_after_fork)
if os.getpid() != PROCESS:
    _after_fork()


def use_threads(parallel: bool) -> None:
    """Let FAISS calls of this thread use all cores, or one."""
    wanted = _cores if parallel else 1
    if _threads.current != wanted:
        faiss.omp_set_num_threads(wanted)
        _threads.current = wanted


def new_graph(dim: int, degree: int, ef_construction: int) -> Any:
    """Make an empty HNSW graph over bf16 codes."""
    index = faiss.IndexHNSWSQ(dim, _BF16, degree, _INNER_PRODUCT)
    index.hnsw.efConstruction = ef_construction
    index.is_trained = True  # bf16 has nothing to learn
    return index


def new_flat(dim: int) -> Any:
    """Make an empty array of bf16 codes."""
    return _quantizer(dim, None)


def add(index: Any, prefixes: Floats) -> None:
    """Encode and add prefixes, shape (n, dim), with all cores."""
    use_threads(parallel=True)
    index.add(prefixes)


def narrow(graph: Any) -> bool:
    """Make bytes of a graph's bf16 codes, in place; return whether that was done, or would lose too much."""
    storage = codes_of(graph)
    codes = codes_array(graph)
    low, high = np.full(graph.d, np.inf, np.float32), np.full(graph.d, -np.inf, np.float32)
    parts = range(0, len(codes), _ROWS_AT_ONCE)
    for first in parts:
        numbers = decode(codes[first : first + _ROWS_AT_ONCE])
        np.minimum(low, numbers.min(axis=0), out=low)
        np.maximum(high, numbers.max(axis=0), out=high)
    ranges = np.concatenate([low, high - low])
    bytewise = _quantizer(graph.d, ranges)
    whole = lost = 0.0
    for first in parts:
        numbers = decode(codes[first : first + _ROWS_AT_ONCE])
        difference = bytewise.sa_decode(bytewise.sa_encode(numbers)) - numbers
        lost += float(np.square(difference, dtype=np.float64).sum())
        whole += float(np.square(numbers, dtype=np.float64).sum())
    if not lost <= MAX_BYTES_LOSS**2 * whole:
        return False
    narrowed = codes.reshape(-1)[: codes.size // CODE_BYTES_PER_DIM].reshape(len(codes), -1)
    for first in parts:  # what is written lies before what is still to be read
        part = slice(first, first + _ROWS_AT_ONCE)
        narrowed[part] = bytewise.sa_encode(decode(codes[part]))
    storage.codes.resize(narrowed.size)
    storage.sq, storage.code_size = bytewise.sq, bytewise.code_size
    return True


def _quantizer(dim: int, ranges: Floats | None) -> Any:
    """Return an empty array of codes: of bytes over `ranges`, lows and then spans; of bf16 without."""
    made = faiss.IndexScalarQuantizer(dim, _BF16 if ranges is None else _BYTES, _INNER_PRODUCT)
    if ranges is not None:
        faiss.copy_array_to_vector(ranges, made.sq.trained)
        made.is_trained = True
    return made


def ranges_of(index: Any) -> Floats | None:
    """Return the low of each dimension and then each span, shape (2 d,), of bytes; None of bf16 codes."""
    sq = codes_of(index).sq
    if sq.qtype == _BF16:
        return None
    ranges: Floats = faiss.vector_to_array(sq.trained)
    return ranges


def write(index: Any, sink: Callable[[bytes], object]) -> None:
    """Serialise an index into `sink`, which is called with successive bytes and raises if it cannot.

    FAISS's own path writer has reported success on a full disk; a Python sink raises.
    """
    if is_graph(index):
        index = _aligned(index)
    _serialise(index, sink)


def _serialise(index: Any, sink: Callable[[bytes], object]) -> None:
    waiting = bytearray()

    def write_all(data: bytes) -> int:
        waiting.extend(data)
        whole = len(waiting) // _WRITE_BYTES * _WRITE_BYTES
        if whole:
            sink(bytes(memoryview(waiting)[:whole]))
            del waiting[:whole]
        return len(data)

    # Not FAISS's BufferedIOWriter: its last write is its destructor's, where an error ends the process.
    faiss.write_index(index, faiss.PyCallbackIOWriter(write_all, _WRITE_BYTES))
    if waiting:
        sink(bytes(waiting))


def _aligned(graph: Any) -> Any:
    """Return what to write instead of a graph, so that its codes, the last of the file, are aligned."""
    # The file has one odd byte in each index's header: with four of them what precedes is even.
    whole = faiss.IndexPreTransform(faiss.IndexPreTransform(graph))
    whole.is_trained = True
    sizes: list[int] = []
    _serialise(whole, lambda data: sizes.append(len(data)))
    before = sum(sizes) - codes_of(graph).codes.size()
    levels = graph.hnsw.cum_nneighbor_per_level
    for _ in range(-before % LINE_BYTES // _INT_BYTES):
        levels.push_back(levels.at(levels.size() - 1) + graph.hnsw.nb_neighbors(1))
    return whole


def read_mapped(path: str, descriptor: int) -> Any:
    """Open an index file with codes and links mapped, not read.

    Parameters
    ----------
    path : str
        Of the file, for errors, and where descriptors have no names.
    descriptor : int
        Of the file, which may have been removed.

    Raises
    ------
    CorruptIndexError
        FAISS cannot read it, or it is not of the two shapes this module writes.
    """
    try:
        named = Path(f"/dev/fd/{descriptor}")
        index = faiss.read_index(str(named) if named.exists() else path, faiss.IO_FLAG_MMAP_IFC)
    except (RuntimeError, MemoryError) as error:
        raise CorruptIndexError(f"{path}: FAISS cannot read it: {error}") from error
    while isinstance(index, faiss.IndexPreTransform):
        outer, index = index, faiss.downcast_index(index.index)
        index.referenced_objects = [outer]
    storage = codes_of(index)
    known = storage.sq.qtype == _BF16 or (
        storage.sq.qtype == _BYTES and is_graph(index) and storage.sq.trained.size() == 2 * index.d
    )
    if not known or index.metric_type != _INNER_PRODUCT:
        raise CorruptIndexError(f"{path}: not bf16 codes, or a graph of bytes, under the inner product")
    return index


def is_graph(index: Any) -> bool:
    """Tell a graph from an array."""
    return isinstance(index, faiss.IndexHNSW)


def codes_of(index: Any) -> Any:
    """Return the ``IndexScalarQuantizer`` that holds an index's codes."""
    return faiss.downcast_index(index.storage) if is_graph(index) else index


def codes_array(index: Any) -> NDArray[np.uint8]:
    """Return an index's codes, shape (rows, bytes a code), as a view that lives as long as the index."""
    storage = codes_of(index)
    shape = (int(storage.ntotal), int(storage.code_size))
    if not shape[0]:
        return np.empty(shape, np.uint8)
    flat: NDArray[np.uint8] = faiss.rev_swig_ptr(storage.codes.data(), shape[0] * shape[1])
    return flat.reshape(shape)


def encode(prefixes: Floats, ranges: Floats | None = None) -> NDArray[np.uint8]:
    """Return the codes of prefixes, shape (n, bytes a code): of bytes over `ranges`, or bf16."""
    codes: NDArray[np.uint8] = new_flat(prefixes.shape[1]).sa_encode(np.ascontiguousarray(prefixes))
    if ranges is not None:  # bytes are made of bf16
        codes = _quantizer(prefixes.shape[1], ranges).sa_encode(decode(codes))
    return codes


def tolerance(prefixes: Floats, ranges: Floats | None = None) -> Floats:
    """Return how far from prefixes what their codes stand for may lie, shape (n, d)."""
    allowed: Floats = BF16_STEP * np.abs(prefixes)
    return allowed if ranges is None else allowed + ranges[prefixes.shape[1] :] / BYTE_STEPS


def decode(codes: NDArray[np.uint8], ranges: Floats | None = None) -> Floats:
    """Return what codes stand for, shape (n, d)."""
    if ranges is not None:
        numbers: Floats = _quantizer(len(ranges) // 2, ranges).sa_decode(np.ascontiguousarray(codes))
        return numbers
    halves = np.ascontiguousarray(codes).view("<u2").astype(np.uint32)  # the upper half of float32
    return (halves << 16).view(np.float32)


def flat_of(codes: NDArray[np.uint8]) -> Any:
    """Return a flat index of a copy of bf16 codes."""
    index = new_flat(codes.shape[1] // CODE_BYTES_PER_DIM)
    if len(codes):
        index.add_sa_codes(np.ascontiguousarray(codes))
    return index


def flat_view(index: Any, dim: int) -> Any:
    """Return a flat index that scores the first `dim` dimensions of `index`'s codes."""
    storage = codes_of(index)
    ranges = ranges_of(index)
    view = _quantizer(dim, None if ranges is None else ranges.reshape(2, -1)[:, :dim].reshape(-1))
    view.sq.code_size = view.code_size = storage.code_size
    view.codes = storage.codes
    view.ntotal = storage.ntotal
    return view


def graph_view(index: Any, flat: Any) -> Any:
    """Return `index`'s graph over the codes of a :func:`flat_view`, which must outlive it."""
    view = faiss.IndexHNSW(flat)
    view.own_fields = False
    view.metric_type = _INNER_PRODUCT
    view.hnsw = index.hnsw
    view.ntotal = index.ntotal
    return view


def search_parameters(ef: int | None, selector: Any | None = None) -> Any:
    """Return the parameters of a walk, or of a scan (`ef` None), among the selected rows.

    They are read only, so one object serves every thread.
    """
    if ef is None:
        return faiss.SearchParameters(sel=selector)
    return faiss.SearchParametersHNSW(efSearch=ef, sel=selector)


def row_selector(bits: NDArray[np.uint8]) -> Any:
    """Return a selector of the rows whose bits are set, lowest bit first; `bits` must outlive it."""
    return faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))


def search(index: Any, prefixes: Floats, count: int, parameters: Any | None = None) -> tuple[Rows, Floats]:
    """Find each prefix's best `count` rows, best first; rows that were not found are -1.

    Parameters
    ----------
    index : faiss index or view
        What to search.
    prefixes : ndarray, shape (n, d), float32, C-contiguous
        d is the dimension of the view.
    count : int
        How many rows a query, at least 1.
    parameters : optional
        From :func:`search_parameters`, for graphs.

    Returns
    -------
    rows : ndarray, shape (n, count), int64
    scores : ndarray, shape (n, count), float32
        Inner products of prefixes.
    """
    n = len(prefixes)
    use_threads(parallel=n > 1)
    rows = np.empty((n, count), np.int64)
    scores = np.empty((n, count), np.float32)
    # search_c is the C++ call itself: the Python wrapper around it checks again what is known here.
    index.search_c(
        n, faiss.swig_ptr(prefixes), count, faiss.swig_ptr(scores), faiss.swig_ptr(rows), parameters
    )
    return rows, scores


def content_of(index: Any) -> Content:
    """Return an index's codes and links as views, valid as long as the index."""
    graph = None
    if is_graph(index):
        hnsw = index.hnsw
        entry, top_level = int(hnsw.entry_point), int(hnsw.max_level)
        offsets = faiss.rev_swig_ptr(hnsw.offsets.data(), hnsw.offsets.size()).view(np.int64)
        links = faiss.rev_swig_ptr(hnsw.neighbors.data(), hnsw.neighbors.size())
        degrees = int(hnsw.nb_neighbors(0)), int(hnsw.nb_neighbors(1))
        graph = Graph(offsets, links, degrees, entry, top_level)
    return Content(int(index.d), codes_array(index), ranges_of(index), graph)
