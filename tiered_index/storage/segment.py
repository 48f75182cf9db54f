"""A segment: an immutable set of rows with both tiers, written as a stream and read by mapping."""

from __future__ import annotations

import secrets
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tiered_index.coarse.prefix_graph import CoarseBuilder, CoarseTier
from tiered_index.config import IdKind, IndexConfig
from tiered_index.errors import CorruptIndexError, DuplicateIdError
from tiered_index.full.parquet_rows import ParquetRows
from tiered_index.full.parquet_writer import ParquetRowsWriter, file_schema
from tiered_index.full.rescore import Scorer
from tiered_index.storage.files import Files, HashingFile
from tiered_index.storage.lookup import Lookup, LookupBuilder
from tiered_index.storage.manifest import SegmentEntry
from tiered_index.validate.batch import RowBatch
from tiered_index.validate.ids import ID_TYPES

ROWS_FILE = "rows.parquet"
COARSE_FILE = "coarse.faiss"
LOOKUP_FILE = "lookup.arrow"
FILE_NAMES = (ROWS_FILE, COARSE_FILE, LOOKUP_FILE)


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
        try:
            self._rows_file = HashingFile(files, self._folder / ROWS_FILE)
            self._rows = ParquetRowsWriter(
                self._rows_file, file_schema(self._id_type, schema, config.store_dim, config.dtype)
            )
        except BaseException:
            remove_segment(files, self._folder)
            raise
        self._coarse = CoarseBuilder(config.prefix_dim, config.graph_degree, config.ef_construction)
        self._lookup = LookupBuilder()

    @property
    def rows(self) -> int:
        """How many rows were appended."""
        return self._lookup.rows

    def append(self, batch: RowBatch) -> None:
        """Add rows.

        Raises
        ------
        DuplicateIdError
            An id was appended before.
        """
        known = np.flatnonzero(self._lookup.find(batch.ids, batch.keys) >= 0)
        if len(known):
            raise DuplicateIdError(
                f"id {batch.ids[int(known[0])].as_py()!r} came before in the same write",
                (known + batch.first_row).tolist(),
            )
        self._lookup.append(batch.ids, batch.keys, batch.vectors.inverse_norms)
        self._rows.append(batch.ids, batch.metadata, batch.vectors.stored)
        self._coarse.add(batch.vectors.prefixes)

    def finish(self) -> SegmentEntry:
        """Write the rest, make the files durable, and return the manifest's entry for them."""
        self._rows.finish()
        entries = {ROWS_FILE: self._rows_file.finish()}
        coarse = HashingFile(self._files, self._folder / COARSE_FILE)
        has_graph = self._coarse.write(coarse.write)
        entries[COARSE_FILE] = coarse.finish()
        lookup = HashingFile(self._files, self._folder / LOOKUP_FILE)
        self._lookup.write(pa.PythonFile(lookup, mode="w"), self._id_type)
        entries[LOOKUP_FILE] = lookup.finish()
        self._files.sync_folder(self._folder)
        self._files.sync_folder(self._folder.parent)
        return SegmentEntry(self.name, self.rows, has_graph, entries)

    def abandon(self) -> None:
        """Remove what was written; what cannot be removed is left, and counts for nothing."""
        self._rows.abandon()
        self._rows_file.close()
        remove_segment(self._files, self._folder)


def remove_segment(files: Files, folder: Path) -> None:
    """Remove a segment's files and folder, as far as that is possible."""
    with suppress(OSError):
        for name in files.names(folder):
            files.unlink(folder / name)
        files.remove_folder(folder)


class Segment:
    """A segment, open for reading.

    Parameters
    ----------
    folder : Path
        The segment's own folder.
    entry : SegmentEntry
        What the manifest says of it.
    config : IndexConfig
        The index's settings.

    Raises
    ------
    CorruptIndexError
        A file is missing, of another size, or not what was written.
    """

    def __init__(self, folder: Path, entry: SegmentEntry, config: IndexConfig) -> None:
        self.entry = entry
        self.rows = entry.rows
        self._config = config
        for name in FILE_NAMES:
            path = folder / name
            try:
                size = path.stat().st_size
            except FileNotFoundError as error:
                raise CorruptIndexError(f"{path}: missing") from error
            if size != entry.files[name].size:
                raise CorruptIndexError(f"{path}: {size} bytes, where {entry.files[name].size} were written")
        self.coarse = CoarseTier(str(folder / COARSE_FILE), config.prefix_dim, entry.rows)
        if self.coarse.has_graph != entry.has_graph:
            raise CorruptIndexError(
                f"{folder / COARSE_FILE}: a graph is missing, or there where none was written"
            )
        self.lookup = Lookup(str(folder / LOOKUP_FILE), entry.rows)
        self.full = ParquetRows(str(folder / ROWS_FILE), config.store_dim, config.dtype, entry.rows)

    def rescore(self, scorer: Scorer, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the exact scores of `rows`."""
        norms = self.lookup.inverse_norms
        return scorer.score(self.full.gather(rows), None if norms is None else norms[rows])

    def close(self) -> None:
        """Let go of the files; arrays that were handed out stay valid."""
        self.full.close()
