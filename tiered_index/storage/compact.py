"""Merging segments: their live rows become one new segment, while searches and writes go on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyroaring import BitMap

from tiered_index.errors import CommitUncertainError, IndexLockedError, StorageError, disk_errors
from tiered_index.storage.commit import Store
from tiered_index.storage.live import LiveSegment, with_tombstones
from tiered_index.storage.manifest import Manifest, SegmentEntry
from tiered_index.storage.segment import ROWS_FILE, SegmentWriter, check_digest
from tiered_index.storage.snapshot import Snapshot
from tiered_index.validate.batch import RowBatch
from tiered_index.validate.ids import ID_TYPES, id_keys
from tiered_index.validate.vectors import prepared_again


class Merge:
    """A merge in two steps: :meth:`write` takes long and needs no lock, :meth:`commit` is short.

    Whatever comes of them, :meth:`end` comes last.

    Parameters
    ----------
    store : Store
        The index folder.
    snapshot : Snapshot
        Where the segments are taken from.
    names : sequence of str
        Which segments.
    """

    def __init__(self, store: Store, snapshot: Snapshot, names: Sequence[str]) -> None:
        self._store = store
        self._snapshot = snapshot
        self._sources = [live for live in snapshot.segments if live.entry.name in set(names)]
        self._entry: SegmentEntry | None = None
        self._writer: SegmentWriter | None = None
        self._name = ""

    def write(self) -> None:
        """Write the new segment."""
        manifest = self._snapshot.manifest
        if not any(live.rows for live in self._sources):
            return
        schema = self._snapshot.schema if self._snapshot.schema is not None else pa.schema([])
        for live in self._sources:  # the new digest would make old damage look sound
            check_digest(live.segment.folder / ROWS_FILE, live.entry.files[ROWS_FILE])
        with disk_errors(f"{self._store.segments}: cannot merge"):
            self._writer = SegmentWriter(
                self._store.files,
                self._store.segments,
                manifest.config,
                manifest.id_kind or "str",
                schema,
            )
            self._name = self._writer.name
            self._store.unfinished.add(self._name)
            for live in self._sources:
                for batch in self._batches(live, schema):
                    self._writer.append(batch)
            self._entry = self._writer.finish()

    def commit(self, newest: Snapshot) -> Manifest:
        """Put the new segment into the place of its sources, in the generation after `newest`.

        Rows that were deleted after the merge began are deleted in the new segment too.
        """
        now = {live.entry.name: live for live in newest.segments}
        missed = BitMap()
        first = 0
        for source in self._sources:
            kept = source.live_rows()
            current = now.get(source.entry.name)
            # a segment that is gone altogether had its last row deleted meanwhile
            gone = source.live_rows() if current is None else _later_deleted(source, current)
            missed.update((first + np.searchsorted(kept, gone)).tolist())
            first += len(kept)
        merged = {live.entry.name for live in self._sources}
        segments = [entry for entry in newest.manifest.segments if entry.name not in merged]
        if self._entry is not None and len(missed) < self._entry.rows:
            entry = self._entry
            if missed:
                with disk_errors(f"{self._store.segments}: cannot merge"):
                    entry = with_tombstones(self._store.files, self._store.segments, entry, missed)
            segments.insert(0, entry)  # merged rows are older than what came meanwhile
        # from here on the manifest may be in place whatever is raised, unless it is certain that it is not
        writer, self._writer = self._writer, None
        try:
            return self._store.commit(newest.manifest, segments=tuple(segments))
        except CommitUncertainError:
            raise
        except (StorageError, IndexLockedError):
            self._writer = writer
            raise

    def end(self) -> None:
        """Remove what was written, unless it was committed, or may have been: then it is garbage or named."""
        if self._writer is not None:
            self._writer.abandon()
        self._store.unfinished.discard(self._name)

    def _batches(self, live: LiveSegment, schema: pa.Schema) -> Iterator[RowBatch]:
        segment = live.segment
        for first, vectors in segment.full.blocks():
            rows = first + np.arange(len(vectors))
            if live.live is not None:
                kept = live.live[rows]
                rows, vectors = rows[kept], vectors[kept]
            if not len(rows):
                continue
            ids = segment.lookup.ids(rows).cast(ID_TYPES[self._snapshot.manifest.id_kind or "str"])
            metadata = segment.full.columns(schema.names, rows) if len(schema) else pa.table({})
            # the block's buffer is used again for the next one
            prepared = prepared_again(vectors.copy(), self._snapshot.config, self._snapshot.directions)
            yield RowBatch(ids, id_keys(ids), prepared, metadata, 0)


def _later_deleted(then: LiveSegment, now: LiveSegment) -> NDArray[np.int64]:
    return np.array((now.deleted - then.deleted).to_array(), np.int64)
