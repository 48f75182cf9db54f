"""A strict model of what a file system may keep after a power cut, and a seam that records for it.

A file's bytes are durable after a sync of the file; a folder's entry (a file or folder made, linked or
removed in it) after a sync of that folder. Whatever was not synced when the power went may be lost, each
operation on its own and in any combination; a write may also be torn.
"""

from __future__ import annotations

import copy
import itertools
import os
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from tiered_index.storage.files import Files

Tree = dict[str, bytes | None]
"""Paths, relative to the base folder, to the bytes of files; None for folders."""

BASE = 0
"""The object number of the base folder, which is there before everything."""


class Op(NamedTuple):
    """One thing that was done to one file or folder.

    Attributes
    ----------
    kind : {"enter", "remove", "write", "sync", "acknowledge"}
        An entry put into a folder or taken out of it; bytes written to a file; either of them synced; a
        public call that returned.
    target : int
        The object it was done to: files and folders are numbered, names are entries of folders.
    name : str
        The entry; of a sync or write, the path, to be told in messages.
    child : int
        What the entry leads to.
    is_folder : bool
        Whether that is a folder.
    offset, data
        Of a write.
    mark
        Of an acknowledgement: whatever the workload put there.
    """

    kind: Literal["enter", "remove", "write", "sync", "acknowledge"]
    target: int = -1
    name: str = ""
    child: int = -1
    is_folder: bool = False
    offset: int = 0
    data: bytes = b""
    mark: Any = None


class Killed(BaseException):
    """The process was killed here: not an Exception, so that nothing takes it for an error."""


class WatchedFile:
    """A file whose writes go through a function, and that knows its path."""

    def __init__(self, file: BinaryIO, path: Path, write: Callable[[BinaryIO, bytes], int]) -> None:
        self.path = path
        self._file = file
        self._write = write

    def write(self, data: Any) -> int:
        return self._write(self._file, bytes(data))

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()

    @property
    def closed(self) -> bool:
        return self._file.closed


class RecordingFiles(Files):
    """Does every operation, and records it.

    Parameters
    ----------
    base : Path
        The folder in which all happens.
    skip : callable, optional
        Given a path to be synced and the log so far, tells whether to leave the sync out.
    """

    def __init__(self, base: Path, skip: Callable[[Path, Sequence[Op]], bool] | None = None) -> None:
        self.log: list[Op] = []
        self.skipped = 0
        self._base = base
        self._skip = skip
        self._numbers = itertools.count(BASE + 1)
        self._folders: dict[int, dict[str, int]] = {BASE: {}}
        self._created: list[WatchedFile] = []
        self._operations_left: int | None = None

    def kill_after(self, operations: int) -> None:
        """Let this many more operations happen, and then none."""
        self._operations_left = operations

    def restarted(self) -> RecordingFiles:
        """Return the same file system for the next process; this one's stays dead."""
        for file in self._created:
            file.close()  # as the kernel does
        following = copy.copy(self)
        self._operations_left = 0
        following._operations_left = None
        return following

    def acknowledge(self, mark: Any) -> None:
        """Record that a public call returned."""
        self.log.append(Op("acknowledge", mark=mark))

    def create(self, path: Path) -> WatchedFile:
        self._live()
        file = super().create(path)
        number = self._enter(path)

        def write(raw: BinaryIO, data: bytes) -> int:
            self._live()
            offset = raw.tell()
            count = raw.write(data)
            self.log.append(Op("write", number, path.name, offset=offset, data=data[:count]))
            return count

        self._created.append(WatchedFile(file, path, write))
        return self._created[-1]

    def sync(self, file: WatchedFile) -> None:
        self._sync(self._number(file.path), file.path)

    def sync_folder(self, path: Path) -> None:
        self._sync(self._number(path), path)

    def make_folder(self, path: Path) -> None:
        self._live()
        super().make_folder(path)
        self._enter(path, is_folder=True)

    def link(self, source: Path, target: Path) -> None:
        self._live()
        super().link(source, target)
        self._enter(target, child=self._number(source))

    def unlink(self, path: Path) -> None:
        self._live()
        super().unlink(path)
        self._remove(path)

    def remove_folder(self, path: Path) -> None:
        self._live()
        super().remove_folder(path)
        self._remove(path)

    def _live(self) -> None:
        if self._operations_left is not None:
            if not self._operations_left:
                raise Killed
            self._operations_left -= 1

    def _sync(self, number: int, path: Path) -> None:
        # Nothing is really synced: only the log is asked what would be left.
        self._live()
        if self._skip is not None and self._skip(path, self.log):
            self.skipped += 1
        else:
            self.log.append(Op("sync", number, path.name))

    def _enter(self, path: Path, *, child: int | None = None, is_folder: bool = False) -> int:
        folder = self._number(path.parent)
        child = next(self._numbers) if child is None else child
        self._folders[folder][path.name] = child
        if is_folder:
            self._folders[child] = {}
        self.log.append(Op("enter", folder, path.name, child, is_folder))
        return child

    def _remove(self, path: Path) -> None:
        folder = self._number(path.parent)
        del self._folders[folder][path.name]
        self.log.append(Op("remove", folder, path.name))

    def _number(self, path: Path) -> int:
        if path == self._base:
            return BASE
        entries = self._folders[self._number(path.parent)]
        if path.name not in entries:  # a folder that was made without the seam
            self._enter(path, is_folder=True)
        return entries[path.name]


class Tear(NamedTuple):
    """How a write was torn: how many bytes of it there are, and whether zeros stand for the rest."""

    kept: int
    zeros: bool


class CrashState(NamedTuple):
    """What is left, and what was lost to make it so."""

    tree: Tree
    lost: tuple[Op, ...]
    tear: Tear | None

    def __str__(self) -> str:
        lost = ", ".join(f"{op.kind} {op.name}" for op in self.lost) or "nothing"
        return f"lost: {lost}" + (f", torn after {self.tear}" if self.tear else "")


class Disk:
    """What is durable, and what is not yet, after the operations of a log."""

    def __init__(self, log: Iterable[Op]) -> None:
        self._folders: dict[int, dict[str, int]] = {BASE: {}}
        self._bytes: dict[int, bytes] = {}
        self._is_folder = {BASE}
        waiting: dict[int, list[Op]] = {}
        for op in log:
            if op.is_folder:
                self._is_folder.add(op.child)
            if op.kind == "sync":
                for earlier in waiting.pop(op.target, ()):
                    self._apply(self._folders, self._bytes, earlier, None)
            elif op.kind != "acknowledge":
                waiting.setdefault(op.target, []).append(op)
        reachable = self._reachable(waiting)
        self.pending = [op for target, ops in waiting.items() if target in reachable for op in ops]
        """What may be lost: in order for each object; operations on different ones do not meet."""

    def tree(self, lost: Iterable[int], tear: Tear | None = None) -> Tree:
        """Return what a walk finds after a crash.

        Parameters
        ----------
        lost : iterable of int
            Places in :attr:`pending`.
        tear : Tear, optional
            Then `lost` is of one write, which is not lost but torn.
        """
        gone = set(lost)
        folders, files = dict(self._folders), dict(self._bytes)
        touched: set[int] = set()
        for place, op in enumerate(self.pending):
            if place in gone and tear is None:
                continue
            if op.kind != "write" and op.target not in touched:
                folders[op.target] = dict(folders.get(op.target, {}))
                touched.add(op.target)
            self._apply(folders, files, op, tear if place in gone else None)
        tree: Tree = {}
        self._walk(folders, files, BASE, "", tree)
        return tree

    @staticmethod
    def _apply(
        folders: dict[int, dict[str, int]], files: dict[int, bytes], op: Op, tear: Tear | None
    ) -> None:
        if op.kind == "enter":
            folders.setdefault(op.target, {})[op.name] = op.child
        elif op.kind == "remove":
            folders.setdefault(op.target, {}).pop(op.name, None)
        else:
            data = op.data
            if tear is not None:
                data = data[: tear.kept] + (bytes(len(data) - tear.kept) if tear.zeros else b"")
            before = files.get(op.target, b"").ljust(op.offset, b"\0")
            files[op.target] = before[: op.offset] + data + before[op.offset + len(data) :]

    def _walk(
        self, folders: dict[int, dict[str, int]], files: dict[int, bytes], folder: int, at: str, tree: Tree
    ) -> None:
        for name, child in folders.get(folder, {}).items():
            if child in self._is_folder:
                tree[at + name] = None
                self._walk(folders, files, child, f"{at}{name}/", tree)
            else:
                tree[at + name] = files.get(child, b"")

    def _reachable(self, waiting: Mapping[int, list[Op]]) -> set[int]:
        """Return every object that some crash leaves in the tree."""
        found: set[int] = set()
        open_ = [BASE]
        while open_:
            number = open_.pop()
            if number not in found:
                found.add(number)
                open_ += self._folders.get(number, {}).values()
                open_ += [op.child for op in waiting.get(number, ()) if op.kind == "enter"]
        return found


def crash_states(
    log: Sequence[Op], cut: int, rng: random.Random, drop: int = 3, sample: int | None = None
) -> Iterator[CrashState]:
    """Yield what may be left if the power goes after the first `cut` operations.

    Parameters
    ----------
    log : sequence of Op
        What was done.
    cut : int
        How much of it.
    rng : random.Random
        Chooses how writes are torn, and the sample.
    drop : int
        How many operations are lost together, at most.
    sample : int, optional
        How many states besides the two extremes (nothing and everything lost). By default: every operation
        lost alone and surviving alone, every write torn, every pair lost; and of larger groups as many as
        there are single ones.
    """
    disk = Disk(log[:cut])
    places = range(len(disk.pending))
    writes = [place for place in places if disk.pending[place].kind == "write"]

    def state(lost: Iterable[int], tear: Tear | None = None) -> CrashState:
        lost = tuple(lost)
        return CrashState(disk.tree(lost, tear), tuple(disk.pending[place] for place in lost), tear)

    def torn(place: int) -> CrashState:
        return state((place,), Tear(rng.randrange(len(disk.pending[place].data)), rng.random() < 0.5))

    def others(place: int) -> Iterator[int]:
        return (other for other in places if other != place)

    yield state(())
    if not places:
        return
    yield state(places)
    if sample is not None:
        for _ in range(sample):
            size = rng.randint(0, drop + 1)
            place = rng.choice(places)
            if size == 0 and writes:
                yield torn(rng.choice(writes))
            elif size > drop:
                yield state(others(place))
            else:
                yield state(rng.sample(places, min(max(size, 1), len(places))))
        return
    for place in places:
        yield state((place,))
        yield state(others(place))
    for place in writes:
        yield torn(place)
    if drop > 1:
        for pair in itertools.combinations(places, 2):
            yield state(pair)
    for size in range(3, min(drop, len(places)) + 1):
        for _ in places:
            yield state(rng.sample(places, size))


def seeded(seed: int) -> random.Random:
    """Return a source of numbers that are the same in each run."""
    return random.Random(seed)  # noqa: S311 - not for secrets


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder in memory where there is one: thousands of small files are made in it."""
    memory = "/dev/shm"  # noqa: S108 - for speed; tempfile makes the name
    return tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None)


def materialise(tree: Tree, folder: Path) -> None:
    """Write a tree into a folder; parents come before what is in them."""
    for path, data in tree.items():
        if data is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(data)
