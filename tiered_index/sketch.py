"""Sketches of tails: what orders candidates before their full vectors are read.

A tail is what follows a vector's prefix. It is rotated at random, and of each of its dimensions a bit is
kept, or two or four; with them go the prefix's share of the vector's length, and the number that makes the
inner product of a query with the bits an unbiased estimate of that with the tail (Gao and Long, "RaBitQ",
SIGMOD 2024; of more bits, Gao et al., 2024). Prefix score and estimate together order candidates nearly as
full scores do. On 250,000 sentences, titles asked, 256 of 1,024 dimensions, so many rows were read for so
much of the recall@10 that all 128 candidates had, 0.974:

===============  =====  =====  =====  =====  =====  ==========
rows read           12     16     20     30     48  bytes a row
===============  =====  =====  =====  =====  =====  ==========
prefix order     .718   .793   .840   .900   .943
1 bit            .864   .926   .952   .971   .973         104
2 bits           .939   .968   .973   .974   .974         200
4 bits           .971   .974   .974   .974   .974         392
===============  =====  =====  =====  =====  =====  ==========

The rotation is signs at random and a fast Hadamard transform, four times; where the dimensions are no power
of two, of the first and of the last ones by turns. It takes D log D additions, in which the order is fixed:
the same tail has the same sketch on every machine. A query's tail is rotated too and rounded to six bits,
whose planes are counted against those of a row.

The file: a header, and a record a row: the planes of its bits, lowest first, each in whole 64-bit words, and
two float32.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tiered_index.blas import product
from tiered_index.config import IndexConfig
from tiered_index.errors import CorruptIndexError, disk_errors
from tiered_index.mapped import MappedFile
from tiered_index.resident import Extent

Floats = NDArray[np.float32]
Records = NDArray[np.uint8]

ROUNDS: Final = 4
QUERY_BITS: Final = 6
"""Of a dimension of a query's tail. Four bits lost .0005 of the recall at equal rows, six none."""

_SEED = 20
_MAGIC = b"tailsk01"
_HEADER = struct.Struct("<8s5Q")
_WORD_BITS = 64
_FACTORS_BYTES = 8
_ROWS_AT_ONCE = 256  # of 1,024 dimensions: 1 MB
_IN_MEMORY_BYTES = 8 << 20

_ROUNDED_OTHERWISE = 200
"""Of so many dimensions one may be rounded to the next level where sums are added in another order."""

_STEPS = {2: (0.7, 0.85, 1.0, 1.15), 4: (0.25, 0.29, 0.335, 0.38)}
"""Widths of a level that are tried for each row, in units of the root mean square of its tail."""


class Form(NamedTuple):
    """What tells the records of one kind of sketch from those of another.

    Attributes
    ----------
    prefix_dim : int
        Where tails begin.
    dims : int
        Their length.
    bits : int
        Kept of each dimension.
    unit : bool
        Whether vectors and prefixes are of unit length, as under cosine.
    """

    prefix_dim: int
    dims: int
    bits: int
    unit: bool

    @classmethod
    def of(cls, config: IndexConfig) -> Form:
        """Return the form of an index's sketches."""
        dims = config.store_dim - config.prefix_dim
        return cls(config.prefix_dim, dims, config.tail_sketch, config.metric == "cosine")

    @property
    def words(self) -> int:
        """64-bit words of a plane."""
        return -(-self.dims // _WORD_BITS)

    @property
    def record_bytes(self) -> int:
        """Bytes of a row."""
        return self.bits * self.words * 8 + _FACTORS_BYTES


@lru_cache(maxsize=64)
def signs_of(dims: int) -> Floats:
    """Return what each round multiplies by, shape (rounds, dims); of what is transformed, with its scale."""
    words = np.random.PCG64(_SEED).random_raw(-(-ROUNDS * dims // _WORD_BITS)).astype("<u8")
    bits = np.unpackbits(words.view(np.uint8), count=ROUNDS * dims, bitorder="little")
    signs = 1.0 - 2.0 * bits.reshape(ROUNDS, dims).astype(np.float32)
    block = block_of(dims)
    for number, row in enumerate(signs):
        first = (number % 2) * (dims - block)
        row[first : first + block] *= np.float32(block**-0.5)
    found = np.ascontiguousarray(signs, np.float32)
    found.flags.writeable = False
    return found


def block_of(dims: int) -> int:
    """Return the largest power of two that is not above `dims`."""
    return 1 << (dims.bit_length() - 1)


def rotated(tails: Floats) -> Floats:
    """Rotate tails, shape (n, dims); each as if it were alone, to the last bit."""
    dims = tails.shape[1]
    block, signs = block_of(dims), signs_of(dims)
    found = np.empty_like(tails, order="C")
    for start in range(0, len(tails), _ROWS_AT_ONCE):
        part = np.array(tails[start : start + _ROWS_AT_ONCE].T, np.float32, order="C")
        for number in range(ROUNDS):
            part *= signs[number][:, None]
            first = (number % 2) * (dims - block)
            half = block // 2
            while half:
                pairs = part[first : first + block].reshape(block // (2 * half), 2, half, -1)
                difference = pairs[:, 0] - pairs[:, 1]
                pairs[:, 0] += pairs[:, 1]
                pairs[:, 1] = difference
                half //= 2
        found[start : start + _ROWS_AT_ONCE] = part.T
    return found


def records_of(stored: NDArray[np.floating], inverse_norms: Floats | None, form: Form) -> Records:
    """Return the records of vectors.

    Parameters
    ----------
    stored : ndarray, shape (n, store_dim), float32 or float16
        As the full tier keeps them.
    inverse_norms : ndarray, shape (n,), float32, or None
        One over their lengths, under cosine.
    form : Form
        Of the records.

    Returns
    -------
    ndarray, shape (n, record_bytes), uint8
    """
    vectors = stored.astype(np.float32, copy=False)
    lengths = np.ones(len(vectors)) if inverse_norms is None else inverse_norms.astype(np.float64)
    tails = vectors[:, form.prefix_dim :]
    _, exponents = np.frexp(np.abs(tails).max(axis=1))  # sums must not overflow; a power of two is exact
    turned = rotated(np.ldexp(tails, -exponents[:, None]))
    levels = _levels(turned, form.bits)
    exact = turned.astype(np.float64)
    along = np.einsum("ij,ij->i", levels - (2**form.bits - 1) / 2, exact)
    squares = np.einsum("ij,ij->i", exact, exact)
    scales = np.divide(squares, along, out=np.zeros(len(along)), where=along > 0.0)
    largest = float(np.finfo(np.float32).max)
    factors = np.ones((len(vectors), 2))
    if form.unit:
        prefixes = vectors[:, : form.prefix_dim].astype(np.float64)
        factors[:, 0] = np.sqrt(np.einsum("ij,ij->i", prefixes, prefixes)) * lengths
    factors[:, 1] = np.minimum(np.ldexp(scales * lengths, exponents), largest)

    records = np.zeros((len(vectors), form.record_bytes), np.uint8)
    planes = records[:, :-_FACTORS_BYTES].reshape(len(vectors), form.bits, 8 * form.words)
    for number in range(form.bits):
        bits = np.packbits((levels >> number) & 1, axis=1, bitorder="little")
        planes[:, number, : bits.shape[1]] = bits
    records[:, -_FACTORS_BYTES:] = factors.astype("<f4").view(np.uint8)
    return records


def _levels(turned: Floats, bits: int) -> NDArray[np.uint8]:
    """Return what each number is rounded to, from 0 to 2**bits - 1, by the scale that is best for its row."""
    if bits == 1:
        return (turned >= 0.0).astype(np.uint8)
    half = 2 ** (bits - 1)
    spread = np.sqrt(np.einsum("ij,ij->i", turned, turned) / turned.shape[1])[:, None]
    spread[spread == 0.0] = 1.0
    best = np.full(len(turned), -1.0)
    found = np.zeros(turned.shape, np.uint8)
    for step in _STEPS[bits]:
        levels = np.clip(np.floor(turned / (spread * np.float32(step))), -half, half - 1)
        centred = levels + np.float32(0.5)
        along = np.einsum("ij,ij->i", centred, turned)
        along /= np.sqrt(np.einsum("ij,ij->i", centred, centred))
        better = along > best
        found[better] = (levels[better] + half).astype(np.uint8)
        best[better] = along[better]
    return found


class SketchBuilder:
    """Gathers the records of a segment: few in memory, more in a file that has no name.

    Parameters
    ----------
    config : IndexConfig
        The index's settings, with a sketch.
    folder : Path
        Where there is room for that file.
    """

    def __init__(self, config: IndexConfig, folder: Path) -> None:
        self._form = Form.of(config)
        self._rows, self._folder = 0, folder
        self._records = SpooledTemporaryFile(_IN_MEMORY_BYTES, dir=str(folder))  # noqa: SIM115 - until it is written

    def add(self, stored: NDArray[np.floating], inverse_norms: Floats | None) -> None:
        """Take vectors as :func:`records_of` does; StorageError where they find no room."""
        records = records_of(stored, inverse_norms, self._form)
        with disk_errors(f"{self._folder}: sketches cannot be kept"):
            self._records.write(records.tobytes())
        self._rows += len(records)

    def write(self, sink: Callable[[bytes], object]) -> None:
        """Call `sink` with the bytes of the file."""
        form = self._form
        sink(_HEADER.pack(_MAGIC, self._rows, form.prefix_dim, form.dims, form.bits, form.unit))
        with disk_errors(f"{self._folder}: sketches cannot be kept"):
            self._records.seek(0)
        while part := self._next():
            sink(part)
        self.close()

    def _next(self) -> bytes:
        with disk_errors(f"{self._folder}: sketches cannot be read again"):
            return self._records.read(_IN_MEMORY_BYTES)

    def close(self) -> None:
        """Let go of the records."""
        self._records.close()


class Asked(NamedTuple):
    """A query's tail, rotated and rounded.

    Attributes
    ----------
    weights : ndarray, shape (dims,), float32
        Odd whole numbers: twice the rounded numbers, in steps.
    half_step : float
        Half a step.
    total : float
        Sum of the weights.
    """

    weights: Floats
    half_step: float
    total: float


@lru_cache(maxsize=4)
def _asked(tail: bytes) -> Asked:
    turned = rotated(np.frombuffer(tail, np.float32)[None])[0]
    half = 2 ** (QUERY_BITS - 1)
    step = np.float32(np.abs(turned).max()) / np.float32(half - 0.5)
    if not step > 0.0:
        return Asked(np.ones(len(turned), np.float32), 0.0, float(len(turned)))
    rounded = np.clip(np.floor(turned / step), -half, half - 1)
    weights = (2.0 * rounded + 1.0).astype(np.float32)
    return Asked(weights, float(step) / 2.0, float(weights.sum(dtype=np.float64)))


class Sketch:
    """The sketch of a segment, mapped: worker processes share it.

    Parameters
    ----------
    path : str
        A file of :class:`SketchBuilder`, whose digest was checked.
    rows : int
        How many rows it must be of.
    config : IndexConfig
        The index's settings.

    Raises
    ------
    CorruptIndexError
        Not such a file.
    """

    def __init__(self, path: str, rows: int, config: IndexConfig) -> None:
        self.mapped = MappedFile(path)
        self.form = form = Form.of(config)
        expected = _HEADER.pack(_MAGIC, rows, form.prefix_dim, form.dims, form.bits, form.unit)
        try:
            mapping = mmap.mmap(self.mapped.descriptor, 0, access=mmap.ACCESS_READ)
        except (ValueError, OSError) as error:
            raise CorruptIndexError(f"{path}: not a readable sketch: {error}") from error
        if mapping[: _HEADER.size] != expected or len(mapping) != _HEADER.size + rows * form.record_bytes:
            raise CorruptIndexError(
                f"{path}: not a sketch of {rows} rows of {form.dims} dimensions after the "
                f"first {form.prefix_dim}, {form.bits} bits each"
            )
        self.records: Records = np.frombuffer(mapping, np.uint8, offset=_HEADER.size).reshape(
            rows, form.record_bytes
        )
        self._signs = signs_of(form.dims)

    def extents(self) -> list[Extent]:
        """Return the mapped memory that searches read."""
        return [(self.records.ctypes.data, self.records.nbytes)]

    @property
    def addresses(self) -> tuple[int, int, int, int, int, int, int, bool, int, int]:
        """What the compiled engine knows of it, in the order of its fields; valid as long as this object."""
        form = self.form
        return (
            self.records.ctypes.data,
            form.record_bytes,
            form.words,
            form.bits,
            form.prefix_dim,
            form.dims,
            self._signs.ctypes.data,
            form.unit,
            self.mapped.descriptor,
            self.mapped.size,
        )

    def estimates(
        self, query: Floats, prefix_dim: int, rows: NDArray[np.int64], scores: Floats
    ) -> NDArray[np.float64]:
        """Estimate full scores of rows.

        Parameters
        ----------
        query : ndarray, shape (store_dim,), float32
            Of unit length under cosine.
        prefix_dim : int
            Dimensions that found the rows.
        rows, scores : ndarray, shape (n,)
            Which, and their prefix scores.
        """
        form = self.form
        asked = _asked(np.ascontiguousarray(query[form.prefix_dim :]).tobytes())
        self.check()
        records = self.records[rows]
        planes = records[:, :-_FACTORS_BYTES].reshape(len(rows), form.bits, 8 * form.words)
        bits = np.unpackbits(planes, axis=2, count=form.dims, bitorder="little")
        powers = 2.0 ** np.arange(form.bits)
        sums = np.vecdot(bits.astype(np.float32), asked.weights).astype(np.float64)
        counts = product(sums, powers)
        factors = records[:, -_FACTORS_BYTES:].view("<f4").astype(np.float64)
        share = float(np.linalg.norm(query[:prefix_dim].astype(np.float64))) if form.unit else 1.0
        shift = (2**form.bits - 1) / 2 * asked.total
        found: NDArray[np.float64] = share * factors[:, 0] * scores
        found += factors[:, 1] * asked.half_step * (counts - shift)
        return found

    def holds(self, first: int, stored: NDArray[np.floating], inverse_norms: Floats | None) -> bool:
        """Tell whether rows from `first` on are these, but for what another machine adds otherwise."""
        found = self.records[first : first + len(stored)]
        wanted = records_of(stored, inverse_norms, self.form)
        if np.array_equal(found, wanted):
            return True
        differing = np.unpackbits(found[:, :-_FACTORS_BYTES] ^ wanted[:, :-_FACTORS_BYTES], axis=1).sum(
            axis=1
        )
        old, new = (records[:, -_FACTORS_BYTES:].view("<f4") for records in (found, wanted))
        few = self.form.bits * (1 + self.form.dims / _ROUNDED_OTHERWISE)
        return bool((differing <= few).all() and np.allclose(old, new, rtol=1e-3))

    def check(self) -> None:
        """Raise if the file was closed or has become shorter."""
        self.mapped.check()

    def close(self) -> None:
        """Let go of the file; the mapping stays until the last array over it goes."""
        self.mapped.close()
