"""The calibration's file: what is read is what was written, or nothing; an index never depends on it."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
import pytest
import xxhash

import tiered_index as ti
from tests.planner.synthetic import KS, calibration
from tiered_index.storage.calibration import Kept, read_calibration, write_calibration
from tiered_index.storage.commit import CALIBRATION, Store
from tiered_index.storage.files import Files
from tiered_index.testing import matryoshka_vectors

DIM, ROWS = 32, 300


class Failing(Files):
    """Fails one kind of operation."""

    def __init__(self, kind: str, code: int) -> None:
        self.kind, self.code = kind, code
        self.met = 0

    def _may_fail(self, kind: str) -> None:
        if kind == self.kind:
            self.met += 1
            raise OSError(self.code, os.strerror(self.code))

    def create(self, path: Path) -> BinaryIO:
        self._may_fail("create")
        return _Slow(super().create(path), self)  # type: ignore[return-value]

    def sync(self, file: BinaryIO) -> None:
        self._may_fail("sync")
        super().sync(file)

    def replace(self, source: Path, target: Path) -> None:
        self._may_fail("replace")
        super().replace(source, target)


class _Slow:
    """A file that takes a few bytes at a time, as the system may."""

    def __init__(self, file: BinaryIO, files: Failing) -> None:
        self._file, self._files = file, files

    def write(self, data: memoryview) -> int:
        if self._file.tell() > 500:
            self._files._may_fail("write")
        return self._file.write(data[:999])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def store_at(folder: Path, files: Files | None = None) -> Store:
    folder.mkdir(exist_ok=True)
    return Store(folder, files or Files())


def kept(seed: int, queries: int = 7) -> Kept:
    return Kept(calibration(seed), np.random.default_rng(seed).normal(size=(queries, 16)).astype(np.float32))


def assert_same(found: Kept | None, wanted: Kept) -> None:
    assert found is not None
    assert found.calibration == wanted.calibration
    np.testing.assert_array_equal(found.queries, wanted.queries)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated index."""
    folder = tmp_path_factory.mktemp("kept") / "k.tidx"
    with ti.open(folder, DIM, prefix_dim=16) as index:
        index.add(np.arange(ROWS), matryoshka_vectors(ROWS, DIM))
        index.calibrate(queries(), (1, 5), seconds=0.5)
    return folder


def queries() -> np.ndarray:
    return matryoshka_vectors(8, DIM, stream=1)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder, tmp_path / "k.tidx")
    return tmp_path / "k.tidx"


# What is read


@pytest.mark.parametrize("count", [0, 1, 50])
def test_round_trip(tmp_path: Path, count: int) -> None:
    store = store_at(tmp_path)
    assert read_calibration(store) is None
    for seed in (1, 2):
        write_calibration(store, kept(seed, count))
        assert_same(read_calibration(store), kept(seed, count))
    assert [path.name for path in tmp_path.iterdir()] == [CALIBRATION]
    assert read_calibration(store).calibration.ks == KS


def small(tmp_path: Path) -> tuple[Store, Path, bytes]:
    whole = calibration(1)
    few = msgspec.structs.replace(whole, walked=whole.walked[:2], stopped=whole.stopped[:1])
    store = store_at(tmp_path)
    write_calibration(store, Kept(few, np.ones((1, 4), np.float32)))
    return store, tmp_path / CALIBRATION, (tmp_path / CALIBRATION).read_bytes()


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    store, path, data = small(tmp_path)
    assert len(data) > 500
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        path.write_bytes(changed)
        assert read_calibration(store) is None, at
    path.write_bytes(data)
    assert read_calibration(store) is not None


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    store, path, data = small(tmp_path)
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert read_calibration(store) is None, length
    path.write_bytes(data + b"\0")
    assert read_calibration(store) is None


def test_what_another_version_wrote_is_passed_over(tmp_path: Path) -> None:
    store, path, data = small(tmp_path)
    fields = msgspec.msgpack.decode(data[16:])
    for at, value in ((0, 1), (1, {}), (2, [2, 4]), (2, [1]), (3, b"123"), (1, None)):
        other = [value if i == at else field for i, field in enumerate(fields)]
        for body in (msgspec.msgpack.encode(other), msgspec.msgpack.encode({}), b""):
            path.write_bytes(xxhash.xxh3_128_digest(body) + body)
            assert read_calibration(store) is None
    again = msgspec.msgpack.encode(fields)
    path.write_bytes(xxhash.xxh3_128_digest(again) + again)
    assert read_calibration(store) is not None


def test_a_folder_in_its_place_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / CALIBRATION).mkdir()
    assert read_calibration(store_at(tmp_path)) is None


# Disks that fail


@pytest.mark.parametrize("kind", ["create", "write", "sync", "replace"])
@pytest.mark.parametrize(
    ("code", "error"), [(errno.EIO, ti.StorageError), (errno.ENOSPC, ti.StorageFullError)]
)
def test_a_disk_that_fails_leaves_the_one_before(
    tmp_path: Path, kind: str, code: int, error: type[Exception]
) -> None:
    write_calibration(store_at(tmp_path), kept(1))
    files = Failing(kind, code)
    with pytest.raises(error) as raised:
        write_calibration(store_at(tmp_path, files), kept(2, 40))
    assert type(raised.value) is error
    assert CALIBRATION in str(raised.value)
    assert files.met == 1
    assert_same(read_calibration(store_at(tmp_path)), kept(1))
    assert [path.name for path in tmp_path.iterdir()] == [CALIBRATION]
    write_calibration(store_at(tmp_path, Failing("", 0)), kept(2, 40))
    assert_same(read_calibration(store_at(tmp_path)), kept(2, 40))


def test_an_interrupted_write_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_at(tmp_path)
    write_calibration(store, kept(1))

    def interrupted(file: BinaryIO) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store.files, "sync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_calibration(store, kept(2))
    assert_same(read_calibration(store), kept(1))
    assert [path.name for path in tmp_path.iterdir()] == [CALIBRATION]


def test_calibrating_on_a_full_disk(copy: Path) -> None:
    before = (copy / CALIBRATION).read_bytes()
    with ti.open(copy) as index:
        index._current.store.files = Failing("write", errno.ENOSPC)
        with pytest.raises(ti.StorageFullError, match=CALIBRATION):
            index.calibrate(queries(), (1,), seconds=0.5)
        assert (copy / CALIBRATION).read_bytes() == before
        assert index.search(queries()[0], 5, min_recall=0.5).estimated_recall is not None
        index._current.store.files = Files()
        assert index.calibrate(queries(), (1,), seconds=0.5).ks == (1,)
    with ti.open(copy, mode="r") as index:
        assert "given queries" in index.explain(k=1, min_recall=0.5).basis
    assert (copy / CALIBRATION).read_bytes() != before


# The index


def assert_works(path: Path, *, calibrated: bool, writes: bool = False) -> None:
    with ti.open(path, mode="rw" if writes else "r") as index:
        result = index.search(queries()[0], 5, min_recall=0.5)
        assert (result.degraded_reason is None) == calibrated
        assert (index.explain(k=5).expected is not None) == calibrated
        assert index.search(queries()[0], 5).ids.shape == (5,)
        assert index.verify().ok
        if writes:
            index.upsert([0], matryoshka_vectors(1, DIM))
            index.optimize(calibrate_seconds=0.3)
            assert index.count() == ROWS


def test_a_damaged_one_counts_as_missing(copy: Path) -> None:
    path = copy / CALIBRATION
    data = path.read_bytes()
    assert_works(copy, calibrated=True)
    draw = np.random.default_rng(5)
    for at in (0, 15, 16, 17, len(data) - 1, *draw.integers(len(data), size=15).tolist()):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        assert_works(copy, calibrated=False)
    for length in (0, 1, 15, 16, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        assert_works(copy, calibrated=False, writes=length == 16)
    path.write_bytes(data)
    assert_works(copy, calibrated=True, writes=True)


def test_damage_is_mended_by_the_next(copy: Path) -> None:
    (copy / CALIBRATION).write_bytes(b"damaged")
    with ti.open(copy) as index:
        index.calibrate(queries(), (1, 5), seconds=0.3)
    assert_works(copy, calibrated=True)


def test_damage_while_open_changes_nothing(copy: Path) -> None:
    with ti.open(copy, mode="r") as index:
        before = index.explain(k=5, min_recall=0.5)
        (copy / CALIBRATION).write_bytes(b"damaged")
        index.refresh()
        assert index.explain(k=5, min_recall=0.5) == before
        (copy / CALIBRATION).unlink()
        index.refresh()
        assert index.explain(k=5, min_recall=0.5) == before


def test_what_a_killed_process_left_is_harmless(copy: Path) -> None:
    left = copy / f"{CALIBRATION}-0123456789abcdef.tmp"
    left.write_bytes((copy / CALIBRATION).read_bytes()[:100])
    assert_works(copy, calibrated=True, writes=True)
    (copy / CALIBRATION).unlink()
    assert_works(copy, calibrated=False, writes=True)


def test_a_calibration_does_not_make_an_index(copy: Path, tmp_path: Path) -> None:
    shutil.rmtree(copy / "manifests")
    for dim in (None, DIM):
        with pytest.raises(ti.CorruptIndexError, match="manifests are missing"):
            ti.open(copy, dim)
    (copy / "manifests").mkdir()
    with pytest.raises(ti.CorruptIndexError, match="manifests are missing"):
        ti.open(copy, DIM)
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(copy / CALIBRATION, alone)
    with pytest.raises(ti.IndexNotFoundError):
        ti.open(alone)


def test_verify_and_get_do_not_need_it(copy: Path) -> None:
    (copy / CALIBRATION).unlink()
    with ti.open(copy, mode="r") as index:
        assert index.verify().ok
        assert index.get([1, 2]).num_rows == 2
    assert_works(copy, calibrated=False)
