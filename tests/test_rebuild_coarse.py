"""Another coarse tier from the same vectors: what it finds, what stays, and what comes in between."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

import tiered_index as ti
from tiered_index.planner.plan import EXACT
from tiered_index.storage import rebuild as rebuilding
from tiered_index.storage.calibration import read_calibration
from tiered_index.storage.files import Files
from tiered_index.testing import exact_top_k, matryoshka_vectors, recall_at_k

from .conftest import DIM

ROWS, GRAPHED = 4_400, 4_200
GONE = [7, 4_300]
GRAPH: dict[str, Any] = {"graph_degree": 12, "ef_construction": 40}  # quickly built
Make = Callable[..., ti.Index]


@pytest.fixture(scope="module")
def many() -> np.ndarray:
    return matryoshka_vectors(ROWS, DIM, seed=4)


@pytest.fixture(scope="module")
def asked() -> np.ndarray:
    return matryoshka_vectors(60, DIM, seed=4, stream=1)


@pytest.fixture(scope="module")
def folder(many: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph, a small segment, and deleted rows in both; the ids are the rows."""
    path = tmp_path_factory.mktemp("grown") / "g.tidx"
    with ti.open(path, DIM, prefix_dim=16, merge_policy=ti.NoMergePolicy(), **GRAPH) as index:
        ids = np.arange(ROWS)
        for part in (ids[:GRAPHED], ids[GRAPHED:]):
            index.add(part, many[part], {"third": part % 3})
        index.delete(GONE)
    return path


@pytest.fixture
def grown(folder: Path, tmp_path: Path) -> Iterator[ti.Index]:
    """The same, to be changed."""
    shutil.copytree(folder, tmp_path / "g.tidx")
    with ti.open(tmp_path / "g.tidx", merge_policy=ti.NoMergePolicy()) as index:
        index.delete([99_999])  # no such row; takes the lock and collects
        yield index


def recall(index: ti.Index, many: np.ndarray, asked: np.ndarray, **plan: Any) -> float:
    """Return recall@10 of a walk, against exact truth; scores are compared with the true ones."""
    left = np.setdiff1d(np.arange(ROWS), GONE)
    truth, scores = exact_top_k(many[left], asked, 10)
    found = index.search(asked, ef=60, candidates=14, **plan)
    assert (found.plan.strategy, found.stats.parts_walked, found.stats.parts_scanned) == ("graph", 1, 1)
    for row in range(len(asked)):
        own = many[found.ids[row]] @ asked[row]
        np.testing.assert_allclose(found.scores[row], own, rtol=1e-5, atol=1e-6)
    assert (found.scores[:, 0] <= scores[:, 0] + 1e-6).all()
    return recall_at_k(found.ids, left[truth])


def files_of(path: Path, pattern: str) -> dict[str, tuple[int, int, bytes]]:
    """Return what tells files that were not touched from others."""
    return {
        str(file.relative_to(path)): (file.stat().st_ino, file.stat().st_mtime_ns, file.read_bytes())
        for file in sorted(path.rglob(pattern))
        if file.is_file()
    }


def untouched(path: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return the files that a rebuild leaves alone."""
    found = {}
    for pattern in ("rows.parquet", "lookup.arrow", "columns.roaring", "deleted-*"):
        found |= files_of(path, pattern)
    return found


def test_a_wider_prefix_finds_more_and_a_narrower_one_less(
    grown: ti.Index, many: np.ndarray, asked: np.ndarray
) -> None:
    before, kept = recall(grown, many, asked), untouched(grown.path)
    assert len(kept) == 8
    codes = grown.stats().coarse_codes_bytes
    grown.rebuild_coarse(48)
    wide = recall(grown, many, asked)
    assert (grown.config.prefix_dim, grown.stats().coarse_codes_bytes) == (48, 3 * codes)
    assert recall(grown, many, asked, prefix_dim=16) == pytest.approx(before, abs=0.1)
    assert grown.verify().ok
    grown.rebuild_coarse(prefix_dim=8)
    narrow = recall(grown, many, asked)
    assert narrow < before - 0.1 < before + 0.05 < wide
    assert wide > 0.97
    assert grown.verify().ok
    assert untouched(grown.path) == kept
    with ti.open(grown.path, mode="r") as again:
        assert recall(again, many, asked) == narrow
        assert again.count({"third": 1}) == grown.count({"third": 1})


def test_only_what_is_given_changes(grown: ti.Index, many: np.ndarray, asked: np.ndarray) -> None:
    graph = grown.stats().coarse_graph_bytes
    grown.rebuild_coarse(graph_degree=6)
    assert grown.config == ti.IndexConfig(
        dim=DIM, store_dim=DIM, prefix_dim=16, graph_degree=6, ef_construction=40
    )
    assert grown.stats().coarse_graph_bytes < graph * 0.7
    grown.rebuild_coarse(ef_construction=20)
    assert grown.config == ti.IndexConfig(
        dim=DIM, store_dim=DIM, prefix_dim=16, graph_degree=6, ef_construction=20
    )
    assert recall(grown, many, asked) > 0.5


def test_what_is_the_same_already_is_not_done_again(grown: ti.Index) -> None:
    before = grown.stats()
    grown.rebuild_coarse(16, rotation="none")
    grown.rebuild_coarse(rotation=None)
    assert grown.stats() == before


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, "at least one of prefix_dim, graph_degree, ef_construction, tail_sketch and rotation"),
        ({"prefix_dim": 12}, "prefix_dim must be 64 or a smaller multiple of 8, not 12"),
        ({"prefix_dim": 72}, "prefix_dim must be between 2 and 64, not 72"),
        ({"prefix_dim": 32.0}, "prefix_dim must be a whole number, not 32.0"),
        ({"prefix_dim": True}, "prefix_dim must be a whole number, not True"),
        ({"graph_degree": 3}, "graph_degree must be between 4 and 128, not 3"),
        ({"ef_construction": 7}, "ef_construction must be between 8 and 2000, not 7"),
        ({"rotation": "opq"}, "rotation must be one of 'keep', 'none', 'pca', not 'opq'"),
        ({"prefix_dim": 8, "calibrate_seconds": -1}, "calibrate_seconds must be a number at least 0"),
    ],
)
def test_bad_values_change_nothing(grown: ti.Index, settings: dict[str, Any], named: str) -> None:
    before = files_of(grown.path, "*")
    with pytest.raises(ti.ParameterError, match=named):
        grown.rebuild_coarse(**settings)
    assert files_of(grown.path, "*") == before


def test_who_may_not_write_may_not_rebuild(grown: ti.Index) -> None:
    with ti.open(grown.path, mode="r") as reader, pytest.raises(ti.ReadOnlyError):
        reader.rebuild_coarse(8)
    with grown.batch(), pytest.raises(ti.ParameterError, match="rebuild_coarse"):
        grown.rebuild_coarse(8)
    with ti.open(grown.path) as other, pytest.raises(ti.IndexLockedError):
        other.rebuild_coarse(8)
    grown.close()
    with pytest.raises(ti.IndexClosedError):
        grown.rebuild_coarse(8)


def test_an_index_without_rows_takes_the_settings_for_those_that_come(
    make_index: Make, many: np.ndarray
) -> None:
    index = make_index(prefix_dim=16)
    index.rebuild_coarse(40)
    index.add(range(100), many[:100])
    assert index.stats().coarse_codes_bytes == 100 * 40 * 2
    assert index.verify().ok


def coarse_bytes(dim: int) -> int:
    """Return the bytes of all codes once two rows were added: a byte a dimension in the graph, else two."""
    return (GRAPHED + 2 * (ROWS + 2 - GRAPHED)) * dim


def test_later_writes_and_merges_use_the_new_settings(
    grown: ti.Index, many: np.ndarray, asked: np.ndarray
) -> None:
    grown.rebuild_coarse(48)
    grown.upsert([0, 5_001], many[[0, 1]], {"third": [0, 0]})
    grown.delete([5_001])
    assert grown.stats().coarse_codes_bytes == coarse_bytes(48)
    assert recall(grown, many, asked) > 0.97
    grown.optimize()
    assert (grown.stats().segments, grown.stats().coarse_codes_bytes) == (1, (ROWS - 2) * 48)
    assert grown.verify().ok
    for i in range(3):  # those that are kept name none of the old files
        grown.upsert([i], many[i : i + 1], {"third": [i % 3]})
    grown.optimize()
    assert {file.name for file in grown.path.rglob("coarse*")} == {"coarse.faiss"}


def test_earlier_generations_keep_their_coarse_tier(
    grown: ti.Index, many: np.ndarray, asked: np.ndarray
) -> None:
    narrow, first = recall(grown, many, asked), grown.stats().generation
    grown.rebuild_coarse(48)
    wide = recall(grown, many, asked)
    with ti.open(grown.path, generation=first) as earlier:
        assert earlier.config.prefix_dim == 16
        assert recall(earlier, many, asked) == narrow
        assert earlier.verify().ok
    grown.restore(first)
    assert (grown.config.prefix_dim, recall(grown, many, asked)) == (16, narrow)
    grown.add([9_000], many[:1], {"third": [0]})
    grown.delete([9_000])
    assert grown.verify().ok
    grown.restore(first + 1)
    assert (grown.config.prefix_dim, recall(grown, many, asked)) == (48, wide)
    for _ in range(3):
        grown.upsert([1], many[1:2], {"third": [1]})
    grown.optimize()
    with pytest.raises(ti.GenerationNotFoundError):
        grown.restore(first)


def test_opening_with_the_former_settings_names_both(grown: ti.Index, asked: np.ndarray) -> None:
    first = grown.stats().generation
    with pytest.raises(ti.ParameterError, match="prefix_dim must be between 2 and 16, not 32"):
        grown.search(asked[0], prefix_dim=32)
    grown.rebuild_coarse(32)
    assert grown.search(asked[0], prefix_dim=32).plan.prefix_dim == 32
    with pytest.raises(ti.ConfigMismatchError, match=r"prefix_dim is 32, not 16; rebuild_coarse\(\)"):
        ti.open(grown.path, prefix_dim=16)
    with ti.open(grown.path, prefix_dim=16, generation=first) as earlier:
        assert earlier.config.prefix_dim == 16
    with pytest.raises(ti.ConfigMismatchError, match="prefix_dim is 16, not 32"):
        ti.open(grown.path, prefix_dim=32, generation=first)
    with pytest.raises(ti.ConfigMismatchError, match=r"metric is 'cosine', not 'dot'$"):
        ti.open(grown.path, metric="dot")


# While it goes on


@pytest.fixture
def held(grown: ti.Index) -> Iterator[tuple[threading.Thread, threading.Event]]:
    """A rebuild in a thread that has written the first segment's new tier, and what lets it go on."""
    reached, go = threading.Event(), threading.Event()
    files = grown._current.store.files
    sync = files.sync_folder

    def wait(path: Path) -> None:
        if threading.current_thread() is thread and not reached.is_set():
            reached.set()
            go.wait(20)
        sync(path)

    files.sync_folder = wait  # type: ignore[method-assign]
    thread = threading.Thread(target=grown.rebuild_coarse, args=(40,))
    thread.start()
    assert reached.wait(20)
    yield thread, go
    go.set()
    thread.join()


@pytest.mark.parametrize("few_rows", [0, 16_384])
def test_writes_that_come_meanwhile_are_in_it(
    grown: ti.Index,
    many: np.ndarray,
    held: tuple[threading.Thread, threading.Event],
    few_rows: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rebuilding, "FEW_ROWS", few_rows)
    monkeypatch.setattr("tiered_index.storage.writer.FEW_ROWS", few_rows)
    thread, go = held
    grown.delete(range(100))
    grown.upsert([200, 9_999], many[[300, 301]], {"third": [0, 1]})
    assert grown.config.prefix_dim == 16
    go.set()
    thread.join()
    assert grown.config.prefix_dim == 40
    assert grown.stats().coarse_codes_bytes == coarse_bytes(40)
    left = sorted({*range(100, ROWS), 9_999} - {4_300})
    assert sorted(grown.get(where={})["id"].to_pylist()) == left
    stored = grown.get([200], include_vectors=True)["vector"][0].as_py()
    np.testing.assert_array_equal(np.array(stored, np.float32), many[300])
    assert grown.search(many[301], k=2).ids.tolist() in ([301, 9_999], [9_999, 301])
    assert grown.verify().ok


def test_a_segment_that_goes_meanwhile_is_garbage(
    grown: ti.Index, held: tuple[threading.Thread, threading.Event]
) -> None:
    thread, go = held
    grown.delete(range(GRAPHED))
    go.set()
    thread.join()
    assert (len(grown), grown.stats().segments, grown.config.prefix_dim) == (199, 1, 40)
    for i in range(3):
        grown.delete([GRAPHED + i])
    grown.optimize()
    named = {entry.name for entry in grown._current.get().manifest.segments}
    assert {folder.name for folder in (grown.path / "segments").iterdir()} >= named
    assert grown.verify().ok


def test_an_index_that_is_closed_meanwhile_stays_as_it_was(
    grown: ti.Index, held: tuple[threading.Thread, threading.Event], many: np.ndarray
) -> None:
    thread, go = held
    failed: list[Any] = []
    threading.excepthook, hook = failed.append, threading.excepthook
    try:
        grown.close()
        go.set()
        thread.join()
    finally:
        threading.excepthook = hook
    assert issubclass(failed[0].exc_type, ti.IndexClosedError)
    with ti.open(grown.path) as again:
        again.upsert([1], many[1:2], {"third": [1]})  # collects
        assert again.config.prefix_dim == 16
        assert not list(again.path.rglob("coarse-*"))
        assert again.verify().ok


def test_searches_go_on_and_a_reader_moves_when_it_refreshes(
    grown: ti.Index, many: np.ndarray, asked: np.ndarray
) -> None:
    left = np.setdiff1d(np.arange(ROWS), GONE)
    truth, _ = exact_top_k(many[left], asked, 5)
    stop, seen, wrong = threading.Event(), set(), []
    reader = ti.open(grown.path, mode="r")

    def ask() -> None:
        while not stop.is_set():
            for query, wanted in zip(asked, left[truth], strict=True):
                for index in (grown, reader):
                    found = index.search(query, k=5, ef=1_000, candidates=1_000)
                    seen.add((index is reader, found.plan.prefix_dim))
                    if recall_at_k(found.ids, wanted) < 0.8:
                        wrong.append((found.ids.tolist(), wanted.tolist()))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for width in (32, 64, 24):
        grown.rebuild_coarse(width)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert {width for is_reader, width in seen if is_reader} == {16}
    assert {width for is_reader, width in seen if not is_reader} >= {16, 32, 64}
    assert reader.config.prefix_dim == 16
    assert reader.refresh()
    assert reader.config.prefix_dim == 24
    assert reader.search(asked[0]).plan.prefix_dim == 24
    reader.close()


def test_a_reader_in_another_process_moves_when_it_refreshes(grown: ti.Index, many: np.ndarray) -> None:
    code = (
        "import sys, numpy as np, tiered_index as ti\n"
        "index = ti.open(sys.argv[1], mode='r')\n"
        "query = np.load(sys.argv[2])\n"
        "for _ in sys.stdin:\n"
        "    hit = index.search(query, k=3)\n"
        "    print(index.config.prefix_dim, hit.plan.prefix_dim, hit.ids[0], index.verify().ok, flush=True)\n"
        "    index.refresh()\n"
    )
    np.save(grown.path.parent / "query.npy", many[11])
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, str(grown.path), str(grown.path.parent / "query.npy")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None

        def told() -> str:
            child.stdin.write("now\n")
            child.stdin.flush()
            return child.stdout.readline().strip()

        assert told() == "16 16 11 True"
        grown.rebuild_coarse(40)
        assert told() == "16 16 11 True"  # it had refreshed before
        assert told() == "40 40 11 True"
        grown.rebuild_coarse(rotation="pca")
        told()
        assert told() == "40 40 11 True"
        child.stdin.close()
    assert child.returncode == 0


# What was measured


def test_plans_are_measured_again_with_the_same_queries(grown: ti.Index, asked: np.ndarray) -> None:
    grown.rebuild_coarse(24)
    assert read_calibration(grown._current.store) is None  # what was not measured before
    grown.calibrate(asked[:40], (3,), seconds=0.5)
    grown.rebuild_coarse(40, calibrate_seconds=0.5)
    kept = read_calibration(grown._current.store)
    assert kept is not None
    assert (kept.calibration.source, kept.calibration.ks, len(kept.queries)) == ("given", (3,), 40)
    assert max(walked.prefix_dim for walked in kept.calibration.walked) == 40
    assert grown.explain(k=3, min_recall=0.5).expected is not None
    with ti.open(grown.path, mode="r") as reader:
        assert reader.explain(k=3, min_recall=0.5).expected is not None


def test_what_was_measured_of_another_coarse_tier_chooses_no_plan(grown: ti.Index, asked: np.ndarray) -> None:
    first = grown.stats().generation
    grown.calibrate(asked[:40], (10,), seconds=0.5)
    assert grown.explain(latency_budget_ms=1_000).expected is not None
    reader = ti.open(grown.path, mode="r")
    grown.rebuild_coarse(8, calibrate_seconds=0)
    for index in (grown, reader):
        index.refresh()
        result = index.search(asked[0], latency_budget_ms=1_000)
        assert result.plan.prefix_dim == 8
        assert "not calibrated" in result.degraded_reason
        assert index.search(asked[0], min_recall=0.5).plan == EXACT
        explained = index.explain(asked[0], min_recall=0.9)
        assert (explained.expected, explained.alternatives) == (None, [])
        assert "is another; calibrate() again" in explained.basis
    reader.close()
    grown.restore(first)  # that is what was measured
    assert grown.explain(min_recall=0.5).expected is not None
    grown.rebuild_coarse(24, calibrate_seconds=0)
    assert grown.explain(min_recall=0.5).expected is None
    grown.calibrate(asked[:40], (10,), seconds=0.5)
    assert grown.explain(min_recall=0.5).expected is not None


# What goes wrong


def test_a_prefix_that_would_be_zero_is_named_by_its_id(make_index: Make, many: np.ndarray) -> None:
    vectors = many[:50].copy()
    vectors[[30, 40], :8] = 0.0
    index = make_index(prefix_dim=16)
    index.add([f"id-{i}" for i in range(50)], vectors)
    before = files_of(index.path, "*")
    with pytest.raises(ti.ZeroVectorError, match=r"the first 8 dimensions are zero .*\(id 'id-30'\)"):
        index.rebuild_coarse(8)
    assert files_of(index.path, "*") == before
    index.delete(["id-30", "id-40"])
    with pytest.raises(ti.ZeroVectorError, match=r"id 'id-30', deleted: optimize\(\) drops it"):
        index.rebuild_coarse(8)
    index.optimize()
    index.rebuild_coarse(8)
    assert index.verify().ok


def test_damaged_vectors_are_not_built_upon(grown: ti.Index) -> None:
    entry = grown._current.get().manifest.segments[1]
    rows = grown.path / "segments" / entry.name / "rows.parquet"
    data = bytearray(rows.read_bytes())
    data[len(data) // 2] ^= 1
    rows.write_bytes(data)
    generation = grown.stats().generation
    with pytest.raises(ti.CorruptIndexError, match=r"rows\.parquet: the digest is wrong"):
        grown.rebuild_coarse(8)
    assert (grown.stats().generation, grown.config.prefix_dim) == (generation, 16)
    assert not list(grown.path.rglob("coarse-*"))


class FullDisk(Files):
    """Has room for so many new files of a kind."""

    def __init__(self, part: str, room: int) -> None:
        self.part, self.room = part, room

    def create(self, path: Path) -> BinaryIO:
        if self.part in path.name:
            self.room -= 1
            if self.room < 0:
                raise OSError(28, "No space left on device")
        return super().create(path)


@pytest.mark.parametrize(("part", "room"), [("rotation-", 0), ("coarse-", 0), ("coarse-", 1), (".tmp", 0)])
def test_a_full_disk_leaves_the_index_as_it_was(
    grown: ti.Index, many: np.ndarray, asked: np.ndarray, part: str, room: int
) -> None:
    narrow, before = recall(grown, many, asked), files_of(grown.path, "*")
    grown._current.store.files = FullDisk(part, room)
    with pytest.raises(ti.StorageFullError, match="No space left"):
        grown.rebuild_coarse(40, rotation="pca")
    assert files_of(grown.path, "*") == before
    assert recall(grown, many, asked) == narrow
    grown._current.store.files = Files()
    grown.rebuild_coarse(40, rotation="pca")
    assert recall(grown, many, asked) > narrow


def test_an_interrupted_rebuild_leaves_the_index_as_it_was(
    grown: ti.Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_of(grown.path, "*")
    built: list[Any] = []
    build = rebuilding.Rebuild._build

    def interrupted(self: Any, live: Any) -> Any:
        if built:
            raise KeyboardInterrupt
        built.append(build(self, live))
        return built[0]

    monkeypatch.setattr(rebuilding.Rebuild, "_build", interrupted)
    with pytest.raises(KeyboardInterrupt):
        grown.rebuild_coarse(40)
    assert files_of(grown.path, "*") == before
    monkeypatch.undo()
    grown.rebuild_coarse(40)
    assert grown.verify().ok


def test_an_error_after_the_commit_takes_nothing_back(
    grown: ti.Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, path, files = len(grown), grown.path, grown._writer._store.files
    link = files.link

    def linked(source: Path, target: Path) -> None:
        link(source, target)
        monkeypatch.setattr(files, "names", failing)

    def failing(folder: Path) -> list[str]:
        monkeypatch.undo()
        raise OSError(errno.EMFILE, f"{folder}: too many open files")

    monkeypatch.setattr(files, "link", linked)
    grown.rebuild_coarse(prefix_dim=8, calibrate_seconds=0)
    assert files.names != failing  # it was raised
    grown.close()
    with ti.open(path) as index:
        assert (len(index), index.config.prefix_dim) == (rows, 8)
        assert index.verify().ok
