"""Metadata: columns of Arrow types, the same ones for every row of an index."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tiered_index.errors import MetadataError
from tiered_index.validate.alike import check_alike
from tiered_index.validate.conversion import check_kept, check_valid, decoded, holds_uint64, plain

ID_COLUMN = "id"
VECTOR_COLUMN = "vector"
VECTOR_NUMBERS = f"{VECTOR_COLUMN}.list.element"
"""What Parquet calls the numbers of vectors; settings of a column of this name would be theirs."""
RESERVED = (ID_COLUMN, VECTOR_COLUMN, VECTOR_NUMBERS)
"""Column names the index uses itself."""

_ARROW_REFUSES = (pa.ArrowException, TypeError, ValueError, OverflowError)


def metadata_table(metadata: Any, rows: int, schema: pa.Schema | None, first_row: int = 0) -> pa.Table:
    """Turn metadata into a table of the index's columns.

    Parameters
    ----------
    metadata : None, Table, RecordBatch, DataFrame, mapping of columns, or sequence of mappings
        One value a row in every column. In a sequence of mappings, one a row, a key that is missing
        is a null; a whole column that is missing is an error.
    rows : int
        How many rows the batch has.
    schema : pyarrow.Schema or None
        The index's columns; None while it has no rows, and then the types given are taken.
    first_row : int
        Added to the rows that errors name.

    Raises
    ------
    MetadataError
        Unknown or missing columns, a reserved name, another number of rows, a value that does not fit
        its column's type, values of several kinds in one list, or an Arrow array that is not valid:
        strings that are not UTF-8.
    """
    table = _as_table(metadata, rows, schema, first_row)
    if table.num_columns and table.num_rows != rows:
        raise MetadataError(f"metadata has {table.num_rows} rows for {rows} vectors")
    names = table.column_names
    if len(set(names)) != len(names):
        raise MetadataError(f"metadata names a column twice: {names}")
    taken = [name for name in names if name in RESERVED]
    if taken:
        raise MetadataError(f"the index itself has a column {taken[0]!r}; give it another name")
    for name in names:
        _check_valid(name, table[name], first_row)
    if schema is None:
        return _checked_new(table)
    unknown = [name for name in names if name not in schema.names]
    if unknown:
        raise MetadataError(f"unknown columns {unknown}; the index has {schema.names}")
    missing = [name for name in schema.names if name not in names]
    if missing:
        raise MetadataError(f"missing columns {missing}")
    return pa.table([_cast(table[field.name], field, first_row) for field in schema], schema=schema)


def _check_valid(name: str, column: pa.ChunkedArray, first_row: int) -> None:
    try:
        check_valid(column)
    except _ARROW_REFUSES as error:

        def valid(rows: int) -> bool:
            try:
                check_valid(column.slice(0, rows))
            except _ARROW_REFUSES:
                return False
            return True

        row = first_not(valid, len(column))
        raise MetadataError(
            f"column {name!r} is not valid: {error}", [] if row is None else [first_row + row]
        ) from error


def _checked_new(table: pa.Table) -> pa.Table:
    """Return the first rows' columns as the index stores them: dictionaries and views as their values."""
    fields = [pa.field(field.name, plain(field.type)) for field in table.schema]
    for field in fields:
        if pa.types.is_null(field.type):
            raise MetadataError(f"column {field.name!r} has only nulls: give it a type (an Arrow array)")
        try:
            pq.write_table(pa.schema([field]).empty_table(), pa.BufferOutputStream())
        except (*_ARROW_REFUSES, OSError) as error:  # a decimal of negative scale is an OSError, of no disk
            raise MetadataError(
                f"column {field.name!r}: Parquet cannot hold {field.type}: {error}"
            ) from error
    columns = [_stored(table[field.name], field.type) for field in fields]
    return pa.table(columns, schema=pa.schema(fields))


def _stored(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Return a column as the type that the index stores; nothing can be taken from views, nor merged."""
    chunks = [decoded(chunk) for chunk in column.chunks]
    column = pa.chunked_array(chunks, chunks[0].type if chunks else plain(column.type))
    try:
        return column.cast(kind)
    except pa.ArrowNotImplementedError:  # a dictionary of views in a list
        if plain(column.type) == column.type:
            raise
        return pa.chunked_array([pa.array(column.to_pylist(), kind)])


def _as_table(metadata: Any, rows: int, schema: pa.Schema | None, first_row: int) -> pa.Table:
    if metadata is None:
        return pa.table({})
    if isinstance(metadata, pa.Table):
        return metadata
    if isinstance(metadata, pa.RecordBatch):
        return pa.Table.from_batches([metadata])
    if isinstance(metadata, Mapping):
        return _from_columns(metadata, rows, schema, first_row)
    if hasattr(metadata, "__arrow_c_stream__"):
        try:
            table = pa.table(metadata)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise MetadataError(f"metadata cannot become Arrow columns: {error}") from error
        pandas = sys.modules.get("pandas")
        if pandas is not None and isinstance(metadata, pandas.DataFrame):
            for place, dtype in enumerate(metadata.dtypes):
                if dtype == np.dtype(object):
                    name = table.column_names[place]
                    _check_alike(name, metadata.iloc[:, place], table.column(place), first_row)
        return table
    if isinstance(metadata, Sequence) and not isinstance(metadata, str | bytes):
        return _from_rows(metadata, rows, schema, first_row)
    raise MetadataError(f"metadata must be columns or a sequence of mappings, not {type(metadata).__name__}")


def _from_columns(
    metadata: Mapping[Any, Any], rows: int, schema: pa.Schema | None, first_row: int
) -> pa.Table:
    columns = {}
    for name, values in metadata.items():
        if not isinstance(name, str):
            raise MetadataError(f"column names must be str, not {name!r}")
        columns[name] = _column(name, values, schema, first_row)
        if len(columns[name]) != rows:
            raise MetadataError(f"column {name!r} has {len(columns[name])} rows for {rows} vectors")
    return pa.table(columns)


def _from_rows(metadata: Sequence[Any], rows: int, schema: pa.Schema | None, first_row: int) -> pa.Table:
    if len(metadata) != rows:
        raise MetadataError(f"metadata has {len(metadata)} rows for {rows} vectors")
    names: dict[str, None] = dict.fromkeys(schema.names if schema is not None else ())
    for row, values in enumerate(metadata):
        if not isinstance(values, Mapping):
            raise MetadataError(f"metadata must be mappings, not {values!r}", [first_row + row])
        for name in values:
            if not isinstance(name, str):
                raise MetadataError(f"column names must be str, not {name!r}", [first_row + row])
            if schema is not None and name not in names:
                raise MetadataError(
                    f"unknown column {name!r}; the index has {schema.names}", [first_row + row]
                )
            names[name] = None
    columns = {name: [values.get(name) for values in metadata] for name in names}
    return pa.table({name: _column(name, values, schema, first_row) for name, values in columns.items()})


def _column(name: str, values: Any, schema: pa.Schema | None, first_row: int) -> pa.Array:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
        raise MetadataError(f"column {name!r} must be a sequence of values, not {values!r}")
    if isinstance(values, set | frozenset):
        raise MetadataError(f"column {name!r} must be in the order of rows, which a set has not: pass a list")
    try:
        array = pa.array(values)
    except _ARROW_REFUSES as error:
        kind = schema.field(name).type if schema is not None and name in schema.names else None
        given = list(values)
        if isinstance(error, OverflowError) and kind is not None and holds_uint64(kind):
            beyond = _beyond_int64(given, kind)
            if beyond is not None:
                _check_alike(name, given, beyond, first_row)
                return beyond
        row = _first_unlike(given, kind)
        raise MetadataError(
            f"column {name!r} has values of several types: {error}", [] if row is None else [first_row + row]
        ) from error
    dtype = getattr(values, "dtype", None)
    if dtype is None or (isinstance(dtype, np.dtype) and dtype.kind == "O"):  # else it has one type already
        _check_alike(name, values, array, first_row)
    return array


def _check_alike(name: str, values: Any, array: pa.Array | pa.ChunkedArray, first_row: int) -> None:
    """Raise MetadataError if Arrow made one column of values that are not alike."""
    given = list(values)
    try:
        check_alike(given, array)
    except ValueError as error:

        def alike(rows: int) -> bool:
            try:
                check_alike(given[:rows], array.slice(0, rows))
            except ValueError:
                return False
            return True

        row = first_not(alike, len(given))
        raise MetadataError(
            f"column {name!r} has values of several types: {error}", [] if row is None else [first_row + row]
        ) from error


def _beyond_int64(values: list[Any], kind: pa.DataType) -> pa.Array | None:
    """Return values as the column's type: Arrow infers int64 only; None if they do not stay the same."""
    try:
        array = pa.array(values, kind)
        return array if array.to_pylist() == values else None  # 1.5 would have become 1
    except _ARROW_REFUSES:
        return None


def _first_unlike(values: list[Any], kind: pa.DataType | None) -> int | None:
    """Return the first row whose value Arrow will not put beside the first one's, or into `kind`."""
    first = next((value for value in values if value is not None), None)
    for row, value in enumerate(values):
        try:
            pa.array([value] if kind is not None else [first, value], kind)
        except _ARROW_REFUSES:
            return row
    return None


def _cast(column: pa.ChunkedArray, field: pa.Field, first_row: int) -> pa.ChunkedArray:
    try:
        return _fitted(column, field.type)
    except _ARROW_REFUSES as error:
        row = _first_unfit(column, field.type)
        raise MetadataError(
            f"column {field.name!r} holds {field.type}, not {column.type}: {error}",
            [] if row is None else [first_row + row],
        ) from error


def _fitted(column: pa.ChunkedArray, kind: pa.DataType, *, unknown_nulls: bool = False) -> pa.ChunkedArray:
    if column.null_count == len(column):  # whatever its type, it says nothing
        return pa.chunked_array([pa.nulls(len(column), kind)])
    check_kept(column, kind, unknown_nulls=unknown_nulls)
    return _stored(column, kind)


def _first_unfit(column: pa.ChunkedArray, kind: pa.DataType) -> int | None:
    """Return the first row whose value does not fit; None if no single row is to blame."""

    def fits(rows: int) -> bool:
        try:  # Arrow gives every row all the fields of a struct: those it did not have are null
            _fitted(column.slice(0, rows), kind, unknown_nulls=True)
        except _ARROW_REFUSES:
            return False
        return True

    return first_not(fits, len(column))


def first_not(good: Callable[[int], bool], rows: int) -> int | None:
    """Return the first row with which the rows up to it are no longer good; None if it is no row's fault."""
    if good(rows) or not good(0):
        return None
    low, high = 0, rows  # the first `low` rows are good, the first `high` are not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if good(middle) else (low, middle)
    return low
