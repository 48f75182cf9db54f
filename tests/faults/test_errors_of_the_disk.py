"""Every file operation fails, once and for good: typed errors, the old state intact, a retry that works."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pytest

import tiered_index as ti
from tests.faults.model import WatchedFile, seeded, temporary_folder
from tests.faults.workload import (
    DIM,
    ROOT,
    Content,
    arguments,
    content_of,
    open_with,
    opened_for_check,
    rows_of,
)
from tiered_index.index import Index
from tiered_index.storage.files import Files

SEED = 21
Record = Callable[[str, object], None]


class Fault(NamedTuple):
    """Which operation fails, and how.

    Attributes
    ----------
    kind : str
        A method of Files, or "write".
    ordinal : int
        Which of its calls, counted from 0.
    code : int
        The errno.
    persistent : bool
        Whether all later operations of the kind fail too.
    """

    kind: str
    ordinal: int
    code: int = errno.EIO
    persistent: bool = False


class FailingFiles(Files):
    """Does every operation but those that a fault makes fail; counts them all."""

    def __init__(self) -> None:
        self.fault: Fault | None = None
        self.counts: Counter[str] = Counter()
        self.fired: str | None = None
        """What failed first: before a commit, in its last steps, or after it."""
        self._linked = self._committed = False
        self._unsynced: set[Path] = set()
        self._created: list[WatchedFile] = []
        self.meanwhile: Callable[[], object] | None = None
        """Done once, before the next folder is made, on a disk that does not fail."""

    def begin(self, fault: Fault | None) -> None:
        """Count from here, and fail as told."""
        self.fault, self.fired = fault, None
        self.counts.clear()
        self._linked = self._committed = False

    def check_closed(self) -> None:
        """Raise if a file was left open; close it, so that it is told of once."""
        left = [file for file in self._created if not file.closed]
        for file in left:
            file.close()
        assert not left, f"left open: {left[0].path.name}"

    def create(self, path: Path) -> WatchedFile:
        self._may_fail("create")
        self._created.append(WatchedFile(super().create(path), path, self._written))
        return self._created[-1]

    def sync(self, file: WatchedFile) -> None:
        assert file.path not in self._unsynced, f"{file.path} was synced again after that had failed"
        try:
            self._may_fail("sync")
        except OSError:
            self._unsynced.add(file.path)
            raise
        super().sync(file)  # type: ignore[arg-type]

    def sync_folder(self, path: Path) -> None:
        last_step = self._linked and path.name == "manifests"
        self._may_fail("sync_folder", uncertain=last_step and not self._committed)
        super().sync_folder(path)
        self._committed |= last_step

    def make_folder(self, path: Path) -> None:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            fault, self.fault = self.fault, None
            meanwhile()
            self.begin(fault)
        self._may_fail("make_folder")
        super().make_folder(path)

    def link(self, source: Path, target: Path) -> None:
        self._may_fail("link", uncertain=True)
        super().link(source, target)
        self._linked = True

    def unlink(self, path: Path) -> None:
        self._may_fail("unlink")
        super().unlink(path)

    def remove_folder(self, path: Path) -> None:
        self._may_fail("remove_folder")
        super().remove_folder(path)

    def _written(self, file: BinaryIO, data: bytes) -> int:
        try:
            self._may_fail("write")
        except OSError:
            file.write(data[: len(data) // 2])  # as a disk that fills up does
            raise
        return file.write(data)

    def _may_fail(self, kind: str, *, uncertain: bool = False) -> None:
        number = self.counts[kind]
        self.counts[kind] += 1
        fault = self.fault
        if fault is None or kind != fault.kind:
            return
        if number == fault.ordinal or (fault.persistent and number > fault.ordinal):
            if self.fired is None:
                self.fired = "after" if self._committed else "at the end" if uncertain else "before"
            raise OSError(fault.code, os.strerror(fault.code))


class Scenario(NamedTuple):
    """A call, and what the index holds before and after."""

    prepare: Callable[[Index], None]
    call: Callable[[Index], object]
    before: Content
    after: Content


FIRST = rows_of(range(8))
MORE = rows_of((20, 21, 22))


def _filled(index: Index) -> None:
    index.add(*arguments(FIRST))


def _filled_twice(index: Index) -> None:
    _filled(index)
    index.add(*arguments(MORE))
    index.delete([0, 20])


def _batch(index: Index) -> None:
    with index.batch():
        index.add(*arguments(rows_of((30, 31))))
        index.upsert(*arguments(rows_of((30, 1), 1)))
        index.delete([2])


def _small_adds(index: Index) -> None:
    _filled(index)
    for row in (40, 41):
        index.add(*arguments(rows_of((row,))))


def _without(rows: Content, *gone: int) -> Content:
    return {row: data for row, data in rows.items() if row not in gone}


def _optimize_while_a_row_is_deleted(index: Index) -> None:
    files = index._current.store.files
    assert isinstance(files, FailingFiles)
    files.meanwhile = lambda: index.delete([3])
    index.optimize()
    files.meanwhile = None


SCENARIOS = {
    "add": Scenario(_filled, lambda index: index.add(*arguments(MORE)), FIRST, {**FIRST, **MORE}),
    "first add": Scenario(lambda index: None, lambda index: index.add(*arguments(FIRST)), {}, FIRST),
    "delete": Scenario(
        _filled,
        lambda index: index.delete([1, 2]),
        FIRST,
        _without(FIRST, 1, 2),
    ),
    "optimize": Scenario(
        _filled_twice,
        lambda index: index.optimize(),
        _without({**FIRST, **MORE}, 0, 20),
        _without({**FIRST, **MORE}, 0, 20),
    ),
    "optimize while a row is deleted": Scenario(
        _filled_twice,
        _optimize_while_a_row_is_deleted,
        _without({**FIRST, **MORE}, 0, 20, 3),
        _without({**FIRST, **MORE}, 0, 20, 3),
    ),
    "rebuild": Scenario(
        _filled_twice,
        lambda index: index.rebuild_coarse(rotation="pca", graph_degree=4),
        _without({**FIRST, **MORE}, 0, 20),
        _without({**FIRST, **MORE}, 0, 20),
    ),
    "batch": Scenario(
        _filled,
        _batch,
        FIRST,
        {**_without(FIRST, 2), **rows_of((31,)), **rows_of((30, 1), 1)},
    ),
    "add that merges": Scenario(
        _small_adds,
        lambda index: index.add(*arguments(rows_of((42,)))),
        {**FIRST, **rows_of((40, 41))},
        {**FIRST, **rows_of((40, 41, 42))},
    ),
}
ERRNOS = {
    "create": (errno.EIO, errno.ENOSPC),
    "write": (errno.EIO, errno.ENOSPC),
    "sync": (errno.EIO, errno.ENOSPC),
    "sync_folder": (errno.EIO,),
    "make_folder": (errno.EIO, errno.ENOSPC),
    "link": (errno.EIO, errno.ENOSPC),
    "unlink": (errno.EIO,),
    "remove_folder": (errno.EIO,),
}


@contextmanager
def prepared(scenario: Scenario) -> Iterator[tuple[Index, FailingFiles, Path]]:
    """Make the index of a scenario, on a disk that does not fail yet."""
    with temporary_folder() as name:
        files = FailingFiles()
        path = Path(name) / ROOT
        index = open_with(files, path)
        try:
            scenario.prepare(index)
            files.begin(None)
            yield index, files, path
        finally:
            index.close()
            files.check_closed()


def faults_of(scenario: Scenario) -> list[Fault]:
    """Return every fault that the call can meet."""
    with prepared(scenario) as (index, files, _):
        scenario.call(index)
        return faults(files.counts)


def faults(counts: Counter[str]) -> list[Fault]:
    """Return every fault that so many operations can meet."""
    return [
        Fault(kind, ordinal, code, persistent)
        for kind, codes in ERRNOS.items()
        for ordinal in range(counts[kind])
        for code in codes
        for persistent in (False, True)
    ]


def check_error(error: BaseException | None, files: FailingFiles, fault: Fault) -> None:
    """Compare what was raised with when and how the disk failed first."""
    if files.fired == "after" or fault.kind in ("unlink", "remove_folder"):
        assert error is None, "garbage and merges that fail must not fail the call before them"
    elif files.fired == "at the end":
        assert type(error) is ti.CommitUncertainError
    else:
        assert type(error) is (ti.StorageFullError if fault.code == errno.ENOSPC else ti.StorageError)


def survive(scenario: Scenario, fault: Fault) -> None:
    """Let the call meet the fault, look at what is left, and call again when the fault is gone."""
    with prepared(scenario) as (index, files, path):
        files.begin(fault)
        error: BaseException | None = None
        try:
            scenario.call(index)
        except (ti.TieredIndexError, OSError) as raised:
            error = raised
        assert files.fired is not None, "the fault was not met"
        check_error(error, files, fault)
        uncertain = isinstance(error, ti.CommitUncertainError)
        assert content_of(index) == (scenario.after if error is None else scenario.before)
        with opened_for_check(path, mode="r") as reader:
            found = content_of(reader)
        assert found == (scenario.after if error is None else scenario.before) or (
            uncertain and found == scenario.after
        )
        files.begin(None)
        if error is not None:
            happened = uncertain and found == scenario.after
            try:
                scenario.call(index)
            except ti.DuplicateIdError:
                assert happened
        assert content_of(index) == scenario.after
        index.close()
        with opened_for_check(path) as again:
            assert content_of(again) == scenario.after
            again.optimize()
            assert content_of(again) == scenario.after
            assert no_garbage(again)


def survive_creation(fault: Fault) -> None:
    """Let the creation of an index meet the fault, and create it when the fault is gone."""
    with temporary_folder() as name:
        path = Path(name) / ROOT
        files = FailingFiles()
        files.begin(fault)
        error: BaseException | None = None
        try:
            open_with(files, path).close()
        except (ti.TieredIndexError, OSError) as raised:
            error = raised
        assert files.fired is not None, "the fault was not met"
        files.check_closed()
        check_error(error, files, fault)
        if error is None:
            with opened_for_check(path, mode="r") as reader:
                assert content_of(reader) == {}
        files.begin(None)
        with open_with(files, path) as index:
            assert content_of(index) == {}
            index.add(*arguments(FIRST))
        with opened_for_check(path, mode="r") as reader:
            assert content_of(reader) == FIRST


def no_garbage(index: Index) -> bool:
    """Tell whether there are only files that a kept generation names."""
    store = index._current.store
    kept = [store.manifest(generation) for generation in store.generations()]
    entries = [entry for manifest in kept for entry in manifest.segments]
    named = {entry.name for entry in entries}
    coarse = {(entry.name, entry.coarse) for entry in entries}
    assert {(p.parent.name, p.name) for p in store.segments.rglob("coarse*")} == coarse
    rotations = {manifest.rotation.file for manifest in kept if manifest.rotation is not None}
    assert {p.name for p in store.root.glob("rotation-*")} == rotations
    return {p.name for p in store.segments.iterdir()} == named and {
        p.suffix for p in store.manifests.iterdir()
    } == {".json"}


def failures_of(survives: Callable[[Fault], None], met: list[Fault]) -> list[str]:
    """Return what goes wrong with each fault."""
    failures = []
    for fault in met:
        try:
            survives(fault)
        except Exception as error:
            failures.append(f"{fault}: {type(error).__name__}: {error}")
    return failures


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_sample_of_failing_operations(name: str, record_property: Record) -> None:
    met = faults_of(SCENARIOS[name])
    wanted = int(os.environ.get("FAULT_TRIALS", 30))
    chosen = seeded(SEED).sample(met, min(wanted, len(met)))
    assert failures_of(partial(survive, SCENARIOS[name]), chosen) == []
    record_property("trials", len(chosen))


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_failing_operation(
    name: str, record_property: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    met = faults_of(SCENARIOS[name])
    assert failures_of(partial(survive, SCENARIOS[name]), met) == []
    told(f"failing disk, {name}", len(met), record_property, capsys)


def test_every_failing_operation_of_a_creation(record_property: Record) -> None:
    with temporary_folder() as name:
        files = FailingFiles()
        open_with(files, Path(name) / ROOT).close()
        met = faults(files.counts)
    assert failures_of(survive_creation, met) == []
    record_property("trials", len(met))


def told(name: str, trials: int, record_property: Record, capsys: pytest.CaptureFixture[str]) -> None:
    record_property("trials", trials)
    with capsys.disabled():
        print(f"\n{name}: {trials} trials, 0 losses, 0 untyped errors")  # noqa: T201


FILE_SIZES = (1, 100, 500, 1_000, 1_500, 2_000)
LIMITED = """
import resource, sys
from pathlib import Path
import tiered_index as ti
from tests.faults.workload import *

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

first, more = rows_of(range(8)), rows_of(range(20, 60))
path, size, locked = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "locked"
with ti.open(path, DIM, prefix_dim=DIM) as index:
    index.add(*arguments(first))
with ti.open(path) as index:
    if locked:
        index.delete([])
    limit(size)
    try:
        index.add(*arguments(more))
        outcome = "written"
        more = {}
    except Exception as error:
        outcome = type(error).__name__
    limit(resource.RLIM_INFINITY)
    if more:
        assert content_of(index) == first
        with opened_for_check(path, mode="r") as reader:
            assert content_of(reader) == first
        index.add(*arguments(more))
    assert content_of(index) == {**first, **rows_of(range(20, 60))}
with ti.open(path) as index:
    assert content_of(index) == {**first, **rows_of(range(20, 60))}
print(outcome)
"""


def _limited(path: Path, size: int, locked: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path), str(size), locked],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_limit_on_file_sizes(tmp_path: Path, record_property: Record) -> None:
    assert _limited(tmp_path / "locked", 1_000, "locked") == "StorageFullError"
    assert _limited(tmp_path / "unlocked", 0, "unlocked") == "StorageFullError"
    record_property("trials", 2)


@pytest.mark.slow
def test_many_limits_on_file_sizes(
    tmp_path: Path, record_property: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = [_limited(tmp_path / str(size), size, "locked") for size in FILE_SIZES]
    assert outcomes == ["StorageFullError"] * len(FILE_SIZES)
    assert _limited(tmp_path / "enough", 1 << 20, "locked") == "written"
    told("limits on file sizes", len(FILE_SIZES) + 1, record_property, capsys)


STEP = 4_096


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount, unmount = shutil.which("mount"), shutil.which("umount")
    if os.geteuid() != 0 or mount is None or unmount is None:
        pytest.skip("needs root and mount")
    mounted = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run([unmount, "--lazy", str(folder)], check=True)


def _leave(path: Path, room: int) -> None:
    """Fill a file system but for so many bytes."""
    free = os.statvfs(path.parent)
    path.write_bytes(bytes(free.f_bavail * free.f_frsize - room))


def _with_texts(rows: Content) -> tuple[list[int], np.ndarray, dict[str, Any]]:
    ids, vectors, columns = arguments(rows)
    return ids, vectors, {**columns, "text": [seeded(row).randbytes(1_000).hex() for row in rows]}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["add", "delete", "optimize"])
def test_every_size_of_a_full_disk(
    name: str, small_disk: Path, record_property: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    before, more = rows_of(range(20)), rows_of(range(20, 60))
    calls: dict[str, tuple[Callable[[Index], object], Content]] = {
        "add": (lambda index: index.add(*_with_texts(more)), {**before, **more}),
        "delete": (lambda index: index.delete([1, 2]), _without(before, 1, 2)),
        "optimize": (lambda index: index.optimize(), before),
    }
    call, after = calls[name]
    trials = failures = 0
    path, filler = small_disk / ROOT, small_disk / "filler"
    full = True
    while full:
        with open_with(Files(), path) as index:
            for rows in (rows_of(range(10)), rows_of(range(10, 20))):
                index.add(*_with_texts(rows))
            _leave(filler, trials * STEP)
            trials += 1
            try:
                call(index)
                full = False
            except ti.StorageError as error:
                assert type(error) is ti.StorageFullError  # noqa: PT017 - of the loop's last turn there is none
                failures += 1
                assert content_of(index) == before
                with opened_for_check(path, mode="r") as reader:
                    assert content_of(reader) == before
            filler.unlink()
            if full:
                call(index)
            assert content_of(index) == after
        with opened_for_check(path) as index:
            assert content_of(index) == after
        shutil.rmtree(path)
    assert failures > 1
    told(f"a full disk, {name}, in steps of {STEP} bytes", trials, record_property, capsys)


@pytest.mark.slow
def test_a_disk_that_is_mounted_to_be_read(small_disk: Path, record_property: Record) -> None:
    path = small_disk / ROOT
    with open_with(Files(), path) as index:
        index.add(*arguments(FIRST))
    mount = shutil.which("mount")
    assert mount is not None
    subprocess.run([mount, "-o", "remount,ro", str(small_disk)], check=True)
    with opened_for_check(path, mode="r") as reader:
        assert content_of(reader) == FIRST
        with pytest.raises(ti.ReadOnlyError):
            reader.delete([1])
    with opened_for_check(path) as writer:
        for call in (lambda: writer.add(*arguments(MORE)), lambda: writer.delete([1]), writer.optimize):
            with pytest.raises(ti.StorageError, match="Read-only file system"):
                call()
        assert content_of(writer) == FIRST
    with pytest.raises(ti.StorageError, match="Read-only file system"):
        ti.open(small_disk / "new", DIM, prefix_dim=DIM)
    record_property("trials", 5)
