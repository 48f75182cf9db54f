"""What a commit, a batch, a merge, a restore and a collection leave behind."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

import tiered_index as ti
from tiered_index.coarse.prefix_graph import GRAPH_MIN_ROWS
from tiered_index.storage.files import Files
from tiered_index.testing import exact_top_k, matryoshka_vectors, recall_at_k
from tiered_index.validate.batch import Intake, RowBatch

from ..conftest import DIM


def segments_on_disk(index: ti.Index) -> int:
    return len(list((index.path / "segments").iterdir()))


def test_a_row_that_a_failed_upsert_had_replaced_is_found_again(
    make_index: Callable[..., ti.Index],
) -> None:
    """The first of its batches was written before the second was refused."""
    index = make_index(dim=4, prefix_dim=4, merge_policy=ti.NoMergePolicy())
    vectors = np.random.default_rng(0).normal(size=(9_000, 4)).astype(np.float32)
    refused = vectors.copy()
    refused[8_500] = np.nan
    with index.batch():
        index.add([5, 6], vectors[:2])
        with pytest.raises(ti.NonFiniteVectorError):
            index.upsert(range(9_000), refused)
        with pytest.raises(ti.DuplicateIdError):
            index.add([5], vectors[:1])
        index.upsert([6], vectors[6:7])
    for _ in range(2):
        np.testing.assert_array_equal(index.get([5], include_vectors=True)["vector"][0].as_py(), vectors[0])
        np.testing.assert_array_equal(index.get([6], include_vectors=True)["vector"][0].as_py(), vectors[6])
        assert index.count({"id": {"$in": [5, 6, 7]}}) == len(index) == 2
        index.optimize()


def test_upsert_replaces_and_delete_removes(make_index: Callable[..., ti.Index], vectors: np.ndarray) -> None:
    index = make_index()
    index.add(range(10), vectors[:10], {"n": list(range(10))})
    index.upsert([8, 9, 10], vectors[18:21], {"n": [80, 90, 100]})
    assert len(index) == 11
    table = index.get([7, 8, 9, 10], include_vectors=True)
    assert table["n"].to_pylist() == [7, 80, 90, 100]
    np.testing.assert_array_equal(np.stack(table["vector"].to_numpy(zero_copy_only=False))[1], vectors[18])
    assert index.search(vectors[8], k=11).ids.tolist().count(8) == 1
    assert index.delete([0, 9, 9, 77]) == 2
    assert len(index) == 9
    assert index.get([0, 9]).num_rows == 0
    for exact in (False, True):
        assert set(index.search(vectors[0], k=20, exact=exact).ids) == {1, 2, 3, 4, 5, 6, 7, 8, 10}
    index.add([0], vectors[:1], {"n": [0]})  # a deleted id can come back
    assert index.get([0])["n"].to_pylist() == [0]


def test_delete_all_and_begin_again(make_index: Callable[..., ti.Index], vectors: np.ndarray) -> None:
    index = make_index()
    index.add(range(5), vectors[:5])
    assert index.delete(range(5)) == 5
    assert len(index) == 0
    assert index.stats().segments == 0
    assert index.search(vectors[0]).ids.shape == (0,)
    with pytest.raises(ti.IdError):
        index.add(["a"], vectors[:1])  # the kind of id stays
    index.add([1], vectors[:1])
    assert index.search(vectors[0]).ids.tolist() == [1]


def test_deleting_nothing_commits_nothing(make_index: Callable[..., ti.Index], vectors: np.ndarray) -> None:
    index = make_index()
    index.add(range(5), vectors[:5])
    before = index.stats().generation
    assert index.delete([100]) == 0
    index.add([], [])
    with index.batch():
        pass
    assert index.stats().generation == before


@pytest.mark.parametrize("deleted", [0.01, 0.5])
def test_a_graph_with_deleted_rows(make_index: Callable[..., ti.Index], deleted: float) -> None:
    rows = 9_000
    vectors = matryoshka_vectors(rows, DIM, seed=6)
    queries = matryoshka_vectors(60, DIM, seed=6, stream=1)
    index = make_index(merge_policy=ti.NoMergePolicy())
    index.add(np.arange(rows), vectors)
    gone = np.random.default_rng(0).permutation(rows)[: int(rows * deleted)]
    assert index.delete(gone) == len(gone)
    left = np.setdiff1d(np.arange(rows), gone)
    truth, _ = exact_top_k(vectors[left], queries, 10)
    found = index.search(queries, ef=100)
    assert (found.plan.strategy, found.stats.parts_walked) == ("graph", 1)
    assert not np.isin(found.ids, gone).any()
    assert recall_at_k(found.ids, left[truth]) >= 0.95
    assert recall_at_k(index.search(queries, exact=True).ids, left[truth]) >= 0.998
    index.optimize()
    assert index.stats().deleted_rows == 0
    assert index.stats().segments == 1
    found = index.search(queries, ef=min(200, len(left) // 41))
    assert found.plan.strategy == "graph"
    assert recall_at_k(found.ids, left[truth]) >= 0.95
    assert not np.isin(found.ids, gone).any()
    assert index.verify().ok


def test_a_batch_is_one_generation(make_index: Callable[..., ti.Index], vectors: np.ndarray) -> None:
    index = make_index(merge_policy=ti.NoMergePolicy())
    index.add(range(10), vectors[:10])
    before = index.stats().generation
    with index.batch():
        index.add([10, 11], vectors[10:12])
        index.delete([10])
        index.upsert([0, 12], vectors[12:14])
        index.upsert([12], vectors[14:15])
        index.add([10], vectors[15:16])
        assert len(index) == 10  # nothing shows before the end
        with pytest.raises(ti.DuplicateIdError):
            index.add([20, 11], vectors[:2])
        with pytest.raises(ti.NonFiniteVectorError):
            index.add([30], np.full((1, DIM), np.nan))
        with pytest.raises(ti.ParameterError):
            index.optimize()
    assert index.stats().generation == before + 1
    assert len(index) == 13
    stored = index.get([0, 10, 11, 12], include_vectors=True)
    got = np.stack(stored["vector"].to_numpy(zero_copy_only=False))
    np.testing.assert_array_equal(got, vectors[[12, 15, 11, 14]])
    assert sorted(index.search(vectors[0], k=50).ids.tolist()) == list(range(13))
    index.close()
    with ti.open(index.path) as again:
        assert again.verify().ok
        assert again.get([20, 30]).num_rows == 0


def test_a_batch_that_fails_leaves_nothing(make_index: Callable[..., ti.Index], vectors: np.ndarray) -> None:
    index = make_index()
    index.add(range(10), vectors[:10])
    before = index.stats().generation

    def fail() -> None:
        with index.batch():
            index.delete([1])
            index.add([10], vectors[10:11])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (len(index), index.stats().generation, segments_on_disk(index)) == (10, before, 1)
    index.add([10], vectors[10:11])
    assert len(index) == 11


def test_an_interrupted_stream_leaves_nothing(
    make_index: Callable[..., ti.Index], vectors: np.ndarray
) -> None:
    index = make_index()
    index.add(range(10), vectors[:10])

    def batches(intake: Intake) -> Iterator[RowBatch]:
        yield from intake.batches(range(10, 20), vectors[10:20], None)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.write(batches)
    assert (len(index), segments_on_disk(index)) == (10, 1)


def test_small_commits_are_merged_by_the_policy(
    make_index: Callable[..., ti.Index], vectors: np.ndarray, queries: np.ndarray
) -> None:
    index = make_index(merge_policy=ti.SizeTieredPolicy(fanout=4))
    for i in range(200):
        index.add([i], vectors[i : i + 1])
    stats = index.stats()
    assert stats.rows == 200
    assert stats.segments <= 12  # three of each of four tiers
    assert len(list((index.path / "manifests").iterdir())) <= 5
    assert segments_on_disk(index) <= 30
    truth, _ = exact_top_k(vectors[:200], queries, 10)
    result = index.search(queries)
    assert (result.plan.strategy, result.stats.parts_scanned) == ("scan", 1)
    assert recall_at_k(result.ids, truth) >= 0.95
    assert index.verify().ok
    index.optimize()
    assert index.stats().segments == 1
    assert index.search(queries).ids.tolist() == result.ids.tolist()


def test_a_mostly_deleted_segment_is_rewritten(
    make_index: Callable[..., ti.Index], vectors: np.ndarray
) -> None:
    index = make_index()
    index.add(range(100), vectors[:100])
    index.delete(range(20))
    assert index.stats().deleted_rows == 20
    index.delete(range(20, 40))
    assert (index.stats().deleted_rows, index.stats().rows) == (0, 60)


def test_a_merge_loses_no_write_that_comes_meanwhile(
    make_index: Callable[..., ti.Index], vectors: np.ndarray
) -> None:
    index = make_index(merge_policy=ti.NoMergePolicy())
    for start in range(0, 500, 50):
        index.add(range(start, start + 50), vectors[start : start + 50])
    held, go = threading.Event(), threading.Event()
    store = index._current.store
    finish = store.files.sync_folder

    def wait(path: Path) -> None:
        if threading.current_thread() is merger and not held.is_set():
            held.set()
            go.wait(20)
        finish(path)

    store.files.sync_folder = wait
    merger = threading.Thread(target=index.optimize)
    merger.start()
    assert held.wait(20)  # the merged segment is written, and not yet committed
    index.delete(range(60))
    index.upsert([100, 999], vectors[[600, 601]])
    go.set()
    merger.join()
    expected = {*range(60, 500), 999}
    assert set(index.search(vectors[0], k=1_000).ids.tolist()) == expected
    stored = index.get([100], include_vectors=True)["vector"][0].as_py()
    np.testing.assert_array_equal(np.array(stored, np.float32), vectors[600])
    assert index.get(range(60)).num_rows == 0
    assert index.verify().ok
    index.optimize()
    assert set(index.search(vectors[0], k=1_000).ids.tolist()) == expected
    assert (index.stats().segments, index.stats().deleted_rows) == (1, 0)


def test_generations_are_kept_opened_and_restored(
    make_index: Callable[..., ti.Index], vectors: np.ndarray
) -> None:
    index = make_index(keep_generations=4)
    for i in range(6):
        index.add([i], vectors[i : i + 1])
    index.optimize()  # generation 8
    assert [g.generation for g in index.generations()] == [5, 6, 7, 8]
    assert [g.rows for g in index.generations()] == [4, 5, 6, 6]
    with ti.open(index.path, generation=5) as earlier:
        assert sorted(earlier.search(vectors[0]).ids.tolist()) == [0, 1, 2, 3]
        with pytest.raises(ti.ReadOnlyError):
            earlier.add([9], vectors[:1])
    with pytest.raises(ti.GenerationNotFoundError, match="generation 1 "):
        ti.open(index.path, generation=1)
    with pytest.raises(ti.GenerationNotFoundError):
        index.restore(99)
    index.restore(5)
    assert (len(index), index.stats().generation) == (4, 9)
    index.add([4], vectors[10:11])
    assert len(index) == 5
    assert index.verify().ok


def test_a_generation_that_is_restored_is_not_collected_before(
    make_index: Callable[..., ti.Index], vectors: np.ndarray
) -> None:
    """The first write of an open index collects what is not to be kept."""
    with make_index(keep_generations=50, merge_policy=ti.NoMergePolicy()) as index:
        for i in range(8):
            index.add([i], vectors[i : i + 1])
        index.delete([0, 1])  # generation 10
    index = make_index()
    with pytest.raises(ti.GenerationNotFoundError, match="11 is not kept; there are 1, 2, "):
        index.restore(11)
    assert [g.generation for g in index.generations()] == list(range(1, 11))
    index.restore(5)
    assert sorted(index.search(vectors[0]).ids.tolist()) == [0, 1, 2, 3]
    assert [g.generation for g in index.generations()] == [9, 10, 11]
    assert index.verify().ok
    with make_index("other", keep_generations=50) as other:
        for i in range(8):
            other.add([i], vectors[i : i + 1])
    other = make_index("other")
    with pytest.raises(ti.GenerationNotFoundError):
        other.restore(99)
    other.add([8], vectors[8:9])  # which collects, whatever was not restored before
    assert len(other.generations()) <= 4


@pytest.mark.parametrize("generation", [1.0, "1", True, b"1", [1], 0, -1])
def test_what_is_no_generation_is_refused(
    make_index: Callable[..., ti.Index], vectors: np.ndarray, generation: Any
) -> None:
    index = make_index()
    index.add([0], vectors[:1])
    with pytest.raises(ti.ParameterError, match="generation must be"):
        index.restore(generation)
    with pytest.raises(ti.ParameterError, match="generation must be"):
        ti.open(index.path, generation=generation)
    assert index.stats().generation == 2
    with ti.open(index.path, generation=np.int64(1)) as earlier:
        assert len(earlier) == 0
    index.restore(np.int64(1))
    assert (len(index), index.stats().generation) == (0, 3)


def test_a_reader_keeps_its_snapshot_and_refreshes(
    make_index: Callable[..., ti.Index], vectors: np.ndarray
) -> None:
    index = make_index(keep_generations=1)
    index.add(range(10), vectors[:10], {"n": list(range(10))})
    reader = ti.open(index.path, mode="r")
    hit = reader.search(vectors[3], k=3)
    index.delete([3])
    index.upsert(range(4, 20), vectors[4:20], {"n": list(range(16))})
    index.optimize()  # collects the files that the reader has open
    assert segments_on_disk(index) == 1
    again = reader.search(vectors[3], k=3)
    assert again.ids.tolist() == hit.ids.tolist()
    assert again.metadata["n"].to_pylist() == hit.ids.tolist()
    assert hit.metadata["n"].to_pylist() == hit.ids.tolist()
    assert reader.refresh()
    assert not reader.refresh()
    assert 3 not in reader.search(vectors[3], k=20).ids
    assert len(reader) == 19
    reader.close()


def test_orphans_are_collected_when_a_writer_begins(
    make_index: Callable[..., ti.Index], vectors: np.ndarray
) -> None:
    index = make_index()
    index.add([1], vectors[:1])
    index.close()
    orphan = index.path / "segments" / "0123456789abcdef"
    orphan.mkdir()
    (orphan / "rows.parquet").write_bytes(b"half")
    (index.path / "manifests" / "half.tmp").write_bytes(b"{")
    with ti.open(index.path) as again:
        assert orphan.exists()  # a reader removes nothing
        again.add([2], vectors[1:2])
    assert not orphan.exists()
    assert not list(index.path.rglob("*.tmp"))


def test_verify_names_what_is_damaged(make_index: Callable[..., ti.Index], vectors: np.ndarray) -> None:
    index = make_index()
    index.add(range(100), vectors[:100])
    assert index.verify() == ti.VerifyReport(generation=2, rows=100, bytes=index.verify().bytes, problems=[])
    (file,) = index.path.rglob("rows.parquet")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1  # in the vectors: opening does not see it
    file.write_bytes(data)
    with ti.open(index.path, mode="r") as damaged:
        report = damaged.verify()
    assert not report.ok
    assert "rows.parquet" in report.problems[0]


def test_a_segment_without_a_graph_gets_one_when_merged(make_index: Callable[..., ti.Index]) -> None:
    rows = GRAPH_MIN_ROWS + 200
    vectors = matryoshka_vectors(rows, DIM, seed=8)
    index = make_index(merge_policy=ti.NoMergePolicy())
    half = rows // 2
    index.add(np.arange(half), vectors[:half])
    index.add(np.arange(half, rows), vectors[half:])
    assert index.stats().coarse_graph_bytes == 0
    index.optimize()
    assert index.stats().coarse_graph_bytes > 0
    found = index.search(vectors[:20], k=1, ef=100)
    assert found.plan.strategy == "graph"
    assert found.ids[:, 0].tolist() == list(range(20))


def test_writes_of_many_threads_share_commits(
    make_index: Callable[..., ti.Index], vectors: np.ndarray
) -> None:
    index = make_index(merge_policy=ti.NoMergePolicy())
    index.add([0], vectors[:1])
    entered, go = threading.Event(), threading.Event()
    outcomes: list[object] = []

    def slow(intake: Intake) -> Iterator[RowBatch]:
        entered.set()
        go.wait(20)
        yield from intake.batches([1], vectors[1:2], None)

    def ask(call: Callable[[], object]) -> None:
        try:
            outcomes.append(call())
        except ti.TieredIndexError as error:
            outcomes.append(type(error).__name__)

    first = threading.Thread(target=index.write, args=(slow,))
    first.start()
    assert entered.wait(20)
    calls = [
        *(partial(index.add, [i], vectors[i : i + 1]) for i in range(2, 12)),
        partial(index.add, [0], vectors[:1]),
        partial(index.add, [50], vectors[:1, :3]),
        partial(index.delete, [77]),
    ]
    threads = [threading.Thread(target=ask, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    while len(index._writer._waiting) < len(calls):
        threading.Event().wait(0.001)
    go.set()
    for thread in [first, *threads]:
        thread.join()
    assert sorted(map(str, outcomes)) == ["0", "DimensionError", "DuplicateIdError", *["None"] * 10]
    assert sorted(index.search(vectors[0], k=50).ids.tolist()) == list(range(12))
    # generation 3 is the slow write's, alone or with some that came before it took its first batch
    assert index.stats().generation <= 4


class FailsOnce(Files):
    """A disk on which one write fails."""

    def __init__(self) -> None:
        self.failing = False

    def create(self, path: Path) -> BinaryIO:
        file = super().create(path)
        disk = self

        class Failing(io.FileIO):
            def write(self, data: object) -> int:
                if disk.failing:
                    disk.failing = False
                    raise OSError(28, "No space left on device")
                return file.write(data)

            def close(self) -> None:
                file.close()
                super().close()

        return Failing(path, "ab")


def test_a_batch_with_a_failed_write_is_not_committed(make_index: Callable[..., ti.Index]) -> None:
    vectors = matryoshka_vectors(20_000, 8, seed=9)
    index = make_index(dim=8, prefix_dim=8)
    index.add(range(10), vectors[:10])
    disk = FailsOnce()
    index._current.store.files = disk

    def batch() -> None:
        with index.batch():
            index.add(range(10, 20), vectors[10:20])
            disk.failing = True
            with pytest.raises(ti.StorageFullError):
                index.add(range(100, 10_000), vectors[100:10_000])  # a row group's worth: it reaches the disk
            with pytest.raises(ti.StorageError, match="earlier write"):
                index.add([20], vectors[20:21])

    with pytest.raises(ti.StorageError, match="earlier write"):
        batch()
    assert len(index) == 10
    assert segments_on_disk(index) == 1
    index.add(range(10, 20), vectors[10:20])
    assert len(index) == 20
    assert index.verify().ok
