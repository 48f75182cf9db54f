"""Reads rows.parquet in place: vectors by mapping, metadata by Parquet's own reader."""

from __future__ import annotations

import base64
import mmap
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tiered_index.config import Dtype
from tiered_index.errors import CorruptIndexError, LayoutError, unreadable
from tiered_index.full.bounds import Bounds, group_bounds
from tiered_index.full.parquet_writer import ROW_GROUP_ROWS, vector_type
from tiered_index.mapped import MappedFile
from tiered_index.validate.metadata import ID_COLUMN, VECTOR_COLUMN

_GROUP_SHIFT = ROW_GROUP_ROWS.bit_length() - 1
_GROUP_MASK = ROW_GROUP_ROWS - 1
_VECTOR_PATHS = tuple(f"{VECTOR_COLUMN}.list.{item}" for item in ("element", "item"))
_ARROW_SCHEMA = b"ARROW:schema"
_MAX_PAGE_HEADER = 512
"""Bytes; headers written by Arrow take about 30."""


class ParquetRows:
    """The full tier of one segment.

    Parameters
    ----------
    path : str
        A file that :class:`~tiered_index.full.parquet_writer.ParquetRowsWriter` wrote.
    dim : int
        Length of the vectors in it.
    dtype : {"float32", "float16"}
        Their type.
    rows : int
        How many it must hold.
    copied : bool
        Read vectors that are asked for, rather than map them: the process then holds none of their pages.

    Raises
    ------
    LayoutError
        The vectors cannot be mapped in place; names the file and the row group.
    CorruptIndexError
        Not a Parquet file, or another number of rows or columns than were written.
    """

    def __init__(self, path: str, dim: int, dtype: Dtype, rows: int, *, copied: bool = False) -> None:
        self.path = path
        self.rows = rows
        self.copied = copied
        self._dim = dim
        self._dtype = np.dtype(dtype)
        self._row_bytes = dim * self._dtype.itemsize
        self.mapped = MappedFile(path)
        self._open(dim, dtype)

    def _open(self, dim: int, dtype: Dtype) -> None:
        try:
            # Two mappings: rows are read here and there, without read-ahead; columns from end to end.
            self._mapping = mmap.mmap(self.mapped.descriptor, 0, access=mmap.ACCESS_READ)
            self._parquet = pq.ParquetFile(
                pa.BufferReader(pa.py_buffer(self._mapping)), page_checksum_verification=True
            )
            random = mmap.mmap(self.mapped.descriptor, 0, access=mmap.ACCESS_READ)
        except (pa.ArrowException, ValueError, OSError) as error:
            raise CorruptIndexError(f"{self.path}: not a readable Parquet file: {error}") from error
        if hasattr(random, "madvise"):
            # 100 cold rows of 4 KiB took 239 ms with read-ahead and 7 ms without.
            random.madvise(mmap.MADV_RANDOM)
        self._random = random
        # Each row group's header is looked at: with read-ahead of 8 MiB opening read 1 of 4 GB, and what is
        # read pushes other files out where memory is short.
        self._bases = _vector_offsets(self.path, self._parquet, random, dim, dtype)
        self._types = _types_changed(self._parquet)
        found = self._parquet.metadata.num_rows
        if found != self.rows:
            raise CorruptIndexError(f"{self.path}: {found} rows, where {self.rows} were written")
        # Rows lie at any byte offset: one void item a byte, each as long as a row, makes them one gather.
        self._any_offset: NDArray[Any] = np.ndarray(
            (len(random) - self._row_bytes + 1,), f"V{self._row_bytes}", buffer=random, strides=(1,)
        )

    @property
    def descriptor(self) -> int:
        """The descriptor that rows are asked for, or copied, by; open as long as this object."""
        return self.mapped.descriptor

    def check(self) -> None:
        """Raise if the file was closed or has become shorter."""
        self.mapped.check()

    def addresses(self) -> tuple[int, int, int, int, int, bool]:
        """Return what the compiled road reads rows by, valid as long as this object.

        Address of the mapped file, of each row group's offset in it (int64), rows of a group as a power of
        two, bytes a row, dimensions, and whether they are float16.
        """
        mapping = self._any_offset.__array_interface__["data"][0]
        half = self._dtype.itemsize == np.dtype(np.float16).itemsize
        return mapping, self._bases.ctypes.data, _GROUP_SHIFT, self._row_bytes, self._dim, half

    def advise(self, rows: NDArray[np.int64]) -> None:
        """Ask the system to begin reading `rows`; nothing where it cannot be asked."""
        if hasattr(os, "posix_fadvise"):
            for offset in self._offsets(rows).tolist():
                os.posix_fadvise(self.descriptor, offset, self._row_bytes, os.POSIX_FADV_WILLNEED)

    def evict(self, rows: NDArray[np.int64] | None = None) -> bool:
        """Drop `rows`, or all, from memory; return whether that can be asked of the system."""
        if not hasattr(os, "posix_fadvise") or not hasattr(mmap, "MADV_DONTNEED"):
            return False
        if rows is None:
            for mapping in (self._random, self._mapping):
                mapping.madvise(mmap.MADV_DONTNEED)
            os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            return True
        for offset in self._offsets(rows).tolist():
            first = offset // mmap.PAGESIZE * mmap.PAGESIZE
            size = offset + self._row_bytes - first
            self._random.madvise(mmap.MADV_DONTNEED, first, size)
            os.posix_fadvise(self.descriptor, first, size, os.POSIX_FADV_DONTNEED)
        return True

    def _offsets(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        offsets: NDArray[np.int64] = (
            self._bases[rows >> _GROUP_SHIFT] + (rows & _GROUP_MASK) * self._row_bytes
        )
        return offsets

    def gather(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return a copy of the vectors of `rows`, in that order, shape (len(rows), dim).

        Raises
        ------
        CorruptIndexError
            The file has become shorter.
        """
        self.mapped.check()
        if self.copied:
            vectors = np.empty((len(rows), self._dim), self._dtype)
            for row, offset in zip(vectors, self._offsets(rows).tolist(), strict=True):
                _read_exactly(self.descriptor, memoryview(row.view(np.uint8)), offset, self.path)
            return vectors
        raw: NDArray[Any] = self._any_offset[self._offsets(rows)]
        return raw.view(self._dtype).reshape(len(rows), self._dim)

    def blocks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (first row, vectors) of each row group in turn.

        The array is reused: it holds until the next one is asked for. Read, not mapped, so that a pass
        over everything keeps one row group in memory and does not push out what searches use.

        Raises
        ------
        CorruptIndexError
            The file cannot be read, or has become shorter.
        """
        self.mapped.check()
        buffer = bytearray(min(ROW_GROUP_ROWS, max(self.rows, 1)) * self._row_bytes)
        for group, base in enumerate(self._bases.tolist()):
            first = group * ROW_GROUP_ROWS
            size = min(ROW_GROUP_ROWS, self.rows - first) * self._row_bytes
            _read_exactly(self.mapped.descriptor, memoryview(buffer)[:size], base, self.path)
            yield (
                first,
                np.frombuffer(buffer, self._dtype, size // self._dtype.itemsize).reshape(-1, self._dim),
            )

    def columns(self, names: Sequence[str], rows: NDArray[np.int64]) -> pa.Table:
        """Return columns of `rows`, in that order; only the row groups they lie in are decoded.

        Raises
        ------
        CorruptIndexError
            A page's checksum is wrong, or the file has become shorter.
        """
        groups, which = np.unique(rows >> _GROUP_SHIFT, return_inverse=True)
        table = self.groups(names, groups)
        places = which * ROW_GROUP_ROWS + (rows & _GROUP_MASK)  # only the file's last group is shorter
        return table.select(list(names)).take(pa.array(places))

    @property
    def group_count(self) -> int:
        """How many row groups there are."""
        return len(self._bases)

    def bounds(self, name: str) -> Iterator[Bounds | None]:
        """Yield what is known of a column in each row group without reading it."""
        kind = self._types.get(name, self._parquet.schema_arrow.field(name).type)
        return group_bounds(self._parquet.metadata, name, kind)

    def column(self, name: str) -> Iterator[tuple[int, pa.ChunkedArray]]:
        """Yield (first row, values) of a column, a row group at a time."""
        for group in range(self.group_count):
            yield group * ROW_GROUP_ROWS, self.groups([name], np.array([group]))[name]

    def groups(self, names: Sequence[str], groups: NDArray[np.int64]) -> pa.Table:
        """Return columns of whole row groups, one after the other.

        Raises
        ------
        CorruptIndexError
            A page's checksum is wrong, or the file has become shorter.
        """
        self.mapped.check()
        try:
            # A reader of its own: two threads in one of Arrow's read_row_groups crashed. And no threads of
            # Arrow's: one that lets go of Python's buffer while the process ends aborts it.
            reader = pq.ParquetFile(
                pa.BufferReader(pa.py_buffer(self._mapping)),
                metadata=self._parquet.metadata,
                page_checksum_verification=True,
            )
            table = reader.read_row_groups(groups.tolist(), columns=list(names), use_threads=False)
            for place, name in enumerate(table.column_names):
                if name in self._types:
                    table = table.set_column(place, name, table[name].cast(self._types[name]))
        except (pa.ArrowException, OSError) as error:
            raise CorruptIndexError(f"{self.path}: cannot be read: {error}") from error
        last = len(self._bases) - 1
        wanted = len(groups) * ROW_GROUP_ROWS
        if len(groups) and groups[-1] == last:
            wanted -= (last + 1) * ROW_GROUP_ROWS - self.rows
        if table.num_rows != wanted:  # a page's header is not in its checksum
            raise CorruptIndexError(
                f"{self.path}: pages of {table.num_rows} rows, where {wanted} were written"
            )
        return table

    def close(self) -> None:
        """Let nobody begin to read; mappings go when the last array over them does."""
        self.mapped.close()


def _types_changed(file: pq.ParquetFile) -> dict[str, pa.DataType]:
    """Return the types, as they were written, of columns that Parquet's reader returns with another one.

    Parquet has no seconds, for one, and no ``date64``: such times come back in milliseconds, or in days.
    """
    kept = (file.metadata.metadata or {}).get(_ARROW_SCHEMA)
    if kept is None:
        return {}
    written, found = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(kept))), file.schema_arrow
    return {
        field.name: field.type
        for field in written
        if field.name in found.names and not found.field(field.name).type.equals(field.type)
    }


def _vector_offsets(
    path: str, file: pq.ParquetFile, mapping: mmap.mmap, dim: int, dtype: Dtype
) -> NDArray[np.int64]:
    """Return the byte offset of each row group's first vector, having checked that they lie in place."""
    schema = file.schema_arrow
    for name in (ID_COLUMN, VECTOR_COLUMN):
        if name not in schema.names:
            raise CorruptIndexError(f"{path}: no column {name!r}")
    wanted, found = vector_type(dim, dtype), schema.field(VECTOR_COLUMN).type
    if (
        not pa.types.is_fixed_size_list(found)
        or found.list_size != dim
        or found.value_type != wanted.value_type
    ):
        raise CorruptIndexError(f"{path}: vectors of type {found}, not {wanted}")
    metadata = file.metadata
    column = metadata.num_columns - 1  # the vector is written last; a name alone could be another column's
    if metadata.schema.column(column).path not in _VECTOR_PATHS:
        raise CorruptIndexError(f"{path}: the column {VECTOR_COLUMN!r} is not the last")
    row_bytes = dim * np.dtype(dtype).itemsize
    bases = np.empty(metadata.num_row_groups, np.int64)
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        chunk = row_group.column(column)
        rows = row_group.num_rows
        page = _first_page_bytes(mapping, chunk.data_page_offset)
        problem = _layout_problem(chunk, page, rows * dim, rows * row_bytes)
        last = group == metadata.num_row_groups - 1
        if rows > ROW_GROUP_ROWS or (rows < ROW_GROUP_ROWS and not last):
            problem = f"{rows} rows, not {ROW_GROUP_ROWS}"
        if problem:
            raise LayoutError(f"{path}: row group {group} cannot be mapped: {problem}")
        bases[group] = chunk.data_page_offset + chunk.total_compressed_size - rows * row_bytes
    return bases


def _layout_problem(chunk: Any, page_bytes: int, numbers: int, value_bytes: int) -> str | None:
    """Say why a column chunk is not one plain page of `numbers` values; None if it is."""
    if chunk.compression != "UNCOMPRESSED":
        return f"compressed with {chunk.compression}"
    if chunk.has_dictionary_page or "PLAIN" not in chunk.encodings:
        return f"encoded as {', '.join(chunk.encodings)}"
    if chunk.num_values != numbers:
        return f"{chunk.num_values} numbers, not {numbers}"
    if not 0 < chunk.total_compressed_size - page_bytes <= _MAX_PAGE_HEADER:
        return "several data pages"
    return "a page shorter than its vectors" if page_bytes < value_bytes else None


def _first_page_bytes(mapping: mmap.mmap, offset: int) -> int:
    """Return the size of the page at `offset`: the third field of its header (Thrift compact protocol)."""
    at = offset
    fields = []
    for _ in range(3):  # type, uncompressed_page_size, compressed_page_size: each an i32
        if at >= len(mapping) or mapping[at] != 0x15:
            return -1
        at += 1
        number, shift = 0, 0
        while at < len(mapping) and shift < 35:
            byte = mapping[at]
            at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        fields.append((number >> 1) ^ -(number & 1))  # zigzag
    return fields[2]


def _read_exactly(fd: int, view: memoryview, offset: int, path: str) -> None:
    while view:
        try:
            count = os.preadv(fd, [view], offset)
        except OSError as error:
            raise unreadable(path, error) from error
        if count == 0:
            raise CorruptIndexError(f"{path}: ends before byte {offset + len(view)}")
        view = view[count:]
        offset += count
