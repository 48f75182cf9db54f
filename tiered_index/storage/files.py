"""Every file operation of the index folder goes through here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import xxhash


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a manifest knows of a file: its size in bytes and its xxh3-128 digest in hexadecimal."""

    size: int
    xxh3_128: str


def entry_of(data: bytes | memoryview) -> FileEntry:
    """Return size and digest of bytes."""
    return FileEntry(len(data), xxhash.xxh3_128_hexdigest(data))


class Files:
    """The file system, as little of it as the index needs.

    A fault-injecting stand-in can take its place; nothing else in ``storage`` opens, writes, syncs,
    links, lists or removes.
    """

    def create(self, path: Path) -> BinaryIO:
        """Open a new file for writing, unbuffered; it must not exist."""
        return open(path, "xb", buffering=0)

    def sync(self, file: BinaryIO) -> None:
        """Make a file's bytes durable. Not to be called again after it failed: see commit.py."""
        os.fsync(file.fileno())

    def sync_folder(self, path: Path) -> None:
        """Make a folder's entries durable."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def make_folder(self, path: Path) -> None:
        """Create a folder; its parent must exist and it must not."""
        path.mkdir()

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name; FileExistsError if the name is taken."""
        os.link(source, target)

    def replace(self, source: Path, target: Path) -> None:
        """Give a file the name of another, which goes."""
        source.replace(target)

    def unlink(self, path: Path) -> None:
        """Remove a name."""
        path.unlink()

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder."""
        path.rmdir()

    def names(self, path: Path) -> list[str]:
        """List a folder."""
        return os.listdir(path)  # noqa: PTH208 - names, not paths

    def read(self, path: Path) -> bytes:
        """Read a whole (small) file."""
        return path.read_bytes()


class HashingFile:
    """A new file whose digest is taken on the way, for writers that take Python file objects."""

    def __init__(self, files: Files, path: Path) -> None:
        self._files = files
        self._file = files.create(path)
        self._hash = xxhash.xxh3_128()
        self._size = 0

    def write(self, data: Any) -> int:
        """Write all of `data`, which is bytes-like."""
        view = memoryview(data).cast("B")
        self._hash.update(view)
        self._size += len(view)
        rest = view
        while rest:
            rest = rest[self._file.write(rest) :]
        return len(view)

    def finish(self) -> FileEntry:
        """Sync and close the file; return what the manifest keeps of it."""
        self._files.sync(self._file)
        self._file.close()
        return FileEntry(self._size, self._hash.hexdigest())

    def tell(self) -> int:
        """Return how many bytes were written."""
        return self._size

    def flush(self) -> None:
        """Do nothing: writes are not buffered here."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def closed(self) -> bool:
        """Whether the file is closed."""
        return self._file.closed
