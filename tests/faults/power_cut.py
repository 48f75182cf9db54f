"""A file system whose power can be cut while a process writes to it."""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic, sleep

from tests.faults.killed import Child, examine, plan, work

_SHUTDOWN = 2 << 30 | 4 << 16 | ord("X") << 8 | 125
"""EXT4_IOC_SHUTDOWN, _IOR('X', 125, __u32)."""
_WITHOUT_LOG_FLUSH = 2

MOUNT_OPTIONS = ("defaults", "noauto_da_alloc", "data=writeback")
"""With the last two ext4 does less of what programs that do not sync rely on."""


class Disk:
    """A small ext4 file system in a file, on a loop device.

    What it has written when the power is cut is there afterwards; what it has not is gone. The device
    itself loses nothing it was given: a missing flush of its cache would not be noticed.

    Parameters
    ----------
    work : Path
        An empty folder for the image and the mount point; best in memory, for flushes cost nothing there.
    megabytes : int
        Its size.
    """

    def __init__(self, work: Path, megabytes: int = 64) -> None:
        image = work / "image"
        with image.open("wb") as file:
            file.truncate(megabytes << 20)
        _run("mkfs.ext4", "-q", "-F", str(image))
        self.folder = work / "mount"
        self.folder.mkdir()
        self._device = _run("losetup", "--find", "--show", str(image)).strip()
        self._mounted = False
        try:
            self.mount("defaults")
        except BaseException:
            self.close()
            raise

    def mount(self, options: str) -> None:
        """Mount it, which replays its journal."""
        _run("mount", "-t", "ext4", "-o", options, self._device, str(self.folder))
        self._mounted = True

    def unmount(self) -> None:
        """Unmount it."""
        _run("umount", str(self.folder))
        self._mounted = False

    def write_back(self) -> None:
        """Write what is dirty, as the kernel does from time to time."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            ctypes.CDLL(None, use_errno=True).syncfs(descriptor)
        finally:
            os.close(descriptor)

    def cut(self) -> None:
        """Cut the power: from now on nothing reaches the device, the journal in memory neither."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _WITHOUT_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Unmount it and let go of the device."""
        if self._mounted:
            self.unmount()
        _run("losetup", "--detach", self._device)


def why_not() -> str | None:
    """Say why power cannot be cut here; None if it can."""
    if sys.platform != "linux":
        return "needs Linux"
    if os.geteuid() != 0:
        return "needs root, to mount a file system"
    for tool in ("mkfs.ext4", "losetup", "mount", "umount"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    with tempfile.TemporaryDirectory() as folder:
        try:
            Disk(Path(folder), 16).close()
        except RuntimeError as error:  # in a container, for one
            return str(error)
    return None


def cut_under(disk: Disk, child: Child, within: float, chance: random.Random, options: str) -> list[bytes]:
    """Let a child go, cut the power within so many seconds, mount again and return the child's messages.

    In half of the trials dirty pages are written back at a moment before.
    """
    moment = chance.uniform(0, within)
    child.go()
    if chance.random() < 0.5:
        earlier = chance.uniform(0, moment)
        sleep(earlier)
        disk.write_back()
        moment -= earlier
    sleep(moment)
    disk.cut()
    messages = child.kill()
    disk.unmount()
    disk.mount(options)
    return messages


def cut_index(disk: Disk, number: int, *, rounds: int = 2, syncs: bool = True) -> tuple[int, list[str]]:
    """Cut the power `number` times while an index is written to.

    Returns
    -------
    tuple of (int, list of str)
        In how many trials the workload was not done, and what was wrong in any.
    """
    chance = random.Random(number)  # noqa: S311 - moments, no secrets
    last = b"%d" % (len(plan(0, rounds)) - 1)
    problems: list[str] = []
    unfinished = 0
    whole = Child(work, disk.folder / "whole", 0, rounds)
    start = monotonic()
    whole.go()
    whole.wait()
    within = monotonic() - start
    problems += examine(disk.folder / "whole", 0, rounds, whole.kill())
    for seed in range(number):
        folder = disk.folder / str(seed)
        child = Child(work, folder, seed, rounds, syncs=syncs)
        messages = cut_under(disk, child, within, chance, MOUNT_OPTIONS[seed % len(MOUNT_OPTIONS)])
        unfinished += last not in messages
        problems += [f"seed {seed}: {p}" for p in examine(folder, seed, rounds, messages, cut=True)]
        shutil.rmtree(folder, ignore_errors=True)
    return unfinished, problems


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
