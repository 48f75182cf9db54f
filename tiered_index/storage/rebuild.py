"""Rebuilding: new coarse tiers of all segments from the vectors that are there, beside the old ones."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from tiered_index.coarse.prefix_graph import CoarseBuilder
from tiered_index.config import COARSE_SETTINGS, IndexConfig
from tiered_index.errors import ZeroVectorError, disk_errors
from tiered_index.sketch import Form, SketchBuilder
from tiered_index.storage.commit import Store
from tiered_index.storage.files import HashingFile
from tiered_index.storage.live import LiveSegment
from tiered_index.storage.manifest import Manifest, RotationFile, SegmentEntry
from tiered_index.storage.rotation import directions, read_directions, write_rotation
from tiered_index.storage.segment import ROWS_FILE, check_digest
from tiered_index.storage.snapshot import Snapshot
from tiered_index.validate.vectors import Floats, prepared_again

FEW_ROWS = 16_384
"""Rows that came meanwhile and are built while other writes wait: a second or two."""


class Wanted(NamedTuple):
    """What a coarse tier is to be.

    Attributes
    ----------
    config : IndexConfig
        The settings; those of the full tier are the index's.
    rotation : ndarray, shape (store_dim, store_dim), float32, or None
        A new rotation; None keeps the one there is, or has none if `config` says so.
    """

    config: IndexConfig
    rotation: Floats | None


class Rebuild:
    """A rebuild in two steps: :meth:`write` takes long and needs no lock, :meth:`commit` is short.

    Of codes with their graph, and sketches, only what changes is written.
    A segment's new coarse tier lies in its folder, under a new name, as tombstones do; the other files stay
    what they are, and earlier generations name the old one. One segment is in memory at a time. If building
    fails, all that was written is removed.

    Parameters
    ----------
    store : Store
        The index folder.
    manifest : Manifest
        The generation that is rebuilt.
    wanted : Wanted
        What the coarse tier is to be.
    """

    def __init__(self, store: Store, manifest: Manifest, wanted: Wanted) -> None:
        self._store = store
        self._config = wanted.config
        before = manifest.config
        same = wanted.rotation is None and all(
            getattr(before, name) == getattr(wanted.config, name)
            for name in COARSE_SETTINGS
            if name != "tail_sketch"
        )
        self._codes = not same or before == wanted.config  # else they are to be narrowed
        self._tails = Form.of(before) != Form.of(wanted.config)
        self._written: list[Path] = []
        self._made: dict[str, SegmentEntry] = {}
        self._rotation: RotationFile | None = None
        self._directions: Floats | None = None
        width = self._config.prefix_dim
        if wanted.rotation is not None:
            with self._undone_if_it_fails():
                self._rotation = write_rotation(store.files, store.root, wanted.rotation, self._written)
            self._directions = directions(wanted.rotation, width)
        elif self._config.rotation != "none" and manifest.rotation is not None:
            self._rotation = manifest.rotation
            self._directions = read_directions(store.root, manifest.rotation, self._config.store_dim, width)

    def write(self, snapshot: Snapshot) -> int:
        """Build what a snapshot has and was not built yet; return how many rows that were.

        Raises
        ------
        ZeroVectorError
            A vector whose prefix would be zero, under cosine; its id is named.
        CorruptIndexError
            The vectors are not those that were written.
        StorageError
            The disk failed.
        """
        rows = 0
        with self._undone_if_it_fails():
            for live in snapshot.segments:
                if live.entry.name not in self._made:
                    self._made[live.entry.name] = self._build(live)
                    rows += live.entry.rows
        return rows

    def commit(self, newest: Snapshot) -> Manifest:
        """Publish the generation after `newest`, all of whose segments were built.

        What was deleted since is deleted there too.
        """
        manifest = newest.manifest
        segments = []
        for entry in manifest.segments:
            made = self._made[entry.name]
            replaced = {entry.coarse, entry.sketch} - {made.coarse, made.sketch}
            files = {name: file for name, file in entry.files.items() if name not in replaced} | made.files
            segments.append(
                msgspec.structs.replace(
                    entry,
                    files=files,
                    coarse=made.coarse,
                    has_graph=made.has_graph,
                    code=made.code,
                    sketch=made.sketch,
                )
            )
        return self._store.commit(
            manifest,
            config=self._config,
            segments=tuple(segments),
            rotation=self._rotation,
            rebuilt=manifest.generation + 1,
        )

    def abandon(self) -> None:
        """Remove what was written; what cannot be removed is garbage."""
        for path in self._written:
            with suppress(OSError):
                self._store.files.unlink(path)
        self._written.clear()

    def _build(self, live: LiveSegment) -> SegmentEntry:
        segment, entry = live.segment, live.entry
        # new codes of damaged vectors would look sound
        check_digest(segment.folder / ROWS_FILE, entry.files[ROWS_FILE])
        sketched = self._tails and self._config.tail_sketch > 0
        with closing(SketchBuilder(self._config, segment.folder)) if sketched else nullcontext() as sketch:
            return self._write(live, sketch)

    def _write(self, live: LiveSegment, sketch: SketchBuilder | None) -> SegmentEntry:
        segment, entry, config = live.segment, live.entry, self._config
        builder = CoarseBuilder(config.prefix_dim, config.graph_degree, config.ef_construction)
        for first, vectors in segment.full.blocks():
            try:
                # the block's buffer is used again for the next one
                prepared = prepared_again(vectors.copy(), config, self._directions, first)
            except ZeroVectorError as error:
                raise _named(error, live) from None
            if self._codes:
                builder.add(prepared.prefixes)
            if sketch is not None:
                sketch.add(prepared.stored, prepared.inverse_norms)
        made: SegmentEntry = msgspec.structs.replace(entry, files={})
        if self._codes:
            name = f"coarse-{secrets.token_hex(8)}.faiss"
            with self._file(segment.folder / name, made) as file:
                written = builder.write(file.write)
            made = msgspec.structs.replace(made, coarse=name, has_graph=written.has_graph, code=written.code)
        if self._tails:
            name = f"tail-{secrets.token_hex(8)}.sketch"
            if sketch is not None:
                with self._file(segment.folder / name, made) as file:
                    sketch.write(file.write)
            made = msgspec.structs.replace(made, sketch=None if sketch is None else name)
        self._store.files.sync_folder(segment.folder)
        return made

    @contextmanager
    def _file(self, path: Path, made: SegmentEntry) -> Iterator[HashingFile]:
        """Write a new file of a segment, which its entry then names."""
        self._written.append(path)
        with closing(HashingFile(self._store.files, path)) as file:
            yield file
            made.files[path.name] = file.finish()

    @contextmanager
    def _undone_if_it_fails(self) -> Iterator[None]:
        try:
            with disk_errors(f"{self._store.segments}: cannot rebuild"):
                yield
        except BaseException:
            self.abandon()
            raise


def _named(error: ZeroVectorError, live: LiveSegment) -> ZeroVectorError:
    """Return an error of a segment's rows with the id of the first: callers do not know its rows."""
    row = error.rows[0]
    found = live.segment.lookup.ids(np.array([row]))[0].as_py()
    what = str(error).partition(" (row")[0]
    gone = "" if live.live is None or live.live[row] else ", deleted: optimize() drops it"
    return ZeroVectorError(f"{what} (id {found!r}{gone})")
