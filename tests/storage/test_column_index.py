"""Bitmaps of columns: which are made, that they are right, bounded and checked."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

import tiered_index as ti
from tiered_index.filters.parse import parse
from tiered_index.storage import column_index
from tiered_index.storage.column_index import ColumnIndex, ColumnIndexBuilder
from tiered_index.storage.recent import Recent, bytes_of
from tiered_index.storage.segment import COLUMNS_FILE


def built(path: Path, table: pa.Table, batch: int = 1_000) -> ColumnIndex | None:
    builder = ColumnIndexBuilder(table.schema)
    for start in range(0, table.num_rows, batch):
        builder.append(table.slice(start, batch))
    data = b"".join(builder.parts())
    path.write_bytes(data)
    return ColumnIndex(str(path), table.num_rows) if data else None


def found(index: ColumnIndex, where: dict[str, Any], schema: pa.Schema) -> list[int] | None:
    rows = index.rows(parse(where, schema))  # type: ignore[arg-type]
    return None if rows is None else list(rows)


def test_every_kind_of_column(tmp_path: Path) -> None:
    day = dt.date(2025, 1, 1)
    table = pa.table(
        {
            "flag": [True, None, False, True],
            "n": pa.array([3, -1, 3, None], pa.int8()),
            "big": pa.array([2**64 - 1, 0, None, 1], pa.uint64()),
            "s": ["b", "a", "", "ab"],
            "day": [day, None, day, day],
            "at": pa.array([0, 10, None, 10], pa.timestamp("us", "UTC")),
            "word": pa.array(["x", None, "y", "x"]).dictionary_encode(),
            "tags": [["a", "b"], [], None, ["b", None, "b"]],
            "x": [0.5, 1.0, None, 2.0],
            "nested": [{"a": 1}, None, None, None],
        }
    )
    index = built(tmp_path / "columns", table, batch=3)
    assert index is not None
    assert index.names == ("flag", "n", "big", "s", "day", "at", "word", "tags")
    for where, rows in (
        ({"flag": True}, [0, 3]),
        ({"flag": None}, [1]),
        ({"n": {"$gte": 3}}, [0, 2]),
        ({"n": {"$lt": 3}}, [1]),
        ({"n": {"$in": [-1, 3, 5]}}, [0, 1, 2]),
        ({"big": 2**64 - 1}, [0]),
        ({"s": {"$gt": "a", "$lte": "b"}}, [0, 3]),
        ({"s": {"$contains": "a"}}, [1, 3]),
        ({"s": {"$contains": ""}}, [0, 1, 2, 3]),
        ({"day": "2025-01-01"}, [0, 2, 3]),
        ({"at": {"$gt": "1970-01-01T00:00:00Z"}}, [1, 3]),
        ({"word": "x"}, [0, 3]),
        ({"tags": {"$contains": "b"}}, [0, 3]),
        ({"tags": {"$contains": None}}, [3]),
        ({"tags": {"$contains": "c"}}, []),
        ({"tags": None}, [2]),
        ({"x": 0.5}, None),
        ({"nested": None}, None),
    ):
        assert found(index, where, table.schema) == rows, where


def test_columns_of_many_values_are_left_out_and_memory_stays_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(column_index, "_FREE_BYTES_AT_FIRST", 1 << 16)
    monkeypatch.setattr(column_index, "FREE_BYTES", 0)
    rows = 20_000
    builder = ColumnIndexBuilder(pa.schema({"few": pa.int64(), "unique": pa.int64(), "long": pa.string()}))
    gone: dict[str, int] = {}
    for start in range(0, rows, 1_000):
        numbers = np.arange(start, start + 1_000)
        long = [f"{i % 3_000:0900}" for i in numbers.tolist()]
        builder.append(pa.table({"few": numbers % 50, "unique": numbers, "long": long}))
        for name in {"few", "unique", "long"} - set(builder._columns):
            gone.setdefault(name, start)
    assert gone["unique"] < 5_000
    assert gone["long"] == 0
    assert "few" not in gone
    (tmp_path / "columns").write_bytes(b"".join(builder.parts()))
    index = ColumnIndex(str(tmp_path / "columns"), rows)
    assert index.names == ("few",)


def test_the_most_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(column_index, "MAX_VALUES", 10)
    table = pa.table({"ten": np.arange(1_000) % 10, "eleven": np.arange(1_000) % 11})
    index = built(tmp_path / "columns", table)
    assert index is not None
    assert index.names == ("ten",)
    assert built(tmp_path / "none", table.select(["eleven"])) is None


def test_a_column_that_would_take_too_much_in_the_end_is_left_out(tmp_path: Path) -> None:
    table = pa.table({"unique": np.arange(4_000), "few": np.arange(4_000) % 100})
    index = built(tmp_path / "columns", table)
    assert index is not None
    assert index.names == ("few",)
    assert (tmp_path / "columns").stat().st_size < 8 * 4_000 + column_index.FREE_BYTES


def test_thousands_of_tenants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is found without taking the others' bitmaps out of the file."""
    tenants = np.random.default_rng(0).integers(0, 5_000, 100_000)
    table = pa.table({"tenant": [f"tenant-{t:04}" for t in tenants.tolist()]})
    index = built(tmp_path / "columns", table, batch=8_192)
    assert index is not None
    taken = []
    deserialize = BitMap.deserialize
    counting = type("Counting", (BitMap,), {"deserialize": lambda data: taken.append(1) or deserialize(data)})
    monkeypatch.setattr(column_index, "BitMap", counting)
    rows = found(index, {"tenant": {"$in": ["tenant-0007", "nobody"]}}, table.schema)
    assert rows == np.flatnonzero(tenants == 7).tolist()
    assert len(taken) == 1


def test_files_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    path = tmp_path / "columns"
    assert built(path, pa.table({"n": [1, 2]})) is not None
    with pytest.raises(ti.CorruptIndexError, match="of 2 rows, where 3"):
        ColumnIndex(str(path), 3)
    for data in (b"", b"\x00" * 8, b"\xff" * 50):
        path.write_bytes(data)
        with pytest.raises(ti.CorruptIndexError, match="columns"):
            ColumnIndex(str(path), 2)
    with pytest.raises(ti.CorruptIndexError, match="missing"):
        ColumnIndex(str(tmp_path / "none"), 2)


def test_a_file_cut_short_while_open_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "columns"
    table = pa.table({"n": np.arange(1_000) % 7})
    index = built(path, table)
    assert index is not None
    with path.open("r+b") as file:
        file.truncate(10)
    with pytest.raises(ti.CorruptIndexError, match="cut"):
        found(index, {"n": 1}, table.schema)
    index.close()
    with pytest.raises(ti.IndexClosedError):
        index.check()


def test_verify_compares_bitmaps_with_columns(filled: ti.Index, monkeypatch: pytest.MonkeyPatch) -> None:
    (file,) = filled.path.rglob(COLUMNS_FILE)
    assert filled.verify().ok
    true = column_index.ColumnIndex.postings

    def other(self: ColumnIndex, name: str) -> Any:
        keys, rows = true(self, name)
        return column_index.Postings(keys, [rows[1], rows[0], *rows[2:]])

    monkeypatch.setattr(column_index.ColumnIndex, "postings", other)
    assert "bitmaps of the column 'year'" in filled.verify().problems[0]
    monkeypatch.undo()
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    (problem,) = filled.verify().problems
    assert COLUMNS_FILE in problem
    with pytest.raises(ti.CorruptIndexError, match=COLUMNS_FILE):
        ti.open(filled.path)
    file.unlink()
    with pytest.raises(ti.CorruptIndexError, match="missing"):
        ti.open(filled.path)


def with_wrong_bitmaps(index: ti.Index, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Add ten rows as an earlier version might have: the file is whole, and of other rows."""
    true = ColumnIndexBuilder.append

    def reversed_rows(self: ColumnIndexBuilder, metadata: pa.Table) -> None:
        true(self, metadata.take(list(range(metadata.num_rows))[::-1]))

    with monkeypatch.context() as patch:
        patch.setattr(ColumnIndexBuilder, "append", reversed_rows)
        index.add(range(10), vectors[:10], {"year": range(2000, 2010)})
    assert index.get(where={"year": 2000})["id"].to_pylist() == [9]


def test_wrong_bitmaps_are_written_anew_by_what_verify_says(
    make_index: Callable[..., ti.Index], vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make_index()
    with_wrong_bitmaps(index, vectors, monkeypatch)
    index.optimize()  # one segment without deleted rows stays as it is
    (problem,) = index.verify().problems
    assert problem.endswith("sound: upsert() the row with id 0 as it is, then optimize() writes them anew")
    row = index.get([0], include_vectors=True)
    index.upsert(row["id"], row["vector"].combine_chunks(), row.drop_columns(["id", "vector"]))
    (problem,) = index.verify().problems
    assert problem.endswith("sound: optimize() writes them anew")
    index.optimize()
    assert index.verify().ok
    assert index.get(where={"year": 2000})["id"].to_pylist() == [0]
    assert index.count() == 10


def test_wrong_bitmaps_of_one_segment_of_two(
    make_index: Callable[..., ti.Index], vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make_index()
    with_wrong_bitmaps(index, vectors, monkeypatch)
    index.add([10], vectors[10:11], {"year": [2010]})
    (problem,) = index.verify().problems
    assert problem.endswith("sound: optimize() writes them anew")
    index.optimize()
    assert index.verify().ok


def test_no_file_without_columns(make_index: Callable[..., ti.Index], vectors: np.ndarray) -> None:
    index = make_index()
    index.add(range(10), vectors[:10], {"x": np.arange(10) * 0.5})
    assert not list(index.path.rglob(COLUMNS_FILE))
    assert index.verify().ok


def test_recent_holds_what_was_used_last() -> None:
    recent: Recent[BitMap] = Recent(10_000)
    for i in range(30):
        bitmap = BitMap(range(0, 2 * i, 2))
        recent.put(i, bitmap, bytes_of(bitmap))
        assert recent.get(0) is not None  # used all the time
        assert recent.get(i) == bitmap
        assert recent.size <= 10_000
    assert recent.get(1) is None
    recent.put("large", BitMap(), 10_001)
    assert recent.get("large") is None
    assert recent.get(29) is not None
    recent.put(29, BitMap(), 10_000)
    assert (recent.get(29), recent.size) == (BitMap(), 10_000)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 40)), max_size=200), st.integers(40, 300))
def test_recent_holds_what_was_used_of_late_and_no_more_than_it_may(
    used: list[tuple[int, int]], most: int
) -> None:
    recent: Recent[int] = Recent(most)
    sizes: dict[int, int] = {}
    of_late: list[int] = []  # keys, the last first, up to half of what may be held
    for key, size in used:
        found = recent.get(key)
        assert found == sizes[key] if key in of_late else found in (None, sizes.get(key))
        if found is None:
            sizes[key] = size
            recent.put(key, size, size)
        of_late = [key, *(one for one in of_late if one != key)]
        while sum(sizes[one] for one in of_late) > most // 2:
            of_late.pop()
        assert recent.size <= most
