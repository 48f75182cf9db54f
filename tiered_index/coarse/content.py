"""What a coarse tier's file holds, found in its mapping without FAISS.

FAISS maps codes and links, but reads each row's level and the place of its links into memory: 12 bytes a row
in every process. The compiled walk reads them from the mapping, which processes share.
"""

from __future__ import annotations

import mmap
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

_TRANSFORMED, _GRAPH, _CODES = b"IxPT", b"IHNs", b"IxSQ"
_HEADER: Final = np.dtype(
    [("dim", "i4"), ("rows", "i8"), ("unused", "i8", 2), ("trained", "u1"), ("metric", "i4")]
)
_QUANTIZER: Final = np.dtype(
    [("kind", "i4"), ("range", "i4"), ("argument", "f4"), ("dim", "u8"), ("code_bytes", "u8")]
)
_ENDS: Final = np.dtype([("entry", "i4"), ("top_level", "i4"), ("unused", "i4", 3)])
_INNER_PRODUCT: Final = 0
_BF16, _BYTES = 7, 0
_ROWS_AT_ONCE: Final = 65_536


class Graph(NamedTuple):
    """The links of an HNSW graph.

    Attributes
    ----------
    offsets : ndarray of int64, shape (rows + 1,)
        Where each row's links begin; perhaps at an odd address.
    links : ndarray of int32
        -1 after the last of each level.
    degrees : (int, int)
        Links of a row on level 0, and on each above.
    entry, top_level : int
        The row that walks begin with, and its level.
    """

    offsets: NDArray[np.int64]
    links: NDArray[np.int32]
    degrees: tuple[int, int]
    entry: int
    top_level: int


class Content(NamedTuple):
    """Codes, perhaps under a graph; the arrays keep the memory that they lie in.

    Attributes
    ----------
    dim : int
        Dimensions of the prefixes.
    codes : ndarray of uint8, shape (rows, bytes a code)
        bf16 numbers, or bytes.
    ranges : ndarray of float32, shape (2 dim,), or None
        The low of each dimension and then each span, where codes are bytes.
    graph : Graph or None
        Without one, codes are scanned.
    """

    dim: int
    codes: NDArray[np.uint8]
    ranges: NDArray[np.float32] | None
    graph: Graph | None

    @property
    def rows(self) -> int:
        """How many codes there are."""
        return len(self.codes)


class _UnknownError(Exception):
    """Not as FAISS wrote it when this was made."""


class _File:
    """What is left of a file."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0

    def vector(self, kind: Any, size: int | None = None) -> NDArray[Any]:
        """Return an array, whose size comes before it, if it is not given."""
        dtype = np.dtype(kind)
        count = int(self.vector("u8", 1)[0]) if size is None else size
        _expect(count * dtype.itemsize <= len(self._data) - self._at)
        found = np.frombuffer(self._data, dtype, count, self._at)
        self._at += found.nbytes
        return found

    def one(self, kind: np.dtype[np.void]) -> dict[str, Any]:
        """Return a record's fields."""
        (found,) = self.vector(kind, 1)
        return {name: found[name].item() for name in kind.names or () if not kind[name].shape}

    def name(self) -> bytes:
        """Return what comes next."""
        return self.vector("u1", 4).tobytes()

    def header(self) -> tuple[int, int]:
        """Return the dimensions and rows of an index."""
        header = self.one(_HEADER)
        _expect(header["metric"] == _INNER_PRODUCT)
        return header["dim"], header["rows"]

    def ended(self) -> bool:
        """Return whether nothing is left."""
        return self._at == len(self._data)


def read_content(descriptor: int) -> Content | None:
    """Find codes and links in a file that was written by :mod:`tiered_index.coarse._faiss`.

    Return None if it is not as expected: then FAISS is to read it, or to say what is wrong.

    Parameters
    ----------
    descriptor : int
        Of the file; it may be closed afterwards.
    """
    try:
        return _read(_File(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)))
    except (OSError, ValueError, _UnknownError):
        return None


def _read(file: _File) -> Content:
    name, graph = file.name(), None
    while name == _TRANSFORMED:
        file.header()
        _expect(file.vector("i4", 1)[0] == 0)  # transforms
        name = file.name()
    if name == _GRAPH:
        _, rows = file.header()
        graph = _graph(file, rows)
        name = file.name()
    _expect(name == _CODES)
    dim, count = file.header()
    quantizer, ranges, codes = file.one(_QUANTIZER), file.vector("f4"), file.vector("u1")
    kind, code_bytes = quantizer["kind"], quantizer["code_bytes"]
    _expect((kind, code_bytes, ranges.size) in ((_BF16, 2 * dim, 0), (_BYTES, dim, 2 * dim)))
    _expect(quantizer["dim"] == dim and codes.size == count * code_bytes and file.ended())
    _expect(graph is None or graph.offsets.size == count + 1)
    _expect(graph is not None or kind == _BF16)
    aligned = np.array(ranges) if kind == _BYTES else None
    return Content(dim, codes.reshape(count, code_bytes), aligned, graph)


def _graph(file: _File, rows: int) -> Graph:
    file.vector("f8")  # by which levels were drawn
    ends, levels, offsets, links = file.vector("i4"), file.vector("i4"), file.vector("i8"), file.vector("i4")
    _expect(ends.size > 2 and levels.size == rows > 0 and offsets.size == rows + 1)
    _expect(ends[0] == 0 and bool((np.diff(ends) >= 0).all()))
    _expect(offsets[0] == 0 and offsets[-1] == links.size)
    for first in range(0, rows, _ROWS_AT_ONCE):
        some = levels[first : first + _ROWS_AT_ONCE]
        _expect(some.min() >= 0 and some.max() < ends.size)
        steps = np.diff(offsets[first : first + _ROWS_AT_ONCE + 1])
        _expect(np.array_equal(steps, ends[some]))
    last = file.one(_ENDS)
    _expect(0 <= last["entry"] < rows and 0 <= last["top_level"] < ends.size)
    base = int(ends[1])
    return Graph(offsets, links, (base, int(ends[2]) - base), last["entry"], last["top_level"])


def _expect(right: bool) -> None:
    if not right:
        raise _UnknownError
