"""Writes rows.parquet so that its vectors can be mapped in place.

A Parquet column that is uncompressed, PLAIN, without a dictionary, non-null and with one data page a
row group is a contiguous array of raw values inside the file; any Parquet reader reads it too.

That array begins with a page of memory, so that a row of 4 KiB is read from one page and not from two:
copied from the page cache it takes 0.75 us instead of 1.05, and half as many pages come from disk. To reach
that, the row group is moved by some zeros, which Parquet allows: what a file holds is found by the offsets in
its footer.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tiered_index.config import Dtype
from tiered_index.validate.metadata import ID_COLUMN, VECTOR_COLUMN

ROW_GROUP_ROWS = 8_192
"""Rows a row group; every one but the last has exactly this many, so that row r's place is arithmetic."""

_ONE_PAGE = 2**31 - 1
_MEMORY_PAGE: Final = 4_096
_LEAST_ALIGNED: Final = 1_024
"""Rows of a row group that is aligned: a page of zeros is nothing beside so many."""

_CHECKSUM: Final = 6
"""Bytes of a page's checksum in its header: one says what it is, and the number takes five, 15 times in 16,
or fewer; vectors then begin so much before the page of memory."""

_ARROW_FLOATS: dict[str, pa.DataType] = {"float32": pa.float32(), "float16": pa.float16()}


def vector_type(dim: int, dtype: Dtype) -> pa.DataType:
    """Return the Arrow type of the vector column."""
    return pa.list_(pa.field("item", _ARROW_FLOATS[dtype], nullable=False), dim)


def file_schema(id_type: pa.DataType, metadata: pa.Schema, dim: int, dtype: Dtype) -> pa.Schema:
    """Return the schema of rows.parquet: id, the metadata columns, vector."""
    return pa.schema(
        [
            pa.field(ID_COLUMN, id_type, nullable=False),
            *metadata,
            pa.field(VECTOR_COLUMN, vector_type(dim, dtype), nullable=False),
        ]
    )


class ParquetRowsWriter:
    """Appends rows to a Parquet file in row groups of :data:`ROW_GROUP_ROWS`.

    Parameters
    ----------
    sink : file object
        Where the bytes go; it is not closed.
    schema : pyarrow.Schema
        From :func:`file_schema`.
    """

    def __init__(self, sink: Any, schema: pa.Schema) -> None:
        self._schema = schema
        self._sink = pa.PythonFile(sink, mode="w")
        self._writer = _writer(self._sink, schema)
        # how long the other columns of a row group are is known once they have been written
        self._counted = pa.MockOutputStream()
        self._others = _writer(self._counted, schema.remove(schema.get_field_index(VECTOR_COLUMN)))
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0

    def append(self, ids: pa.Array, metadata: pa.Table, vectors: NDArray[Any]) -> None:
        """Add rows; `vectors` is of shape (n, dim) and the column's type."""
        kind = self._schema.field(VECTOR_COLUMN).type
        flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
        columns = [ids, *metadata.columns, pa.FixedSizeListArray.from_arrays(flat, type=kind)]
        self._waiting.append(pa.table(columns, schema=self._schema))
        self._waiting_rows += len(vectors)
        if self._waiting_rows >= ROW_GROUP_ROWS:
            self._write(self._waiting_rows // ROW_GROUP_ROWS * ROW_GROUP_ROWS)

    def finish(self) -> None:
        """Write what waits, and the footer."""
        if self._waiting_rows:
            self._write(self._waiting_rows)
        self._writer.close()

    def abandon(self) -> None:
        """Let go of the file without caring what it holds."""
        self._writer.is_open = False  # else its destructor would write a footer to a closed file

    def _write(self, rows: int) -> None:
        table = pa.concat_tables(self._waiting)
        for start in range(0, rows, ROW_GROUP_ROWS):
            group = table.slice(start, min(ROW_GROUP_ROWS, rows - start)).combine_chunks()
            if group.num_rows >= _LEAST_ALIGNED:
                self._align(group)
            self._writer.write_table(group, row_group_size=ROW_GROUP_ROWS)
        rest = table.slice(rows)
        self._waiting = [rest] if rest.num_rows else []
        self._waiting_rows = rest.num_rows

    def _align(self, group: pa.Table) -> None:
        """Write zeros, so many that the vectors of `group` will begin with a page of memory."""
        before = self._counted.size()
        self._others.write_table(group.drop_columns(VECTOR_COLUMN), row_group_size=ROW_GROUP_ROWS)
        begin = self._sink.tell() + self._counted.size() - before
        begin += _lead(self._schema.field(VECTOR_COLUMN).type, group.num_rows)
        self._sink.write(bytes(-begin % _MEMORY_PAGE))


def _writer(sink: Any, schema: pa.Schema, *, checksum: bool = True) -> pq.ParquetWriter:
    others = [name for name in schema.names if name != VECTOR_COLUMN]
    return pq.ParquetWriter(
        sink,
        schema,
        compression={
            _leaf(schema, name): "NONE" if name == VECTOR_COLUMN else "zstd" for name in schema.names
        },
        use_dictionary=others,
        write_statistics=others,
        data_page_size=_ONE_PAGE,
        max_rows_per_page=_ONE_PAGE,
        write_page_checksum=checksum,
    )


@cache
def _lead(kind: pa.DataType, rows: int) -> int:
    """Return how many bytes of a column of vectors, of one row group, are before the first number."""
    numbers = pa.array(np.zeros(rows * kind.list_size, kind.value_type.to_pandas_dtype()))
    vectors = pa.FixedSizeListArray.from_arrays(numbers, type=kind)
    schema = pa.schema([pa.field(VECTOR_COLUMN, kind, nullable=False)])
    counted = pa.MockOutputStream()
    writer = _writer(counted, schema, checksum=False)
    before = counted.size()
    writer.write_table(pa.table([vectors], schema=schema), row_group_size=rows)
    written: int = counted.size() - before
    writer.is_open = False  # nobody reads its footer
    return written + _CHECKSUM - int(numbers.nbytes)


def _leaf(schema: pa.Schema, name: str) -> str:
    """Return the Parquet path of a column, which for a list names its items."""
    kind = schema.field(name).type
    is_list = pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return f"{name}.list.element" if is_list else name
