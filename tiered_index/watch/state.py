"""What a watch leaves behind for other processes: a small JSON file, replaced as a whole."""

from __future__ import annotations

import os
import platform
import secrets
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from tiered_index.storage.commit import WATCH
from tiered_index.storage.files import Files
from tiered_index.watch.report import WatchReport
from tiered_index.watch.tally import Tally

SUFFIX = ".json"

STALE_SECONDS = 60.0
"""A file that was not written for so long tells of a process that is stuck, or gone."""

STALE_INTERVALS = 3
"""Or for so many times as long as it waits from one to the next, where that is longer."""


class WatchState(msgspec.Struct, frozen=True, kw_only=True):
    """A process's watch, as it last was.

    Attributes
    ----------
    host, pid : str, int
        Whose.
    written : float
        When; seconds since 1970.
    interval : float
        How many seconds later it is to be written again; 0 where that was not yet kept.
    generation, rows : int
        What searches are answered from.
    report : WatchReport
        What was found.
    tally : Tally or None
        Searches, where they are counted.
    """

    host: str
    pid: int
    written: float
    generation: int
    rows: int
    report: WatchReport
    tally: Tally | None = None
    interval: float = 0.0

    @property
    def age(self) -> float:
        """How many seconds ago it was written."""
        return max(time.time() - self.written, 0.0)

    @property
    def alive(self) -> bool:
        """Whether the process still watches, as far as can be told from here."""
        stale = max(STALE_SECONDS, STALE_INTERVALS * self.interval)
        return self.report.running and self.age < stale and _may_be_there(self.host, self.pid)


class StateFile:
    """One process's file in a folder.

    Parameters
    ----------
    folder : Path
        Made if need be; its parent must exist.
    files : Files
        The file system.
    """

    def __init__(self, folder: Path, files: Files) -> None:
        self._files = files
        self.folder = folder
        self._path = folder / f"{os.getpid()}-{secrets.token_hex(3)}{SUFFIX}"

    def write(self, state: WatchState) -> None:
        """Put a state in the place of the one before; not synced, for it is soon old.

        Raises
        ------
        OSError
            It cannot be written.
        """
        temporary = self._path.with_suffix(".tmp")
        with suppress(FileExistsError):
            self._files.make_folder(self.folder)
        with suppress(FileNotFoundError):
            self._files.unlink(temporary)
        file = self._files.create(temporary)
        try:
            rest = memoryview(msgspec.json.encode(state))
            while rest:
                rest = rest[file.write(rest) :]
        finally:
            file.close()
        self._files.replace(temporary, self._path)

    def clear(self) -> None:
        """Remove what processes that ended left behind."""
        with suppress(OSError):
            for path in sorted(self.folder.iterdir()):
                pid = path.name.partition("-")[0]
                state = _read(path) if path.suffix == SUFFIX else None
                host = platform.node() if state is None else state.host
                if pid.isdecimal() and not _may_be_there(host, int(pid)):
                    self._files.unlink(path)


def read_states(folder: Path) -> list[WatchState]:
    """Return what watches left in a folder, those that still run first, then the newest first."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == SUFFIX)
    except OSError:
        return []
    states = [state for path in paths if (state := _read(path)) is not None]
    return sorted(states, key=lambda state: (not state.alive, -state.written))


def folder_of(index: Path) -> Path:
    """Return where the watches of an index leave their states."""
    return index / WATCH


def _read(path: Path) -> WatchState | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=WatchState)
    except (OSError, msgspec.MsgspecError):  # gone meanwhile, or another version's
        return None


def _may_be_there(host: str, pid: int) -> bool:
    """Return whether a process exists; of another machine that cannot be known."""
    if host != platform.node():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
