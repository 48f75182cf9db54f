"""Taking memory away from a process, and files out of the page cache."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import sleep

from benchmarks.compare.processes import Process

_ROOT = Path("/sys/fs/cgroup")


def forget(folder: Path) -> None:
    """Drop a folder's files from the page cache; pages that some process maps stay."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)  # a dirty page cannot be dropped
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


@contextmanager
def limited(process: Process, limit: int) -> Iterator[str]:
    """Limit what a process takes from now on, its page cache included where control groups can be made.

    Yields
    ------
    str
        "cgroup"; or "RLIMIT_DATA", which does not count what is mapped from files.
    """
    group = _make_group(process.pid, limit)
    if group is None:
        process.ask("limit", data_bytes=limit)
        yield "RLIMIT_DATA"
        return
    try:
        yield "cgroup"
    finally:
        process.end()
        for _ in range(20):
            with suppress(OSError):
                group.rmdir()
                break
            sleep(0.1)  # the kernel takes a moment to notice that the last process is gone


def _make_group(pid: int, limit: int) -> Path | None:
    """Make a control group of version 1 or 2 with the process in it; return None where none can be made."""
    for base, file in ((_ROOT / "memory", "memory.limit_in_bytes"), (_ROOT, "memory.max")):
        if not (base / "cgroup.procs").exists():
            continue
        group = base / f"benchmark-{os.getpid()}-{pid}"
        try:
            group.mkdir()
            (group / file).write_text(str(limit))
            with suppress(OSError):  # a machine without swap may not have it
                (group / "memory.swap.max").write_text("0")
            (group / "cgroup.procs").write_text(str(pid))
        except OSError:
            with suppress(OSError):
                group.rmdir()
            continue
        return group
    return None
