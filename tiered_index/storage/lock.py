"""The writer's lock: one process, one Index at a time."""

from __future__ import annotations

import fcntl
import os
import weakref
from collections.abc import Callable
from pathlib import Path

from tiered_index.errors import IndexLockedError, storage_error

LOCK_NAME = "lock"

_held: weakref.WeakSet[WriterLock] = weakref.WeakSet()


def _after_fork() -> None:
    # A child inherits the descriptor, and with it the lock: outliving its parent it would keep others out.
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_after_fork)


class WriterLock:
    """``flock`` on a file that is never removed; the kernel lets go of it when the process dies.

    Parameters
    ----------
    root : Path
        The index folder.

    Raises
    ------
    IndexLockedError
        Another writer holds it; names its process where it left its number.
    StorageError
        The file cannot be opened, locked or written.
    """

    _fd = -1

    def __init__(self, root: Path) -> None:
        self._path = path = root / LOCK_NAME
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise storage_error(f"{path}: cannot open the lock", error) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            self.release()
            raise IndexLockedError(f"{root}: process {holder} is writing to this index") from error
        except OSError as error:  # a file system without locks, for one
            self.release()
            raise storage_error(f"{path}: cannot be locked", error) from error
        _held.add(self)
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            self.release()
            raise storage_error(f"{path}: cannot write the lock", error) from error

    def in_place(self) -> bool:
        """Return whether the file that is locked is the one that others would lock."""
        try:
            return os.path.samestat(os.fstat(self._fd), self._path.stat())
        except OSError:
            return False

    def release(self, close: Callable[[int], None] = os.close) -> None:
        """Let the next writer in."""
        descriptor, self._fd = self._fd, -1
        if descriptor >= 0:
            close(descriptor)  # its default outlives this module's names when the interpreter ends

    def __del__(self) -> None:
        self.release()  # of an index that was not closed, or one that Ctrl-C kept from knowing its lock
