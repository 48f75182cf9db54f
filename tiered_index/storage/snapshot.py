"""A snapshot: one generation, every file of it open."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tiered_index.full.parquet_writer import file_schema
from tiered_index.storage.lookup import NOT_FOUND
from tiered_index.storage.manifest import Manifest
from tiered_index.storage.segment import Segment
from tiered_index.validate.ids import ID_TYPES, Keys
from tiered_index.validate.metadata import VECTOR_COLUMN

ROW_BITS = 32
_ROW_MASK = (1 << ROW_BITS) - 1


class Snapshot:
    """What a reader sees: the rows of one generation.

    A row is addressed by its segment's number, shifted left by :data:`ROW_BITS`, plus its place there.

    Parameters
    ----------
    manifest : Manifest
        The generation.
    folder : Path
        The ``segments`` folder.
    opened : iterable of Segment
        Segments of an earlier snapshot, to be used again where this generation still names them.
    """

    def __init__(self, manifest: Manifest, folder: Path, opened: Iterable[Segment] = ()) -> None:
        known = {segment.entry.name: segment for segment in opened}
        self.manifest = manifest
        self.config = manifest.config
        self.schema = manifest.schema()
        self.segments = tuple(
            known.get(entry.name) or Segment(folder / entry.name, entry, manifest.config)
            for entry in manifest.segments
        )
        self.row_bytes = self.config.store_dim * np.dtype(self.config.dtype).itemsize
        self.rows = sum(segment.rows for segment in self.segments)

    def find(self, ids: pa.Array, keys: Keys) -> NDArray[np.int64]:
        """Return the address of each id, or -1."""
        found = np.full(len(keys), NOT_FOUND, np.int64)
        for number, segment in enumerate(self.segments):
            rows = segment.lookup.find(ids, keys)
            found = np.where(rows >= 0, rows + (number << ROW_BITS), found)
        return found

    def ids(self, addresses: NDArray[np.int64]) -> NDArray[Any]:
        """Return the ids at `addresses`: an array of str objects, or of int64."""
        if len(self.segments) == 1:
            return self.segments[0].lookup.values(addresses)
        kind = self.manifest.id_kind
        ids = np.empty(len(addresses), np.int64 if kind == "int64" else np.object_)
        for number, places, rows in self._by_segment(addresses):
            ids[places] = self.segments[number].lookup.values(rows)
        return ids

    def table(self, addresses: NDArray[np.int64], *, vectors: bool) -> pa.Table:
        """Return the rows at `addresses`, in that order: id, metadata and, if asked, vector."""
        metadata = self.schema if self.schema is not None else pa.schema([])
        id_type = ID_TYPES[self.manifest.id_kind or "str"]
        wanted = file_schema(id_type, metadata, self.config.store_dim, self.config.dtype)
        if not vectors:
            wanted = wanted.remove(len(wanted) - 1)
        parts = [wanted.empty_table()]
        order = []
        for number, places, rows in self._by_segment(addresses):
            segment = self.segments[number]
            columns = [segment.lookup.ids(rows)]
            if len(metadata):
                columns += segment.full.columns(metadata.names, rows).columns
            if vectors:
                flat = pa.array(segment.full.gather(rows).reshape(-1))
                columns.append(pa.FixedSizeListArray.from_arrays(flat, type=wanted.field(VECTOR_COLUMN).type))
            parts.append(pa.table(columns, schema=wanted))
            order.append(places)
        table = pa.concat_tables(parts)
        if len(order) > 1:
            table = table.take(pa.array(np.argsort(np.concatenate(order), kind="stable")))
        return table.combine_chunks()

    def close(self) -> None:
        """Close every segment."""
        for segment in self.segments:
            segment.close()

    def _by_segment(
        self, addresses: NDArray[np.int64]
    ) -> list[tuple[int, NDArray[np.intp], NDArray[np.int64]]]:
        """Split addresses into (segment, places in `addresses`, rows of the segment)."""
        numbers = addresses >> ROW_BITS
        if len(self.segments) == 1:
            return [(0, np.arange(len(addresses)), addresses)] if len(addresses) else []
        split = []
        for number in np.unique(numbers).tolist():
            places = np.flatnonzero(numbers == number)
            split.append((number, places, addresses[places] & _ROW_MASK))
        return split
