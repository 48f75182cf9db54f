"""Committing a generation, and finding the newest.

The order is what makes a commit whole or absent after a crash at any point: segment files are written
under new names and synced, then their folders; a temporary manifest is written and synced, and *linked*
to its generation's name. Linking fails if the name is taken, so that a writer that lost its lock (a
process that slept, a lost network file system) cannot overwrite a later one's work. Then the manifests'
folder is synced, and only then is the commit acknowledged. An error in one of the last two steps leaves
it open whether the commit happened: nothing is deleted then, and the caller is told so. A sync is never
tried again: after a failure the kernel may have dropped the pages and would call the second one a success.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from tiered_index.config import IndexConfig
from tiered_index.encoding import TextConfig
from tiered_index.errors import (
    CommitUncertainError,
    CorruptIndexError,
    GenerationNotFoundError,
    IndexLockedError,
    IndexNotFoundError,
    NotAnIndexError,
    storage_error,
    unreadable,
)
from tiered_index.storage.files import Files
from tiered_index.storage.manifest import (
    PLAIN_VERSION,
    ROTATION,
    Manifest,
    decode,
    encode,
    file_name,
    format_of,
    generation_of,
)
from tiered_index.storage.segment import MAPPED, Held
from tiered_index.storage.snapshot import Snapshot

MANIFESTS = "manifests"
SEGMENTS = "segments"
CALIBRATION = "calibration"
WATCH = "watch"


class Store:
    """The index folder.

    Parameters
    ----------
    root : Path
        The folder.
    files : Files
        The file system.
    """

    def __init__(self, root: Path, files: Files) -> None:
        self.root = root
        self.files = files
        self.unfinished: set[str] = set()
        """Names of segments that are being written: no manifest names them yet, and they are no garbage."""
        self.manifests = root / MANIFESTS
        self.segments = root / SEGMENTS

    def exists(self) -> bool:
        """Tell whether there is an index here.

        Raises
        ------
        NotAnIndexError
            There is something else here.
        CorruptIndexError
            There are segments, and no manifest that names them.
        """
        if not self.root.exists():
            return False
        if not self.root.is_dir():
            raise NotAnIndexError(f"{self.root}: is a file; an index is a folder")
        try:
            names = set(self.files.names(self.root))
            segments = self.files.names(self.segments) if SEGMENTS in names else []
        except OSError as error:
            raise storage_error(f"{self.root}: cannot be listed", error) from error
        if MANIFESTS in names and self.generations():
            return True
        strangers = {name for name in names if not name.startswith((CALIBRATION, ROTATION))}
        strangers -= {MANIFESTS, SEGMENTS, WATCH, "lock"}
        if strangers:
            raise NotAnIndexError(
                f"{self.root}: a folder of something else ({min(strangers)!r}), not an index"
            )
        if segments:  # a new index in this place would take them for garbage
            raise CorruptIndexError(f"{self.manifests}: the manifests are missing, and there are segments")
        return False

    def create(self, config: IndexConfig, text: TextConfig | None = None) -> Manifest:
        """Make the folders and commit the first, empty, generation."""
        try:
            missing = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
            for folder in (*reversed(missing), self.manifests, self.segments):
                with suppress(FileExistsError):
                    self.files.make_folder(folder)
            for folder in (self.root, *(folder.parent for folder in missing or [self.root])):
                self.files.sync_folder(folder)
        except OSError as error:
            raise storage_error(f"{self.root}: cannot make the index", error) from error
        manifest = Manifest(
            format=PLAIN_VERSION,
            store_id=secrets.token_hex(16),
            generation=1,
            parent=0,
            created=_now(),
            config=config,
            id_kind=None,
            metadata_schema=None,
            segments=(),
            text=text,
        )
        return self._publish(manifest)

    def newest(self) -> Manifest:
        """Read the newest manifest.

        Raises
        ------
        IndexNotFoundError
            There is none.
        CorruptIndexError
            It is damaged: an older one never takes its place silently.
        """
        while generations := self.generations():
            try:
                return self.manifest(generations[-1])
            except GenerationNotFoundError:  # collected since it was listed: there are newer ones
                continue
        raise IndexNotFoundError(f"{self.root}: there is no index here")

    def manifest(self, generation: int) -> Manifest:
        """Read a generation's manifest.

        Raises
        ------
        GenerationNotFoundError
            It was never committed, or is no longer kept.
        CorruptIndexError
            It is damaged.
        """
        path = self.manifests / file_name(generation)
        try:
            data = self.files.read(path)
        except FileNotFoundError as error:
            kept = ", ".join(map(str, self.generations()))
            raise GenerationNotFoundError(
                f"{self.root}: generation {generation} is not kept; there are {kept}"
            ) from error
        except OSError as error:
            raise unreadable(path, error) from error
        manifest = decode(data, str(path))
        if manifest.generation != generation:
            raise CorruptIndexError(f"{path}: holds generation {manifest.generation}")
        return manifest

    def snapshot(self, earlier: Snapshot | None = None, held: Held = MAPPED) -> Snapshot:
        """Open the newest generation, taking over what `earlier` has open of it; `held` as for that.

        A writer may commit and collect between the reading of a manifest and the opening of its files;
        then there is a newer manifest, and that is opened.

        Raises
        ------
        IndexNotFoundError
            There is none, or another one in its place than `earlier` is of.
        """
        while True:
            manifest = self.newest()
            if earlier is not None:
                self._check_same(earlier.manifest, manifest)
            try:
                return Snapshot(manifest, self.segments, earlier, held)
            except CorruptIndexError:
                if self.generations()[-1] == manifest.generation:
                    raise

    def check_same(self, opened: Manifest) -> None:
        """Raise IndexNotFoundError if the index that `opened` is of is no longer here."""
        self._check_same(opened, self.newest())

    def _check_same(self, opened: Manifest, found: Manifest) -> None:
        if found.store_id != opened.store_id:
            raise IndexNotFoundError(f"{self.root}: another index is in the place of the one that was opened")

    def kept(self) -> list[Manifest]:
        """Read every manifest there is, oldest first."""
        found = []
        for generation in self.generations():
            with suppress(GenerationNotFoundError):  # collected since it was listed
                found.append(self.manifest(generation))
        return found

    def generations(self) -> list[int]:
        """Return the generations that have a manifest, oldest first."""
        try:
            names = self.files.names(self.manifests)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise storage_error(f"{self.manifests}: cannot be listed", error) from error
        return sorted(g for g in map(generation_of, names) if g is not None)

    def commit(self, previous: Manifest, **changes: object) -> Manifest:
        """Publish the generation after `previous`, with `changes` to its fields.

        Raises
        ------
        IndexLockedError
            Another writer published that generation meanwhile.
        StorageError
            It could not be written; the previous generation stands.
        CommitUncertainError
            The last steps failed: open again to learn whether it happened.
        """
        manifest = msgspec.structs.replace(
            previous,
            generation=previous.generation + 1,
            parent=previous.generation,
            created=_now(),
            **changes,
        )
        return self._publish(manifest)

    def _publish(self, manifest: Manifest) -> Manifest:
        manifest = msgspec.structs.replace(manifest, format=format_of(manifest))
        temporary = self.manifests / f"{secrets.token_hex(8)}.tmp"
        target = self.manifests / file_name(manifest.generation)
        try:
            file = self.files.create(temporary)
            try:
                data = memoryview(encode(manifest))
                while data:
                    data = data[file.write(data) :]
                self.files.sync(file)
            finally:
                file.close()
        except OSError as error:
            with suppress(OSError):
                self.files.unlink(temporary)
            raise storage_error(f"{temporary}: cannot write the manifest", error) from error
        try:
            self.files.link(temporary, target)
        except FileExistsError as error:
            with suppress(OSError):
                self.files.unlink(temporary)
            raise IndexLockedError(f"{target}: another writer committed this generation") from error
        except OSError as error:
            raise CommitUncertainError(f"{target}: linking the manifest failed: {error}") from error
        try:
            self.files.sync_folder(self.manifests)
        except OSError as error:
            raise CommitUncertainError(f"{target}: syncing its folder failed: {error}") from error
        with suppress(OSError):
            self.files.unlink(temporary)
        return manifest


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
