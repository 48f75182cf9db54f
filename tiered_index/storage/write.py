"""Writing rows: a stream of batches becomes one segment."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tiered_index.errors import (
    CommitUncertainError,
    DuplicateIdError,
    IndexLockedError,
    StorageError,
    TieredIndexError,
)
from tiered_index.storage.commit import Store
from tiered_index.storage.manifest import Manifest, encode_schema
from tiered_index.storage.segment import SegmentWriter
from tiered_index.storage.snapshot import Snapshot
from tiered_index.validate.batch import RowBatch
from tiered_index.validate.ids import kind_of


def write_rows(store: Store, snapshot: Snapshot, batches: Iterable[RowBatch]) -> Manifest:
    """Add the rows of `batches` as one segment and commit it.

    Batches are taken one at a time, so that a stream of any length needs the memory of its coarse tier
    and no more. If anything is raised, by a check, the disk or `batches` themselves, the written files
    are removed and the index is as it was.

    Returns
    -------
    Manifest
        The new generation; the one of `snapshot` if there were no rows.

    Raises
    ------
    DuplicateIdError
        An id is in the index, or came before.
    StorageError
        The disk failed.
    """
    manifest = snapshot.manifest
    writer: SegmentWriter | None = None
    try:
        for batch in batches:
            if not len(batch):
                continue
            _check_new(snapshot, batch)
            if writer is None:
                kind, schema = kind_of(batch.ids), batch.metadata.schema
                writer = SegmentWriter(store.files, store.segments, manifest.config, kind, schema)
                decided = {"id_kind": kind, "metadata_schema": encode_schema(schema)}
            writer.append(batch)
        if writer is None:
            return manifest
        entry = writer.finish()
    except BaseException as error:
        if writer is not None:
            writer.abandon()
        if isinstance(error, OSError) and not isinstance(error, TieredIndexError):
            raise StorageError(f"{store.segments}: cannot write: {error}") from error
        raise
    try:
        return store.commit(manifest, segments=(*manifest.segments, entry), **decided)
    except CommitUncertainError:
        raise  # the manifest may be in place: what it names must stay
    except (StorageError, IndexLockedError):
        writer.abandon()
        raise


def _check_new(snapshot: Snapshot, batch: RowBatch) -> None:
    known = np.flatnonzero(snapshot.find(batch.ids, batch.keys) >= 0)
    if len(known):
        raise DuplicateIdError(
            f"id {batch.ids[int(known[0])].as_py()!r} is in the index already",
            (known + batch.first_row).tolist(),
        )
