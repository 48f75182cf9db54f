"""A segment: an immutable set of rows with both tiers, written as a stream and read by mapping."""

from __future__ import annotations

import mmap
import os
import secrets
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyroaring import BitMap

from tiered_index.coarse.prefix_graph import CoarseBuilder, CoarseTier
from tiered_index.config import IdKind, IndexConfig
from tiered_index.errors import CorruptIndexError, unreadable
from tiered_index.full.parquet_rows import ParquetRows
from tiered_index.full.parquet_writer import ParquetRowsWriter, file_schema
from tiered_index.full.rescore import Scorer
from tiered_index.resident import keep_resident
from tiered_index.sketch import Sketch, SketchBuilder
from tiered_index.storage.column_index import ColumnIndex, ColumnIndexBuilder
from tiered_index.storage.files import FileEntry, Files, HashingFile, entry_of
from tiered_index.storage.lookup import Lookup, LookupBuilder
from tiered_index.storage.manifest import COARSE_FILE, SegmentEntry
from tiered_index.storage.recent import Recent
from tiered_index.validate.batch import RowBatch
from tiered_index.validate.ids import ID_TYPES, Keys

ROWS_FILE = "rows.parquet"
LOOKUP_FILE = "lookup.arrow"
COLUMNS_FILE = "columns.roaring"
SKETCH_FILE = "tail.sketch"
FILE_NAMES = (ROWS_FILE, COARSE_FILE, LOOKUP_FILE)
"""Those that every segment has; the columns' file is there if a column is indexed, the sketch's if the index
has one."""

LEAVES_BYTES = 8 << 20
"""What a segment holds of the rows that matched single conditions lately: of 64 where a million rows match in
half, of many more otherwise."""

_PARQUET_TAIL = 8
"""Bytes after the footer: its length, and the magic number."""

ENCODED_BYTES = 256 << 20
"""What a segment holds of the columns that searches were grouped by."""


class SegmentWriter:
    """Writes one segment; nothing of it counts until a manifest names it.

    Parameters
    ----------
    files : Files
        The file system.
    folder : Path
        The ``segments`` folder.
    config : IndexConfig
        The index's settings.
    id_kind : {"str", "int64"}
        Kind of the ids.
    schema : pyarrow.Schema
        The metadata columns.
    """

    def __init__(
        self, files: Files, folder: Path, config: IndexConfig, id_kind: IdKind, schema: pa.Schema
    ) -> None:
        self._files = files
        self.name = secrets.token_hex(8)
        self._folder = folder / self.name
        self._id_type = ID_TYPES[id_kind]
        files.make_folder(self._folder)
        with ExitStack() as undo:
            undo.callback(remove_segment, files, self._folder)
            self._rows_file = undo.enter_context(closing(HashingFile(files, self._folder / ROWS_FILE)))
            self._rows = ParquetRowsWriter(
                self._rows_file, file_schema(self._id_type, schema, config.store_dim, config.dtype)
            )
            undo.pop_all()
        self._coarse = CoarseBuilder(config.prefix_dim, config.graph_degree, config.ef_construction)
        self._sketch = SketchBuilder(config, self._folder) if config.tail_sketch else None
        self._lookup = LookupBuilder()
        self._columns = ColumnIndexBuilder(schema)

    @property
    def rows(self) -> int:
        """How many rows were appended."""
        return self._lookup.rows

    def find(self, ids: pa.Array, keys: Keys) -> NDArray[np.int64]:
        """Return the row at which each id was last appended, or -1."""
        return self._lookup.find(ids, keys)

    def forget(self, first: int) -> None:
        """Let no row from `first` on stand for its id any more: they are dead."""
        self._lookup.forget(first)

    def append(self, batch: RowBatch) -> None:
        """Add rows."""
        self._lookup.append(batch.ids, batch.keys, batch.vectors.inverse_norms)
        self._rows.append(batch.ids, batch.metadata, batch.vectors.stored)
        self._coarse.add(batch.vectors.prefixes)
        if self._sketch is not None:
            self._sketch.add(batch.vectors.stored, batch.vectors.inverse_norms)
        self._columns.append(batch.metadata)

    def finish(self) -> SegmentEntry:
        """Write the rest, make the files durable, and return the manifest's entry for them."""
        self._rows.finish()
        entries = {ROWS_FILE: self._rows_file.finish()}
        with closing(HashingFile(self._files, self._folder / COARSE_FILE)) as coarse:
            written = self._coarse.write(coarse.write)
            entries[COARSE_FILE] = coarse.finish()
        with closing(HashingFile(self._files, self._folder / LOOKUP_FILE)) as lookup:
            lookup.write(self._lookup.serialize(self._id_type))
            entries[LOOKUP_FILE] = lookup.finish()
        if self._sketch is not None:
            with closing(HashingFile(self._files, self._folder / SKETCH_FILE)) as sketch:
                self._sketch.write(sketch.write)
                entries[SKETCH_FILE] = sketch.finish()
        parts = self._columns.parts()
        first = next(parts, None)
        if first is not None:
            with closing(HashingFile(self._files, self._folder / COLUMNS_FILE)) as columns:
                for part in (first, *parts):
                    columns.write(part)
                entries[COLUMNS_FILE] = columns.finish()
        self._files.sync_folder(self._folder)
        self._files.sync_folder(self._folder.parent)
        footer = read_footer(self._folder / ROWS_FILE)
        sketched = None if self._sketch is None else SKETCH_FILE
        return SegmentEntry(
            self.name, self.rows, written.has_graph, entries, footer, code=written.code, sketch=sketched
        )

    def abandon(self) -> None:
        """Remove what was written; what cannot be removed is left, and counts for nothing."""
        self._rows.abandon()
        self._rows_file.close()
        if self._sketch is not None:
            self._sketch.close()
        remove_segment(self._files, self._folder)


def remove_segment(files: Files, folder: Path) -> None:
    """Remove a segment's files and folder, as far as that is possible."""
    with suppress(OSError):
        for name in files.names(folder):
            files.unlink(folder / name)
        files.remove_folder(folder)


def read_footer(path: Path) -> FileEntry:
    """Return size and digest of a Parquet file's footer: all that is parsed to find the vectors."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(size - _PARQUET_TAIL, 0))
            length = int.from_bytes(file.read(4), "little") + _PARQUET_TAIL
            file.seek(max(size - length, 0))
            return entry_of(file.read())
    except OSError as error:
        raise unreadable(path, error) from error


def read_whole(path: Path) -> bytes:
    """Read a small file; raise CorruptIndexError if that cannot be done."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error


class Held(NamedTuple):
    """How a process holds the tiers.

    Attributes
    ----------
    copied : bool
        Full vectors that are asked for are read, rather than mapped.
    locked : bool
        What searches read besides stays in memory.
    """

    copied: bool = False
    locked: bool = False


MAPPED = Held()


class Segment:
    """A segment, open for reading.

    Every byte that is parsed was compared with its digest before: codes, graph, lookup and bitmaps whole, of
    rows.parquet the footer. Vectors are not parsed; :mod:`tiered_index.storage.verify` compares them.

    Parameters
    ----------
    folder : Path
        The segment's own folder.
    entry : SegmentEntry
        What the manifest says of it.
    config : IndexConfig
        The index's settings.
    held : Held
        How this process holds its tiers.

    Raises
    ------
    CorruptIndexError
        A file is missing, of another size, or not what was written.
    """

    def __init__(self, folder: Path, entry: SegmentEntry, config: IndexConfig, held: Held = MAPPED) -> None:
        self.name = entry.name
        self.rows = entry.rows
        self.folder = folder
        if (entry.sketch is not None) != bool(config.tail_sketch):
            raise CorruptIndexError(f"{folder}: a sketch is missing, or there where the index has none")
        for name in (entry.coarse, LOOKUP_FILE, COLUMNS_FILE, entry.sketch):
            if name is not None and (name != COLUMNS_FILE or name in entry.files):
                check_digest(folder / name, entry.files[name])
        check_size(folder / ROWS_FILE, entry.files[ROWS_FILE])
        if read_footer(folder / ROWS_FILE) != entry.footer:
            raise CorruptIndexError(f"{folder / ROWS_FILE}: the footer's digest is wrong")
        self.coarse = CoarseTier.open(str(folder / entry.coarse), config.prefix_dim, entry.rows)
        if (self.coarse.has_graph, self.coarse.code) != (entry.has_graph, entry.code):
            raise CorruptIndexError(
                f"{folder / entry.coarse}: a graph is missing, or there where none was written, or codes are "
                f"{self.coarse.code}, where {entry.code} were written"
            )
        self.lookup = Lookup(str(folder / LOOKUP_FILE), entry.rows)
        self.sketch: Sketch | None = None
        if entry.sketch is not None:
            self.sketch = Sketch(str(folder / entry.sketch), entry.rows, config)
        self.columns: ColumnIndex | None = None
        if COLUMNS_FILE in entry.files:
            self.columns = ColumnIndex(str(folder / COLUMNS_FILE), entry.rows)
        self.leaves: Recent[BitMap] = Recent(LEAVES_BYTES)
        self.encoded: Recent[Any] = Recent(ENCODED_BYTES)
        self.full = ParquetRows(
            str(folder / ROWS_FILE), config.store_dim, config.dtype, entry.rows, copied=held.copied
        )
        self.locked_bytes = 0
        if held.locked:
            read = self.coarse.extents() + self.lookup.extents()
            if self.sketch is not None:
                read += self.sketch.extents()
            self.locked_bytes = keep_resident(str(folder), read)

    def rescore(self, scorer: Scorer, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the exact scores of `rows`."""
        norms = self.lookup.inverse_norms
        return scorer.score(self.full.gather(rows), None if norms is None else norms[rows])

    def close(self) -> None:
        """Let go of the files; arrays that were handed out stay valid."""
        self.full.close()
        self.coarse.close()
        self.lookup.close()
        if self.columns is not None:
            self.columns.close()
        if self.sketch is not None:
            self.sketch.close()


def check_size(path: Path, entry: FileEntry) -> None:
    """Raise CorruptIndexError unless a file is there and as long as it was written."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise unreadable(path, error) from error
    if size != entry.size:
        raise CorruptIndexError(f"{path}: {size} bytes, where {entry.size} were written")


def check_digest(path: Path, entry: FileEntry) -> None:
    """Raise CorruptIndexError unless a file's bytes are those that were written."""
    check_size(path, entry)
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping,
            memoryview(mapping) as view,
        ):
            if hasattr(mmap, "MADV_HUGEPAGE"):  # what is read from disk now is kept in huge pages
                with suppress(OSError):  # of a system that has none
                    mapping.madvise(mmap.MADV_HUGEPAGE)
            found = entry_of(view)
    except OSError as error:
        raise unreadable(path, error) from error
    if found != entry:
        raise CorruptIndexError(f"{path}: the digest is wrong")
