"""A transaction: any number of adds, upserts and deletes that become one generation, or nothing."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyroaring import BitMap

from tiered_index.encoding import TextConfig
from tiered_index.errors import (
    CommitUncertainError,
    DuplicateIdError,
    IndexLockedError,
    StorageError,
    disk_errors,
)
from tiered_index.storage.commit import Store
from tiered_index.storage.live import ROW_BITS, ROW_MASK, with_tombstones
from tiered_index.storage.manifest import Manifest, encode_schema
from tiered_index.storage.segment import SegmentWriter, remove_segment
from tiered_index.storage.snapshot import Snapshot
from tiered_index.validate.batch import Intake, RowBatch
from tiered_index.validate.ids import Keys, kind_of, refuse_known


class Transaction:
    """Gathers changes to a snapshot.

    New rows are written as they come, into one new segment, so that a transaction of any length needs the
    memory of its coarse tier and no more. A row of it that is deleted or replaced again before the commit,
    and the rows of a call that failed, become tombstones of that segment. A filter must read the new rows
    too: their segment is finished then, though nothing names it yet, and later rows come into another.

    Parameters
    ----------
    store : Store
        The index folder; the writer's lock must be held.
    snapshot : Snapshot
        The newest generation.
    """

    def __init__(self, store: Store, snapshot: Snapshot) -> None:
        self._store = store
        self._base = snapshot.manifest
        self._snapshot = snapshot  # with the segments that were finished since
        self._sealed: list[str] = []
        self._writer: SegmentWriter | None = None
        self._first = 0  # where the rows of the call under way begin in the new segment
        self._dead = BitMap()
        self._broken = False
        self._deleted: dict[int, BitMap] = {}
        self._text = snapshot.manifest.text
        self.publishing = False
        """Whether the manifest may be in place."""
        manifest = snapshot.manifest
        myself = weakref.ref(self)  # a circle would hold the snapshot's files until it is found

        def known(ids: pa.Array, keys: Keys) -> NDArray[np.bool_]:
            transaction = myself()
            return np.zeros(len(keys), bool) if transaction is None else transaction._known(ids, keys)

        self.intake = Intake(manifest.config, manifest.id_kind, snapshot.schema, snapshot.directions, known)

    @property
    def rows(self) -> int:
        """How many rows the index would hold."""
        added = 0 if self._writer is None else self._writer.rows - len(self._dead)
        return self._snapshot.rows + added - sum(map(len, self._deleted.values()))

    def add(
        self, batches: Iterable[RowBatch], *, replace: bool = False, text: TextConfig | None = None
    ) -> None:
        """Take rows, or none of them if anything is raised.

        Batches are taken one at a time.

        Parameters
        ----------
        batches : iterable of RowBatch
            Checked by :attr:`intake`.
        replace : bool
            Delete the rows that have these ids, instead of raising.
        text : TextConfig, optional
            The encoder they are from.

        Raises
        ------
        ConfigMismatchError
            The index's rows are another encoder's.
        DuplicateIdError
            An id is in the index and `replace` is false, or came before in `batches`.
        StorageError
            The disk failed.
        """
        self._check_whole()
        if text is not None and self._text is not None:
            self._text.check_same(text)
        first = self._first = 0 if self._writer is None else self._writer.rows
        dead, deleted = self._dead.copy(), {n: rows.copy() for n, rows in self._deleted.items()}
        decided = self.intake.id_kind, self.intake.schema
        try:
            with disk_errors(f"{self._store.segments}: cannot write"):
                for batch in batches:
                    if len(batch):
                        self._take(batch, first, replace)
        except BaseException:
            # What this call wrote stays in the file, dead; what it deleted lives again.
            dead.add_range(first, first if self._writer is None else self._writer.rows)
            self._dead, self._deleted = dead, deleted
            if self._writer is None or len(dead) == self._writer.rows:
                self._drop_writer()
                self.intake.id_kind, self.intake.schema = decided
            else:
                self._writer.forget(first)
            raise
        if self._writer is not None and self._writer.rows > first:
            self._text = self._text or text

    def delete(self, ids: pa.Array, keys: Keys) -> int:
        """Delete rows by id; return how many there were."""
        mine, theirs = self._find(ids, keys)
        before = self.rows
        self._bury(mine, theirs)
        return before - self.rows

    def delete_where(self, where: Any) -> int:
        """Delete the rows that match a filter, new ones included; return how many there were.

        Raises
        ------
        FilterError
            It names unknown columns or operators, or values that do not fit.
        StorageError
            The disk failed.
        """
        self._check_whole()
        self._seal()
        before = self.rows
        for number, rows in enumerate(self._snapshot.matching(where).rows):
            if rows:
                self._deleted[number] = self._deleted.get(number, BitMap()) | rows
        return before - self.rows

    def commit(self) -> Manifest:
        """Make the changes durable and visible.

        Returns
        -------
        Manifest
            The new generation; the snapshot's own if nothing changes.

        Raises
        ------
        StorageError
            The disk failed; the index is as it was.
        CommitUncertainError
            The last steps failed: it may have happened.
        """
        if self._writer is not None and len(self._dead) == self._writer.rows:
            self._drop_writer()
        try:
            self._check_whole()
        except StorageError:
            self.abandon()
            raise
        if self._writer is None and not any(self._deleted.values()) and not self._sealed:
            return self._base
        try:
            with disk_errors(f"{self._store.segments}: cannot write"):
                segments, gone = list(self._snapshot.manifest.segments), set()
                for number, rows in self._deleted.items():
                    live = self._snapshot.segments[number]
                    if len(rows) == live.rows:
                        gone.add(live.entry.name)
                    elif rows:
                        segments[number] = with_tombstones(
                            self._store.files, self._store.segments, live.entry, live.deleted | rows
                        )
                if self._writer is not None:
                    entry = self._writer.finish()
                    if self._dead:
                        entry = with_tombstones(self._store.files, self._store.segments, entry, self._dead)
                    segments.append(entry)
        except BaseException:
            self.abandon()
            raise
        kept = tuple(entry for entry in segments if entry.name not in gone)
        if kept == self._base.segments:  # what came was deleted again
            self.abandon()
            return self._base
        schema = self.intake.schema
        # From here on the manifest may be in place whatever is raised, and what it names must stay: the
        # writer is let go of, so that nobody abandons it, unless it is certain that it is not.
        self.publishing = True
        writer, self._writer = self._writer, None
        sealed, self._sealed = self._sealed, []
        try:
            published = self._store.commit(
                self._base,
                segments=kept,
                id_kind=self.intake.id_kind,
                metadata_schema=None if schema is None else encode_schema(schema),
                text=self._text,
            )
        except CommitUncertainError:
            raise
        except (StorageError, IndexLockedError):
            self._writer, self._sealed = writer, sealed
            self.abandon()
            raise
        for name in gone & set(sealed):
            remove_segment(self._store.files, self._store.segments / name)
        self._store.unfinished.difference_update(sealed if writer is None else [*sealed, writer.name])
        return published

    def abandon(self) -> None:
        """Remove what was written."""
        self._drop_writer()
        for name in self._sealed:
            remove_segment(self._store.files, self._store.segments / name)
            self._store.unfinished.discard(name)
        self._sealed.clear()

    def _seal(self) -> None:
        """Finish the new segment and take it into the snapshot."""
        if self._writer is None or len(self._dead) == self._writer.rows:
            return
        self._broken = True  # unless all goes well, nobody knows what the file holds
        with disk_errors(f"{self._store.segments}: cannot write"):
            entry = self._writer.finish()
        manifest = self._snapshot.manifest
        schema = self.intake.schema
        manifest = msgspec.structs.replace(
            manifest,
            segments=(*manifest.segments, entry),
            id_kind=self.intake.id_kind,
            metadata_schema=None if schema is None else encode_schema(schema),
        )
        self._snapshot = Snapshot(manifest, self._store.segments, self._snapshot)
        self._sealed.append(entry.name)
        if self._dead:
            self._deleted[len(manifest.segments) - 1] = self._dead
        self._writer, self._dead, self._broken = None, BitMap(), False

    def _drop_writer(self) -> None:
        if self._writer is not None:
            self._writer.abandon()
            self._store.unfinished.discard(self._writer.name)
            self._writer = None
        self._dead = BitMap()
        self._broken = False

    def _check_whole(self) -> None:
        if self._broken:
            raise StorageError(f"{self._store.segments}: an earlier write of this transaction failed")

    def _take(self, batch: RowBatch, first: int, replace: bool) -> None:
        mine, theirs = self._find(batch.ids, batch.keys)
        again = np.flatnonzero(mine >= first)
        if len(again):
            raise DuplicateIdError(
                f"id {batch.ids[int(again[0])].as_py()!r} came before in the same write",
                (again + batch.first_row).tolist(),
            )
        if not replace:
            refuse_known(batch.ids, (mine >= 0) | (theirs >= 0), batch.first_row)
        self._bury(mine, theirs)
        if self._writer is None:
            self._writer = SegmentWriter(
                self._store.files,
                self._store.segments,
                self._snapshot.config,
                kind_of(batch.ids),
                batch.metadata.schema,
            )
            self._store.unfinished.add(self._writer.name)
        self._broken = True  # unless the append ends well, the new segment's file is not what it should be
        self._writer.append(batch)
        self._broken = False

    def _find(self, ids: pa.Array, keys: Keys) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return each id's row in the new segment and its address in the snapshot; -1 if it is not there."""
        return self._find_new(ids, keys), self._find_old(ids, keys)

    def _known(self, ids: pa.Array, keys: Keys) -> NDArray[np.bool_]:
        """Tell which ids the index would hold without the call under way: its own rows come only once."""
        known = self._find_old(ids, keys) >= 0
        if self._first:
            mine = self._find_new(ids, keys)
            known |= (mine >= 0) & (mine < self._first)
        return known

    def _find_new(self, ids: pa.Array, keys: Keys) -> NDArray[np.int64]:
        mine = np.full(len(keys), -1, np.int64)
        if self._writer is not None:
            mine = self._writer.find(ids, keys)
            if self._dead:
                dead = np.fromiter((row >= 0 and row in self._dead for row in mine.tolist()), bool, len(mine))
                mine[dead] = -1
        return mine

    def _find_old(self, ids: pa.Array, keys: Keys) -> NDArray[np.int64]:
        theirs = self._snapshot.find(ids, keys)
        for number, rows in self._deleted.items():
            of_segment = np.flatnonzero((theirs >= 0) & (theirs >> ROW_BITS == number))
            for place in of_segment.tolist():
                if int(theirs[place]) & ROW_MASK in rows:
                    theirs[place] = -1
        return theirs

    def _bury(self, mine: NDArray[np.int64], theirs: NDArray[np.int64]) -> None:
        self._dead.update(mine[mine >= 0].tolist())
        addresses = theirs[theirs >= 0]
        for number, _, rows in self._snapshot.split(addresses):
            self._deleted.setdefault(number, BitMap()).update(rows.tolist())
