"""A segment as one generation sees it: its rows without the deleted ones."""

from __future__ import annotations

import secrets
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyroaring import BitMap

from tiered_index.coarse.selection import Selection
from tiered_index.errors import CorruptIndexError
from tiered_index.storage.files import Files, HashingFile, entry_of
from tiered_index.storage.lookup import NOT_FOUND
from tiered_index.storage.manifest import SegmentEntry, Tombstones
from tiered_index.storage.segment import Segment, check_size, read_whole
from tiered_index.validate.ids import Keys

ROW_BITS = 32
"""A row's address in a snapshot: its segment's number, shifted left by this, plus its place there."""

ROW_MASK = (1 << ROW_BITS) - 1


class LiveSegment:
    """A segment and its tombstones.

    Parameters
    ----------
    segment : Segment
        Shared by all generations that name it.
    entry : SegmentEntry
        What this generation's manifest says of it.

    Raises
    ------
    CorruptIndexError
        The tombstones are missing or not what was written.
    """

    def __init__(self, segment: Segment, entry: SegmentEntry) -> None:
        self.segment = segment
        self.entry = entry
        self.rows = entry.live_rows
        self.deleted = BitMap() if entry.tombstones is None else _read(segment, entry.tombstones)

        self.live: NDArray[np.bool_] | None = None
        """Which rows are not deleted, shape (segment.rows,); None if all."""
        if self.deleted:
            self.live = np.ones(segment.rows, bool)
            self.live[np.array(self.deleted.to_array(), np.int64)] = False

    def selection(self) -> Selection | None:
        """Return the same for the coarse tier."""
        if self.live is None:
            return None
        return Selection(self.segment.rows, np.flatnonzero(self.live).astype(np.int32))

    def live_rows(self) -> NDArray[np.int64]:
        """Return the rows that are not deleted, in order."""
        return np.arange(self.segment.rows) if self.live is None else np.flatnonzero(self.live)

    def find(self, ids: pa.Array, keys: Keys) -> NDArray[np.int64]:
        """Return the row of each id, or -1 if it is not here or deleted."""
        rows = self.segment.lookup.find(ids, keys)
        if self.live is None:
            return rows
        return np.where((rows >= 0) & self.live[rows], rows, NOT_FOUND)


def with_tombstones(files: Files, segments: Path, entry: SegmentEntry, deleted: BitMap) -> SegmentEntry:
    """Write the deleted rows of a segment durably, and return the entry that names them."""
    folder = segments / entry.name
    name = f"deleted-{secrets.token_hex(8)}.roaring"
    with closing(HashingFile(files, folder / name)) as file:
        file.write(deleted.serialize())
        tombstones = Tombstones(name, len(deleted), file.finish())
    files.sync_folder(folder)
    return msgspec.structs.replace(entry, tombstones=tombstones)


def _read(segment: Segment, tombstones: Tombstones) -> BitMap:
    path = segment.folder / tombstones.file
    check_size(path, tombstones.entry)
    data = read_whole(path)
    if entry_of(data) != tombstones.entry:
        raise CorruptIndexError(f"{path}: the digest is wrong")
    deleted = BitMap.deserialize(data)
    if len(deleted) != tombstones.rows or (deleted and deleted.max() >= segment.rows):
        raise CorruptIndexError(f"{path}: not the tombstones of this segment")
    return deleted
