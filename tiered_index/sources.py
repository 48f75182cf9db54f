"""What can be ingested, as streams of columns: Parquet, .npy files, Arrow streams, Hugging Face data sets."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import is_zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tiered_index.errors import SourceError
from tiered_index.validate.batch import BATCH_ROWS
from tiered_index.validate.conversion import is_text
from tiered_index.validate.metadata import ID_COLUMN

VECTOR_NAMES = ("vector", "embedding", "embeddings")
"""Column names that are looked for where none is given and several columns hold lists of numbers."""


class SourceBatch(NamedTuple):
    """Columns of consecutive rows: ids (None: to be numbered), vectors (or texts), and metadata or None."""

    ids: Any
    vectors: Any
    metadata: pa.Table | None


class Source(NamedTuple):
    """Something that can be ingested.

    Attributes
    ----------
    dim : int
        Length of its vectors; 0 for texts.
    half : bool
        Whether they are of half precision.
    rows : int or None
        How many there are; None for a stream that does not say.
    batches : callable
        Starts reading; each batch has at most :data:`~tiered_index.validate.batch.BATCH_ROWS` rows.
    vectors : callable or None
        Starts a reading of the vectors alone, in such batches, before or after; None for a stream, which can
        be read once.
    """

    dim: int
    half: bool
    rows: int | None
    batches: Callable[[], Iterator[SourceBatch]]
    vectors: Callable[[], Iterator[Any]] | None = None


class Columns(NamedTuple):
    """Which columns to take: id (None: number the rows), vector (None: find it), metadata (None: all).

    With `texts`, the vector column holds texts instead.
    """

    id_column: str | None
    vector_column: str | None
    metadata: Sequence[str] | None
    texts: bool = False


def open_source(source: Any, columns: Columns) -> Source:
    """Open anything that can be ingested.

    Parameters
    ----------
    source : path, array or Arrow stream
        A Parquet file, a folder of them or a glob; a .npy file; a 2-D array; a RecordBatchReader, a table, or
        anything with ``__arrow_c_stream__``; a Dataset or IterableDataset of Hugging Face.
    columns : Columns
        Which columns to take.

    Raises
    ------
    SourceError
        Nothing there, not readable, or without the columns asked for.
    """
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        if not path.endswith(".npy"):
            return _parquet(_parquet_files(path), columns)
        if columns.texts:
            raise SourceError(f"{path}: holds no texts")
        return _array(read_npy(path), columns, path)
    if isinstance(source, np.ndarray) and not columns.texts:
        return _array(source, columns, "the array")
    if isinstance(source, pa.RecordBatch | pa.Table):
        return _stream(source.__arrow_c_stream__, columns, source.num_rows)
    if hasattr(source, "__arrow_c_stream__"):
        return _stream(source.__arrow_c_stream__, columns, None)
    if hasattr(source, "with_format") and hasattr(source, "iter"):
        return _data_set(source, columns)
    if hasattr(source, "with_format") and isinstance(source, Mapping):  # a DatasetDict
        raise SourceError(f"a source must be one data set, not a dict of them: take one of {list(source)}")
    raise SourceError(
        "a source must be a path, an array, an Arrow stream (__arrow_c_stream__) or a data set, "
        f"not {type(source).__name__}"
    )


def read_npy(path: str) -> np.ndarray[Any, Any]:
    """Map the array of a .npy file.

    Raises
    ------
    SourceError
        Not there, not readable, or an archive.
    """
    try:
        return np.lib.format.open_memmap(path, mode="r")  # np.load would also take archives and pickles
    except (OSError, ValueError) as error:
        what = "an archive, not one array" if is_zipfile(path) else f"cannot be read as .npy: {error}"
        raise SourceError(f"{path}: {what}") from error


def _array(array: np.ndarray[Any, Any], columns: Columns, name: str) -> Source:
    asked = None if columns.id_column == ID_COLUMN else columns.id_column  # the default numbers its rows
    for column in (asked, columns.vector_column, *(columns.metadata or ())):
        if column is not None:
            raise SourceError(f"{name}: an array has no columns, and so none named {column!r}")
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise SourceError(f"{name}: must be a matrix of numbers, not {array.dtype} of shape {array.shape}")

    def batches() -> Iterator[SourceBatch]:
        for start in range(0, len(array), BATCH_ROWS):
            yield SourceBatch(None, array[start : start + BATCH_ROWS], None)

    def vectors() -> Iterator[Any]:
        return (batch.vectors for batch in batches())

    return Source(array.shape[1], array.dtype == np.float16, len(array), batches, vectors)


def _parquet_files(path: str) -> list[str]:
    if Path(path).is_dir():
        found = sorted(str(file) for file in Path(path).rglob("*.parquet"))
    elif Path(path).exists():
        found = [path]
    else:
        found = sorted(glob.glob(path, recursive=True))
    if not found:
        what = (
            "no Parquet files there"
            if Path(path).is_dir() or glob.has_magic(path)
            else "no such file or folder"
        )
        raise SourceError(f"{path}: {what}")
    return found


def _parquet(paths: list[str], columns: Columns) -> Source:
    """Check every file's footer first, so that a wrong one is found before anything is written."""

    def read(path: str, names: list[str]) -> Iterator[pa.RecordBatch]:
        with _open_parquet(path) as file:
            yield from _guarded(file.iter_batches(BATCH_ROWS, columns=names, use_threads=False), path)

    rows = 0
    dim: int | None = None
    half = False
    for path in paths:
        with _open_parquet(path) as file:
            rows += file.metadata.num_rows
            chosen = _choose(file.schema_arrow, columns, path)
            if dim is None and file.metadata.num_rows:
                first = next(read(path, [chosen.vector]))[chosen.vector]
                dim, half = _dim_of(first, path, columns), _is_half(first.type)
    if not rows:
        raise SourceError(f"{paths[0]}: no rows")

    def batches() -> Iterator[SourceBatch]:
        for path in paths:
            with _open_parquet(path) as file:
                chosen = _choose(file.schema_arrow, columns, path)
            yield from map(chosen.split, read(path, chosen.names))

    def vectors() -> Iterator[Any]:
        for path in paths:
            with _open_parquet(path) as file:
                chosen = _choose(file.schema_arrow, columns, path)
            yield from (batch[chosen.vector] for batch in read(path, [chosen.vector]))

    return Source(dim or 0, half, rows, batches, vectors)


def _open_parquet(path: str) -> pq.ParquetFile:
    try:
        # pre_buffer would read a whole row group, which may be the whole file, before the first row of it
        return pq.ParquetFile(path, memory_map=True, pre_buffer=False)
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{path}: cannot be read as Parquet: {error}") from error


def _stream(open_stream: Callable[[], Any], columns: Columns, rows: int | None) -> Source:
    try:
        reader = pa.RecordBatchReader.from_stream(_Capsule(open_stream))
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise SourceError(f"the stream: cannot be read as Arrow columns: {error}") from error
    return _columns(reader, reader.schema, columns, rows, "the stream")


def _data_set(data: Any, columns: Columns) -> Source:
    """Open a data set of Hugging Face, in memory, on disk or streamed."""
    name = "the data set"
    tables = _guarded(data.with_format("arrow").iter(BATCH_ROWS), name)
    first = next(tables, None)  # one that is streamed need not know its columns
    if first is None:
        raise SourceError(f"{name}: no rows")

    def batches() -> Iterator[pa.RecordBatch]:
        for table in chain([first], tables):
            try:
                yield from table.cast(first.schema).to_batches()
            except ValueError as error:
                raise SourceError(f"{name}: its columns change on the way: {error}") from error

    return _columns(batches(), first.schema, columns, getattr(data, "num_rows", None), name)


def _columns(
    stream: Iterable[pa.RecordBatch], schema: pa.Schema, columns: Columns, rows: int | None, name: str
) -> Source:
    chosen = _choose(schema, columns, name)
    incoming = _guarded(stream, name)
    first = next((batch for batch in incoming if batch.num_rows), None)
    if first is None:
        raise SourceError(f"{name}: no rows")
    vectors = first[chosen.vector]

    def batches() -> Iterator[SourceBatch]:
        for batch in chain([first], incoming):
            for start in range(0, batch.num_rows, BATCH_ROWS):
                yield chosen.split(batch.slice(start, BATCH_ROWS))

    return Source(_dim_of(vectors, name, columns), _is_half(vectors.type), rows, batches)


def _guarded(batches: Iterable[Any], name: str) -> Iterator[Any]:
    """Call a failure to read the source what it is; during a commit it would pass for the disk's."""
    try:
        yield from batches
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{name}: reading failed: {error}") from error


class _Capsule:
    """An object with ``__arrow_c_stream__`` and nothing else, so that Arrow takes that road for all."""

    def __init__(self, open_stream: Callable[[], Any]) -> None:
        self._open = open_stream

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._open() if requested_schema is None else self._open(requested_schema)  # type: ignore[call-arg]


class _Chosen(NamedTuple):
    id: str | None
    vector: str
    metadata: list[str]

    @property
    def names(self) -> list[str]:
        return [*([self.id] if self.id else []), self.vector, *self.metadata]

    def split(self, batch: pa.RecordBatch) -> SourceBatch:
        metadata = pa.Table.from_batches([batch.select(self.metadata)]) if self.metadata else None
        return SourceBatch(batch[self.id] if self.id else None, batch[self.vector], metadata)


def _choose(schema: pa.Schema, columns: Columns, name: str) -> _Chosen:
    if len(set(schema.names)) != len(schema.names):
        raise SourceError(f"{name}: names a column twice: {schema.names}")
    if columns.id_column is not None and columns.id_column not in schema.names:
        raise SourceError(
            f"{name}: no column {columns.id_column!r} to take ids from (id_column=None numbers the rows); "
            f"there are {schema.names}"
        )
    vector = columns.vector_column or _find_vector(schema, name)
    if vector not in schema.names:
        what = "texts" if columns.texts else "vectors"
        raise SourceError(f"{name}: no column {vector!r} to take {what} from; there are {schema.names}")
    if columns.metadata is None:
        metadata = [n for n in schema.names if n not in (columns.id_column, vector)]
        if columns.id_column is None and ID_COLUMN in metadata:
            metadata.remove(ID_COLUMN)
    else:
        metadata = list(columns.metadata)
        missing = [n for n in metadata if n not in schema.names]
        if missing:
            raise SourceError(f"{name}: no columns {missing}; there are {schema.names}")
    return _Chosen(columns.id_column, vector, metadata)


def _find_vector(schema: pa.Schema, name: str) -> str:
    found = [field.name for field in schema if _is_vector(field.type)]
    named = [n for n in VECTOR_NAMES if n in found]
    if len(found) == 1 or named:
        return str(named[0] if named else found[0])
    raise SourceError(
        f"{name}: {'several columns hold' if found else 'no column holds'} lists of floats; name one with "
        f"vector_column ({found or schema.names})"
    )


def _is_vector(kind: pa.DataType) -> bool:
    lists = pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return bool(lists and pa.types.is_floating(kind.value_type))


def _is_half(kind: pa.DataType) -> bool:
    return bool(_is_vector(kind) and pa.types.is_float16(kind.value_type))


def _dim_of(vectors: pa.Array, name: str, columns: Columns) -> int:
    kind = vectors.type
    if columns.texts:
        if not is_text(kind.value_type if pa.types.is_dictionary(kind) else kind):
            raise SourceError(f"{name}: texts must be strings, not {kind}")
        return 0
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size)
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise SourceError(f"{name}: vectors must be lists of numbers, not {kind}")
    first = next((v for v in vectors if v.is_valid), None)
    if first is None:
        raise SourceError(f"{name}: the first vector is null")
    return len(first)
