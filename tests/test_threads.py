"""Several threads, processes and handles at one index: each gets what is its own."""

from __future__ import annotations

import ast
import errno
import fcntl
import gc
import math
import os
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import tiered_index as ti
from tiered_index import blas, lazily, recalibrate
from tiered_index.planning import LIVE_QUERIES, Planning
from tiered_index.rotation import fit_rotation
from tiered_index.storage.commit import Store
from tiered_index.storage.compact import Merge
from tiered_index.storage.files import Files
from tiered_index.storage.snapshot import Snapshot

from .conftest import DIM

PACKAGE = Path(ti.__file__).parent


def segments_on_disk(index: ti.Index) -> set[str]:
    return {path.name for path in (index.path / "segments").iterdir()}


# Folders that are replaced


@pytest.mark.parametrize("wrote", [True, False])
def test_a_handle_of_an_index_that_was_replaced_writes_nothing(
    make_index: Callable[..., ti.Index], vectors: np.ndarray, wrote: bool
) -> None:
    old = make_index()
    with ti.open(old.path) as other:  # the writer's lock is held, or it is not
        (old if wrote else other).add([1], vectors[:1])
    old.refresh()
    shutil.rmtree(old.path)
    with ti.open(old.path, DIM, prefix_dim=32) as new:
        for i in range(3):
            new.add([10 + i], vectors[:1])
    with pytest.raises(ti.IndexNotFoundError, match=r"replaced|another index"):
        old.add([7], vectors[:1])
    with pytest.raises(ti.IndexNotFoundError, match="another index"):
        old.refresh()
    assert old.get(where={})["id"].to_pylist() == [1]  # it answers from the files it holds
    with ti.open(old.path) as again:
        assert again.get(where={})["id"].to_pylist() == [10, 11, 12]
        assert again.generations()[-1].generation == 4


@pytest.mark.parametrize("wrote", [True, False])
def test_a_handle_of_an_index_that_was_put_back_from_an_earlier_copy_writes_nothing(
    make_index: Callable[..., ti.Index], vectors: np.ndarray, tmp_path: Path, wrote: bool
) -> None:
    old = make_index()
    with ti.open(old.path) as other:
        other.add([1], vectors[:1])
        shutil.copytree(old.path, tmp_path / "copy")
        other.add([2], vectors[:1])
    old.refresh()
    if wrote:
        old.add([3], vectors[:1])
    shutil.rmtree(old.path)
    shutil.move(tmp_path / "copy", old.path)
    with pytest.raises(ti.IndexNotFoundError, match="replaced"):
        old.add([7], vectors[:1])
    with ti.open(old.path) as again:
        assert again.get(where={})["id"].to_pylist() == [1]
        again.add([2], vectors[:1])


def test_an_index_that_is_dropped_lets_the_next_writer_in(
    make_index: Callable[..., ti.Index], vectors: np.ndarray, tmp_path: Path
) -> None:
    index = ti.open(tmp_path / "d.tidx", DIM)
    index.add([1], vectors[:1])
    del index
    with ti.open(tmp_path / "d.tidx") as index:
        index.add([2], vectors[:1])
        assert len(index) == 2


def test_a_disk_without_locks_is_told(
    make_index: Callable[..., ti.Index], vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make_index()

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.glob("*")))
    with pytest.raises(ti.StorageError, match="cannot be locked"):
        index.add([1], vectors[:1])
    assert len(list(descriptors.glob("*"))) == before
    monkeypatch.undo()
    index.add([1], vectors[:1])


# Opening


def test_who_creates_second_opens(
    make_index: Callable[..., ti.Index], vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make_index()
    index.add([1], vectors[:1])
    exists, asked = Store.exists, []

    def not_yet(self: Store) -> bool:
        asked.append(self)
        return len(asked) != 1 and exists(self)

    monkeypatch.setattr(Store, "exists", not_yet)
    with ti.open(index.path, DIM, prefix_dim=32) as second:
        assert len(second) == 1
    asked.clear()
    with pytest.raises(ti.ConfigMismatchError):
        ti.open(index.path, DIM, prefix_dim=16)


def test_a_generation_that_is_collected_while_it_is_opened(
    make_index: Callable[..., ti.Index], vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make_index(keep_generations=1, merge_policy=ti.NoMergePolicy())
    index.add([1], vectors[:1])
    index.add([2], vectors[:1])
    wanted = index.generations()[-1].generation
    manifest, asked = Store.manifest, []

    def then_collected(self: Store, generation: int) -> Any:
        found = manifest(self, generation)
        asked.append(generation)
        if len(asked) == 2:
            monkeypatch.undo()
            index.optimize()
        return found

    monkeypatch.setattr(Store, "manifest", then_collected)
    with pytest.raises(ti.GenerationNotFoundError):
        ti.open(index.path, generation=wanted)


# Moving to newer generations


def test_refresh_beside_a_commit_does_not_go_back(
    make_index: Callable[..., ti.Index], vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = make_index()
    reader = make_index()
    writer.add([1], vectors[:1])
    open_newest = Store.snapshot

    def slowly(self: Store, *given: Any) -> Snapshot:
        found = open_newest(self, *given)
        monkeypatch.undo()
        writer.add([2], vectors[:1])
        assert reader.refresh()
        return found

    monkeypatch.setattr(Store, "snapshot", slowly)
    assert not reader.refresh()
    assert len(reader) == 2


def test_refresh_does_not_open_what_was_closed_meanwhile(
    make_index: Callable[..., ti.Index], vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = make_index()
    reader = make_index()
    writer.add([1], vectors[:1])
    open_newest = Store.snapshot

    def slowly(self: Store, *given: Any) -> Snapshot:
        found = open_newest(self, *given)
        reader.close()
        return found

    monkeypatch.setattr(Store, "snapshot", slowly)
    with pytest.raises(ti.IndexClosedError):
        reader.refresh()
    assert reader.closed


# Closing


def test_a_descriptor_is_not_let_go_of_while_somebody_may_search(
    make_index: Callable[..., ti.Index], vectors: np.ndarray, tmp_path: Path
) -> None:
    """Its number would be the next file's, whose offset a look at the size would move."""
    index = make_index()
    index.add(range(20), vectors[:20])
    snapshot = index.snapshot()
    held = snapshot.segments[0].segment.full.descriptor
    is_file = os.fstat(held)
    index.close()
    with (tmp_path / "other").open("wb") as other:
        assert other.fileno() != held
        assert os.path.samestat(os.fstat(held), is_file)
    with pytest.raises(ti.IndexClosedError):
        snapshot.segments[0].segment.full.check()
    del snapshot
    gc.collect()
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(held)


def test_closing_is_no_part_of_a_batch(make_index: Callable[..., ti.Index], vectors: np.ndarray) -> None:
    index = make_index()
    with index.batch():
        index.add([1], vectors[:1])
        with pytest.raises(ti.ParameterError, match="batch"):
            index.close()
        index.add([2], vectors[:1])
    assert len(index) == 2


def test_a_watched_index_that_is_dropped_closes_its_files(
    make_index: Callable[..., ti.Index], vectors: np.ndarray
) -> None:
    make_index().add(range(20), vectors[:20])
    index = ti.open(make_index().path, mode="r")
    snapshot = weakref.ref(index.snapshot())
    thread = index.watch(1.0, state=False)._thread
    del index
    thread.join(20)
    del thread
    gc.collect()
    assert snapshot() is None


# Writes


def test_rows_are_made_by_the_thread_that_adds_them(
    make_index: Callable[..., ti.Index], vectors: np.ndarray
) -> None:
    """An encoder, or a source, may be tied to its thread, and what it raises is for that one."""
    index = make_index()
    encoders: list[threading.Thread] = []

    def encode(texts: list[str]) -> np.ndarray:
        encoders.append(threading.current_thread())
        return np.resize(vectors, (len(texts), DIM))

    texts = ti.TextIndex.over(index, ti.CallableEncoder(encode, dim=DIM, name="slow"))
    other = threading.Thread(target=texts.add_texts, args=(range(1_100), ["a"] * 1_100))

    def slowly(_: object) -> int:
        other.start()
        while not encoders:
            time.sleep(0.001)
        time.sleep(0.3)  # for it to come here
        return 0

    index._writer.run(slowly)
    other.join()
    assert encoders == [other, other]  # the first thousand before the write begins, the rest in it
    assert len(index) == 1_100


def test_a_source_may_not_write_to_its_index(
    make_index: Callable[..., ti.Index], vectors: np.ndarray
) -> None:
    index = make_index()
    index.add([-1], vectors[:1])
    schema = pa.schema([("id", pa.int64()), ("vector", pa.list_(pa.float32(), DIM))])

    def batches(write: Callable[[], object]) -> Iterator[pa.RecordBatch]:
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors[:2].reshape(-1)), DIM)
        yield pa.record_batch([pa.array([1, 2]), column], schema=schema)
        write()

    for write in (
        lambda: index.upsert([-1], vectors[:1]),
        lambda: index.batch().__enter__(),
        index.optimize,
        index.close,
    ):
        source = pa.RecordBatchReader.from_batches(schema, batches(write))
        with pytest.raises((ti.ParameterError, ti.SourceError), match=r"being written|would write"):
            ti.ingest(source, index, progress=False, calibrate_seconds=0)
        assert index.get(where={})["id"].to_pylist() == [-1]
    index.add([1], vectors[:1])
    assert len(index) == 2


def test_a_write_beside_a_merge_raises_nothing_that_its_caller_is_handling(
    make_index: Callable[..., ti.Index], vectors: np.ndarray
) -> None:
    index = make_index()
    held, done = threading.Event(), threading.Event()

    def merge() -> None:
        with index._writer._merging:
            held.set()
            done.wait()

    other = threading.Thread(target=merge)
    other.start()
    held.wait()
    try:
        raise ValueError("of the caller")
    except ValueError:
        index.add([1], vectors[:1])
    finally:
        done.set()
        other.join()
    assert len(index) == 1


def test_a_merge_that_ctrl_c_ends_leaves_nothing(
    make_index: Callable[..., ti.Index], vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make_index(merge_policy=ti.NoMergePolicy())
    for i in range(3):
        index.add([i], vectors[:1])
    before = segments_on_disk(index)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Merge, "commit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        index.optimize()
    assert segments_on_disk(index) == before
    assert not index._writer._store.unfinished
    monkeypatch.undo()
    index.optimize()
    assert len(index.snapshot().segments) == 1


def test_a_refused_write_holds_no_files_open(
    make_index: Callable[..., ti.Index], vectors: np.ndarray
) -> None:
    index = make_index()
    index.add([1], vectors[:1])
    gc.collect()
    gc.disable()
    try:
        snapshot = weakref.ref(index.snapshot())
        with pytest.raises(ti.DuplicateIdError) as caught:
            index.add([1], vectors[:1])
        del caught
        index.add([2], vectors[:1])
        assert snapshot() is None
    finally:
        gc.enable()


# Calibrations


def test_a_calibration_is_of_the_coarse_tier_there_is(
    filled: ti.Index, queries: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []
    calibrate = recalibrate.calibrate

    def beside_a_rebuild(snapshot: Snapshot, *given: Any) -> Any:
        measured.append(snapshot.manifest.rebuilt)
        if len(measured) == 1:
            filled.rebuild_coarse(16, calibrate_seconds=0)
        return calibrate(snapshot, *given)

    monkeypatch.setattr(recalibrate, "calibrate", beside_a_rebuild)
    made = filled.calibrate(queries, 10, seconds=1)
    newest = filled.snapshot().manifest.rebuilt
    assert measured == [0, newest]
    assert made.rebuilt == newest > 0
    assert filled._planning.chooser_for(filled.snapshot()) is not None


def test_rows_that_calibration_asks_are_those_of_the_snapshot_it_measures(
    filled: ti.Index, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address means another row, or none, once segments were merged."""
    sampled: list[Snapshot] = []
    stored = recalibrate.stored_queries

    def then_written(snapshot: Snapshot, count: int) -> Any:
        found = stored(snapshot, count)
        sampled.append(snapshot)
        filled.delete([0])
        filled.optimize(calibrate_seconds=0)
        return found

    monkeypatch.setattr(recalibrate, "stored_queries", then_written)
    made = filled.calibrate(k=10, seconds=1)
    assert [snapshot.manifest.generation for snapshot in sampled] == [made.generation]


def test_a_calibration_that_another_writer_took_for_garbage_is_written_again(
    filled: ti.Index, queries: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, collected = Files.replace, []

    def beside_a_writer(self: Files, source: Path, target: Path) -> None:
        if not collected:
            collected.append(source)
            source.unlink()
        replace(self, source, target)

    monkeypatch.setattr(Files, "replace", beside_a_writer)
    filled.calibrate(queries, 10, seconds=1)
    assert len(collected) == 1
    assert (filled.path / "calibration").exists()
    assert not list(filled.path.glob("*.tmp"))


def test_a_table_that_another_thread_empties(filled: ti.Index, queries: np.ndarray) -> None:
    class Emptied(dict[Any, Any]):
        def __setitem__(self, key: object, value: object) -> None:
            super().__setitem__(key, value)
            self.clear()

    filled.calibrate(queries, 10, seconds=1)
    chooser = filled._planning.chooser
    chooser._whole = Emptied()
    assert chooser.whole(10, len(filled), 0.5) == chooser.whole(10, len(filled), 0.5)


def test_queries_are_kept_by_several_threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    planning = Planning()
    query = np.zeros(DIM, np.float32)
    planning._live = [query] * LIVE_QUERIES

    def chance() -> float:
        planning._weight = 1.0  # as who keeps the first that fills the table
        return 0.5

    monkeypatch.setattr("tiered_index.planning._chance", chance)
    planning.keep(query)
    assert 0.0 < planning._weight < 1.0


# Forks, and the end of the interpreter


def test_matrices_are_multiplied_where_a_fork_waits() -> None:
    """OpenBLAS holds a lock of its own meanwhile, which a child would find held for ever."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        if path.is_relative_to(PACKAGE / "testing") or path.name == "blas.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            product = isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult)
            if product and "ir_measures" not in ast.unparse(node):
                found.append(f"{path.name}: {ast.unparse(node)}")
            if isinstance(node, ast.Attribute) and node.attr == "eigh":
                found.append(f"{path.name}: {ast.unparse(node)}")
    assert found == []


def test_a_fork_waits_for_eigenvectors(monkeypatch: pytest.MonkeyPatch) -> None:
    eigh, free = np.linalg.eigh, []

    def watched(matrix: np.ndarray) -> Any:
        other = threading.Thread(target=lambda: free.append(blas._decomposing.acquire(blocking=False)))
        other.start()
        other.join()
        return eigh(matrix)

    monkeypatch.setattr(np.linalg, "eigh", watched)
    fit_rotation(np.eye(4, dtype=np.float32))
    assert free == [False]


def test_a_fork_waits_for_what_is_being_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    free, asked = [], []

    def watched(name: str) -> Any:
        other = threading.Thread(target=lambda: free.append(lazily._importing.acquire(blocking=False)))
        other.start()
        other.join()
        asked.append(name)
        return math

    monkeypatch.setattr(lazily, "import_module", watched)
    module: Any = lazily.Lazily("some.module")
    assert asked == []
    assert module.floor(2.5) == module.trunc(2.5) == 2
    assert asked == ["some.module"]
    assert free == [False]
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = module.nothing_like_it


def test_nothing_is_cached_under_a_lock_that_a_fork_may_leave_held() -> None:
    """Python 3.11 has one for each cached_property."""
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        names = [
            alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
        ]
        assert "cached_property" not in names, path


def test_arrays_of_a_thread_outlive_what_is_the_thread_s_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When the interpreter ends, compiled code of threads that nobody waits for may be at work in them."""
    engine = pytest.importorskip("tiered_index.compiled.engine")
    from tiered_index.compiled.room import own

    alive: list[bool] = []

    class Kernels:
        def walk(self, *_: object) -> int:
            room = weakref.ref(own.room)
            del own.room
            gc.collect()
            alive.append(room() is not None)
            return 0

    monkeypatch.setattr(engine, "kernels", Kernels)
    fields = engine.graph_fields(0, 0, 0, 0, (0, 0), 0, 0, 0)

    def search() -> None:
        engine.walk(fields, np.zeros(8, np.float32), 10)

    thread = threading.Thread(target=search)
    thread.start()
    thread.join()
    assert alive == [True]
