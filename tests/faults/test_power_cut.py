"""Power cuts on a real ext4 file system: what was acknowledged stays."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.killed import report, trials
from tests.faults.power_cut import Disk, cut_index, why_not

IN_MEMORY = Path("/dev/shm")  # noqa: S108 - a private folder is made in it


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else tmp_path) as folder:
        disk = Disk(Path(folder))
        try:
            yield disk
        finally:
            disk.close()


def test_a_cut_loses_what_was_not_synced_and_nothing_else(disk):
    for name in ("synced", "not"):
        with (disk.folder / name).open("wb") as file:
            file.write(b"x" * 10_000)
            file.flush()
            if name == "synced":
                os.fsync(file.fileno())
    disk.cut()
    with pytest.raises(OSError, match="Input/output error"), (disk.folder / "later").open("wb"):
        pass
    disk.unmount()
    disk.mount("defaults")
    assert (disk.folder / "synced").read_bytes() == b"x" * 10_000
    assert not (disk.folder / "not").exists() or (disk.folder / "not").read_bytes() != b"x" * 10_000


def test_a_few_power_cuts(disk, record_property, capsys):
    _, problems = cut_index(disk, 4, rounds=1)
    report("power cuts", 4, problems, record_property, capsys)


@pytest.mark.slow
def test_many_power_cuts(disk, record_property, capsys):
    number = trials(200)
    unfinished, problems = cut_index(disk, number)
    assert unfinished > 0
    report(
        f"power cuts ({unfinished} of them before the workload was done)",
        number,
        problems,
        record_property,
        capsys,
    )


def test_power_cuts_find_what_an_index_without_syncs_loses(disk):
    _, problems = cut_index(disk, 4, syncs=False)
    assert any("rows are None" in problem or "raised CorruptIndexError" in problem for problem in problems)
