"""Counting, fetching and deleting by filter, over segments, deletions, merges, batches and reopening."""

from __future__ import annotations

import datetime as dt
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import tiered_index as ti
from tests.filters.test_against_python import holds
from tiered_index.full.parquet_rows import ParquetRows
from tiered_index.storage import column_index, matching
from tiered_index.storage.recent import Recent
from tiered_index.storage.segment import COLUMNS_FILE
from tiered_index.testing import matryoshka_vectors

DIM = 8
ROWS = 20_000
VECTORS = matryoshka_vectors(ROWS, DIM, seed=5)
NOON = dt.datetime(2025, 1, 1, 12)

WHERES: list[dict[str, Any]] = [
    {},
    {"id": {"$gte": 19_000, "$ne": 19_500}},
    {"id": {"$in": [3, 8_192, 10**12]}},
    {"category": "c3"},
    {"category": {"$nin": ["c3", None]}},
    {"category": None, "n": {"$lt": 500}},
    {"n": {"$gte": 8_000, "$lt": 8_400}},
    {"n": {"$gte": 8_192, "$lt": 16_384}},
    {"n": {"$in": [1, 5_000, -3]}},
    {"n": {"$exists": False}},
    {"x": {"$gt": 0.99}},
    {"at": {"$lt": NOON + dt.timedelta(seconds=30)}},
    {"title": {"$contains": "99"}},
    {"title": {"$gt": "row 9998"}},
    {"tags": {"$contains": "t1"}, "flag": True},
    {"$or": [{"flag": False, "category": "c1"}, {"$not": {"n": {"$gt": 3}}}]},
    {"$and": [{"x": {"$lt": 2}}, {"category": {"$contains": "5"}}, {"n": {"$lte": 10_000}}]},
]


def columns(first: int, end: int) -> dict[str, Any]:
    numbers = range(first, end)
    return {
        "category": [None if i % 11 == 0 else f"c{i % 10}" for i in numbers],
        "n": pa.array([None if i % 1_000 == 7 else i for i in numbers], pa.int64()),
        "x": pa.array([None if i % 13 == 0 else (i % 997) / 997 for i in numbers], pa.float64()),
        "at": pa.array([NOON + dt.timedelta(milliseconds=10 * i) for i in numbers], pa.timestamp("us")),
        "title": [f"row {i}" for i in numbers],
        "tags": [None if i % 5 == 0 else [f"t{i % 4}", None][: i % 3] for i in numbers],
        "flag": pa.array([None if i % 6 == 0 else i % 2 == 0 for i in numbers], pa.bool_()),
    }


@cache
def content() -> dict[int, dict[str, Any]]:
    table = pa.table({"id": np.arange(ROWS), **columns(0, ROWS)})
    return {row["id"]: row for row in table.to_pylist()}


@cache
def found_at_first(number: int) -> set[int]:
    return {i for i, row in content().items() if holds(WHERES[number], row)}


def compare(index: ti.Index, rows: dict[int, dict[str, Any]], count: int = len(WHERES)) -> None:
    """Compare what the first filters find with Python's evaluation of them."""
    changed = {i: row for i, row in rows.items() if row is not content()[i]}
    for number, where in enumerate(WHERES[:count]):
        wanted = sorted(
            {i for i in found_at_first(number) if i in rows and i not in changed}
            | {i for i, row in changed.items() if holds(where, row)}
        )
        assert sorted(index.get(where=where)["id"].to_pylist()) == wanted, where
        assert index.count(where) == len(wanted)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two segments, the first of three row groups."""
    path = tmp_path_factory.mktemp("filters") / "index"
    with ti.open(path, dim=DIM, graph_degree=4, ef_construction=8, merge_policy=ti.NoMergePolicy()) as index:
        index.add(range(17_000), VECTORS[:17_000], columns(0, 17_000))
        index.add(range(17_000, ROWS), VECTORS[17_000:], columns(17_000, ROWS))
    return path


@pytest.fixture
def index(made: Path, tmp_path: Path) -> Iterator[ti.Index]:
    shutil.copytree(made, tmp_path / "index")
    with ti.open(tmp_path / "index", merge_policy=ti.NoMergePolicy()) as opened:
        yield opened


def test_rows_that_match_through_changes(index: ti.Index) -> None:
    rows = dict(content())
    compare(index, rows)
    dead = [*range(0, ROWS, 7), *range(17_500, 17_600)]
    assert index.delete(dead) == len(set(dead))
    rows = {i: row for i, row in rows.items() if i not in set(dead)}
    compare(index, rows)
    index.upsert([8, 17_001], VECTORS[:2], columns(3, 5))
    for i, row in ((8, 3), (17_001, 4)):
        rows[i] = {**content()[row], "id": i}
    compare(index, rows)
    index.optimize(calibrate_seconds=0)
    compare(index, rows)
    assert index.verify().ok
    with ti.open(index.path, mode="r") as again:
        compare(again, rows)


def test_without_bitmaps_columns_are_read(
    made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(column_index, "_INDEXED", ())
    monkeypatch.setattr(matching, "GROUPS_AT_ONCE", 2)
    shutil.copytree(made, tmp_path / "index")
    with ti.open(tmp_path / "index") as index:
        index.delete(range(0, ROWS, 9))
        index.optimize(calibrate_seconds=0)
        (segment,) = index._current.get().segments
        assert segment.segment.columns is None
        compare(index, {i: row for i, row in content().items() if i % 9})


def test_bitmaps_and_statistics_spare_reading(index: ti.Index, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, int]] = []
    groups = ParquetRows.groups

    def counting(self: ParquetRows, names: Any, wanted: Any) -> pa.Table:
        read.extend((name, len(wanted)) for name in names)
        return groups(self, names, wanted)

    monkeypatch.setattr(ParquetRows, "groups", counting)
    for where in (
        {"category": "c3", "flag": True, "tags": {"$contains": "t1"}},
        {"category": {"$gt": "c5"}},
        {"id": 5},
        {"id": {"$gt": 5}},
        {"n": {"$lt": 0}},
        {"n": {"$in": [-5, 10**9]}},
        {"title": {"$gt": "s"}},
        {"at": {"$lt": NOON}},
        {"at": None},
        {"category": "nobody", "x": {"$gt": 0.5}},
    ):
        index.count(where)
        assert read == [], where
    index.count({"at": {"$lt": NOON + dt.timedelta(seconds=1)}})
    assert read == [("at", 1)]
    read.clear()
    index.count({"n": {"$gt": 9_000, "$lt": 9_010}})
    assert read == [("n", 1)]
    read.clear()
    assert index.count({"x": {"$gt": 0.5}}) == index.count({"x": {"$gt": 0.5}})
    assert read == [("x", 3), ("x", 1)]
    index.delete([5])  # another snapshot of the same segments
    index.count({"$not": {"x": {"$gt": 0.5}}})
    assert read == [("x", 3), ("x", 1)]


def test_bitmaps_are_counted(index: ti.Index) -> None:
    sizes = [file.stat().st_size for file in index.path.rglob(COLUMNS_FILE)]
    assert index.stats().columns_disk_bytes == sum(sizes) > 0


def test_expressions(index: ti.Index) -> None:
    expression = (pc.field("n") > 100) & (pc.field("category") == "c3")
    wanted = [i for i, row in content().items() if row["category"] == "c3" and (row["n"] or 0) > 100]
    assert index.get(where=expression)["id"].to_pylist() == wanted
    assert index.count({"$and": [expression, {"id": {"$lt": 1_000}}]}) == sum(i < 1_000 for i in wanted)
    assert index.count({"$not": expression}) == ROWS - len(wanted)
    assert index.count(pc.field("id") < 3) == 3
    assert index.count(pc.scalar(True)) == ROWS
    with pytest.raises(ti.FilterError, match="vector"):
        index.count(pc.field("vector").is_valid())


def test_get_by_ids_and_filter(index: ti.Index) -> None:
    flagged = {"flag": True}
    assert index.get([8, 3, 4, -1, 17_002, 8], where=flagged)["id"].to_pylist() == [8, 4, 17_002, 8]
    assert index.get([8, 3, 4], where=flagged, limit=1)["id"].to_pylist() == [8]
    assert index.get([3, 8, 4], limit=2)["id"].to_pylist() == [3, 8]
    assert index.get(where={"id": {"$gte": 16_999}}, limit=3)["id"].to_pylist() == [16_999, 17_000, 17_001]
    assert index.get(where=flagged, limit=0).num_rows == 0
    assert index.get(where={}, limit=2)["id"].to_pylist() == [0, 1]
    with pytest.raises(ti.ParameterError, match="ids, where= or both"):
        index.get(limit=2)
    vectors = index.get(where={"id": 17_003}, include_vectors=True)["vector"][0].as_py()
    np.testing.assert_array_equal(np.float32(vectors), VECTORS[17_003])
    for limit in (-1, 1.5, "3", True):
        with pytest.raises(ti.ParameterError, match="limit"):
            index.get(where={}, limit=limit)


def test_delete_by_filter(index: ti.Index) -> None:
    before = index.generations()[-1].generation
    assert index.delete(where={"category": "nobody"}) == 0
    with pytest.raises(ti.FilterError, match="unknown column"):
        index.delete(where={"colour": 3})
    assert index.generations()[-1].generation == before
    for wrong in ({}, {"ids": [1], "where": {}}):
        with pytest.raises(ti.ParameterError, match="either"):
            index.delete(**wrong)
    assert index.delete(where={"id": {"$gte": 10_000}, "flag": True}) == sum(
        row["flag"] is True for i, row in content().items() if i >= 10_000
    )
    assert index.count({"id": {"$gte": 10_000}, "flag": True}) == 0
    assert index.delete(where={"id": {"$gte": 17_000}}) > 0
    assert index.stats().segments == 1  # a segment without rows goes
    assert index.delete(where={}) == 17_000 - sum(
        row["flag"] is True for i, row in content().items() if 10_000 <= i < 17_000
    )
    assert len(index) == 0


def test_delete_by_filter_in_a_batch(make_index: Callable[..., ti.Index], vectors: np.ndarray) -> None:
    index = make_index(merge_policy=ti.NoMergePolicy())
    with index.batch():
        assert index.delete(where={"kind": "a"}) == 0  # there are no columns yet
        index.add(range(10), vectors[:10], {"kind": ["a", "b"] * 5})
        index.delete([0, 1])
        assert index.delete(where={"kind": "a"}) == 4
        assert index.delete(where={"kind": "a"}) == 0
        with pytest.raises(ti.DuplicateIdError):
            index.add([3], vectors[:1], {"kind": ["a"]})
        index.add([2, 20, 21], vectors[:3], {"kind": ["a", "b", "c"]})
        with pytest.raises(ti.FilterError):
            index.delete(where={"kind": 3})
        index.upsert([3], vectors[3:4], {"kind": ["c"]})
        assert index.delete(where={"kind": "c"}) == 2
        assert index.delete([5, 6]) == 1
        assert len(index) == 0
    assert sorted(index.get(where={})["id"].to_pylist()) == [2, 7, 9, 20]
    assert index.generations()[-1].generation == 2
    assert index.verify().ok
    assert index._current.store.unfinished == set()
    assert len(list((index.path / "segments").iterdir())) == index.stats().segments == 2


def test_a_batch_that_ends_as_it_began_leaves_nothing(
    make_index: Callable[..., ti.Index], vectors: np.ndarray
) -> None:
    index = make_index(merge_policy=ti.NoMergePolicy())
    index.add([1], vectors[:1], {"kind": ["a"]})
    with index.batch():
        index.add([2, 3], vectors[:2], {"kind": ["b", "b"]})
        assert index.delete(where={"kind": "b"}) == 2
    try:
        with index.batch():
            index.add([2, 3], vectors[:2], {"kind": ["b", "b"]})
            index.delete(where={"kind": "a"})
            index.add([4], vectors[:1], {"kind": ["b"]})
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert index.get(where={})["id"].to_pylist() == [1]
    assert index.generations()[-1].generation == 2
    assert index._current.store.unfinished == set()
    assert len(list((index.path / "segments").iterdir())) == 1


def test_an_index_that_never_held_a_row(make_index: Callable[..., ti.Index]) -> None:
    index = make_index()
    assert index.count({"any": {"$gt": 3}}) == 0
    assert index.delete(where={"any": 3}) == 0
    assert index.get(where=pc.field("any") > 3).num_rows == 0
    with pytest.raises(ti.FilterError, match=r"unknown operator '\$near'"):
        index.count({"any": {"$near": 3}})


def test_a_folder_of_an_earlier_version(tmp_path: Path) -> None:
    shutil.copytree(Path(__file__).parent / "storage" / "format-1", tmp_path / "index")
    with ti.open(tmp_path / "index", mode="r") as index:
        assert not list(index.path.rglob(COLUMNS_FILE))
        assert index.count({"even": True, "n": {"$lt": 10}}) == 4
        assert index.get(where={"id": {"$in": ["id-1", "id-2"]}})["n"].to_pylist() == [2]
    with ti.open(tmp_path / "index") as index:
        assert index.delete(where={"even": None}) > 0
        index.optimize(calibrate_seconds=0)
        assert len(list(index.path.rglob(COLUMNS_FILE))) == 1
        assert index.count({"even": True, "n": {"$lt": 10}}) == 4
        assert index.verify().ok


def test_string_ids(make_index: Callable[..., ti.Index], vectors: np.ndarray) -> None:
    index = make_index()
    index.add(["b", "a", "\u00e4"], vectors[:3])
    assert index.get(where={"id": {"$gt": "a"}})["id"].to_pylist() == ["b", "\u00e4"]
    assert index.get(where={"id": {"$in": ["a", "z"]}})["id"].to_pylist() == ["a"]
    with pytest.raises(ti.FilterError, match="string, not int"):
        index.count({"id": 3})


def test_an_hour_that_a_zone_repeats_is_asked_for_twice(make_index: Callable[..., ti.Index]) -> None:
    index = make_index(dim=DIM, prefix_dim=DIM)
    first = dt.datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    utc = dt.datetime(2024, 10, 27, 0, 30, tzinfo=dt.UTC)
    clock = dt.time(1)
    index.add([1, 2], VECTORS[:2], {"at": [utc, utc + dt.timedelta(hours=1)], "clock": [clock, clock]})
    for fold in (0, 1, 0):
        moment = first.replace(fold=fold)
        assert index.get(where={"at": moment})["id"].to_pylist() == [1 + fold]
        assert index.search(VECTORS[0], 2, where={"at": {"$gt": moment}}).ids.tolist() == [2][fold:]
    assert index.count({"clock": clock}) == 2
    with pytest.raises(ti.FilterError, match="without a time zone"):
        index.count({"clock": clock.replace(tzinfo=first.tzinfo)})


def test_what_was_asked_is_held_within_bounds(index: ti.Index) -> None:
    snapshot = index._current.get()
    assert snapshot.matching({"flag": True, "n": {"$gt": 3}}) is snapshot.matching(
        {"$and": [{"n": {"$gte": 4}}, {"flag": {"$in": [True]}}]}
    )
    snapshot._matchings = Recent(30_000)
    for live in snapshot.segments:
        live.segment.leaves = Recent(20_000)
    for i in range(60):
        assert index.count({"x": {"$gt": i / 60}, "n": {"$gt": i}}) >= 0
        assert snapshot._matchings.size <= 30_000
        assert all(live.segment.leaves.size <= 20_000 for live in snapshot.segments)
    compare(index, content(), 5)


def test_rows_of_thousands_of_tenants_are_held(make_index: Callable[..., ti.Index]) -> None:
    index, tenants = make_index(), 2_000
    rows = np.arange(2 * tenants)
    vectors = np.random.default_rng(3).normal(size=(len(rows), index.stats().config.dim))
    index.add([f"id-{i}" for i in rows], vectors, {"tenant": rows % tenants})
    snapshot = index.snapshot()
    held = [snapshot.matching({"tenant": tenant}) for tenant in range(tenants)]
    assert [one.count for one in held] == [2] * tenants
    assert all(snapshot.matching({"tenant": tenant}) is one for tenant, one in enumerate(held))


def test_threads_may_ask_at_once(index: ti.Index) -> None:
    wanted = [index.count(where) for where in WHERES]
    wrong: list[int] = []

    def ask(seed: int) -> None:
        with ti.open(index.path, mode="r") as opened:
            both = (index, opened)
            order = np.random.default_rng(seed).permutation(len(WHERES) * 2).tolist()
            wrong.extend(i for i in order if both[i % 2].count(WHERES[i // 2]) != wanted[i // 2])

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
