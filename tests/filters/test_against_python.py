"""Filters on random tables against plain Python, row by row."""

from __future__ import annotations

import math
import operator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiered_index as ti
from tiered_index.filters.columns import places
from tiered_index.filters.nodes import And, Constant, Node, Not, Or
from tiered_index.filters.parse import parse
from tiered_index.storage import column_index

MOMENTS = [datetime(2024, 12, 31, 23, 59, 59, 999999) + timedelta(microseconds=i) for i in range(3)]

# column: its type, values it may hold, and values to ask for besides
COLUMNS: dict[str, tuple[pa.DataType, list[Any], list[Any]]] = {
    "small": (
        pa.int8(),
        [-128, -1, 0, 1, 3, 127],
        [-129, 128, 3.5, -0.5, math.nan, math.inf, Decimal("0.1"), 10**30],
    ),
    "big": (
        pa.int64(),
        [-(2**63), 2**53, 2**53 + 1, 0, 2**63 - 1],
        [float(2**53), 2.0**63, -(2.0**63), 2**63],
    ),
    "unsigned": (pa.uint64(), [0, 1, 2**64 - 1], [-1, 2**64, 0.5]),
    "single": (
        pa.float32(),
        [0.0, -0.0, 0.5, 0.10000000149011612, math.nan, math.inf],
        [0.1, 10**60, 1, Decimal("0.5")],
    ),
    "double": (
        pa.float64(),
        [0.0, -0.0, 2.0**53, 0.1, math.nan, -math.inf],
        [2**53 + 1, 10**400, Decimal("0.1"), 0],
    ),
    "half": (pa.float16(), [0.0, 0.5, 2.0, math.nan], [0.1, 70000, 2]),
    "price": (
        pa.decimal128(5, 2),
        [Decimal("1.50"), Decimal("-999.99"), Decimal("0.10")],
        [1.5, 0.1, 2, 10**9, math.inf],
    ),
    "text": (pa.string(), ["", "a", "ab", "b\u00e4", "\U0001f600", "\uffff"], ["\ue000"]),
    "long": (pa.large_string(), ["", "abc", "abd"], ["ab"]),
    "word": (pa.dictionary(pa.int8(), pa.string()), ["x", "y", "z"], ["w", ""]),
    "flag": (pa.bool_(), [True, False], []),
    "raw": (pa.binary(), [b"", b"\x00", b"\xff"], [b"\x7f", bytearray(b"\x00")]),
    "day": (pa.date32(), [date(1969, 12, 31), date(2025, 1, 1)], [date(9999, 1, 1)]),
    "at": (pa.timestamp("ms"), [m.replace(microsecond=0) for m in MOMENTS[:2]], MOMENTS),
    "utc": (pa.timestamp("us", "Europe/Berlin"), [m.replace(tzinfo=UTC) for m in MOMENTS], []),
    "second": (pa.timestamp("s"), [m.replace(microsecond=0) for m in MOMENTS[:2]], MOMENTS),
    "clock": (pa.time32("s"), [time(0), time(23, 59, 59), time(12)], [time(6)]),
    "date": (pa.date64(), [date(1969, 12, 31), date(2025, 1, 1)], [date(9999, 1, 1)]),
    "seen": (pa.list_(pa.timestamp("s")), [[], [MOMENTS[0].replace(microsecond=0)], [None]], []),
    "tags": (pa.list_(pa.string()), [[], ["a"], ["a", None], ["b", "b", "a"], [None]], []),
    "nums": (pa.list_(pa.int64()), [[], [1, 2], [None, 3], [2]], []),
}
ELEMENTS = {
    "seen": [MOMENTS[0].replace(microsecond=0), MOMENTS[1].replace(microsecond=0), None],
    "tags": ["a", "b", "c", None],
    "nums": [1, 3, 2.0, 1.5, None],
}
ORDERS = {"$gt": operator.gt, "$gte": operator.ge, "$lt": operator.lt, "$lte": operator.le}


def holds(where: dict[str, Any], row: dict[str, Any]) -> bool:
    """Evaluate a filter as its documentation says, on one row of Python values."""
    for name, given_ in where.items():
        if name == "$and":
            found = all(holds(part, row) for part in given_)
        elif name == "$or":
            found = any(holds(part, row) for part in given_)
        elif name == "$not":
            found = not holds(given_, row)
        else:
            found = condition(row[name], given_ if isinstance(given_, dict) else {"$eq": given_})
        if not found:
            return False
    return True


def condition(value: Any, operators: dict[str, Any]) -> bool:
    return all(one(value, name, asked) for name, asked in operators.items())


def one(value: Any, name: str, asked: Any) -> bool:
    if name == "$not":
        return not condition(value, asked)
    if name == "$exists":
        return (value is not None) == asked
    if name in ("$eq", "$ne"):
        return (value is None if asked is None else value == asked) == (name == "$eq")
    if name in ("$in", "$nin"):
        return any(one(value, "$eq", each) for each in asked) == (name == "$in")
    if value is None:
        return False
    if name not in ORDERS:
        return asked in value
    if value != value or asked != asked:  # NaN; Python raises if the other is a Decimal
        return False
    return ORDERS[name](value, asked)


@st.composite
def conditions(draw: st.DrawFn, depth: int = 1) -> tuple[str, Any]:
    column = draw(st.sampled_from(sorted(COLUMNS)))
    _, held, others = COLUMNS[column]
    value = st.sampled_from([*held, *others])
    forms: dict[str, st.SearchStrategy[Any]] = {"$exists": st.booleans()}
    if column in ELEMENTS:
        forms["$contains"] = st.sampled_from(ELEMENTS[column])
        forms["$eq"] = forms["$ne"] = st.none()
    else:
        forms["$eq"] = forms["$ne"] = st.none() | value
        forms["$in"] = forms["$nin"] = st.lists(st.none() | value, max_size=3)
        if column != "flag":
            forms |= dict.fromkeys(ORDERS, value)
        if column in ("text", "long", "word"):
            forms["$contains"] = value
    if depth and draw(st.integers(0, 5)) == 0:
        inner = draw(
            conditions(depth=0).filter(lambda found: found[0] == column and isinstance(found[1], dict))
        )
        return column, {"$not": inner[1]}
    names = draw(st.lists(st.sampled_from(sorted(forms)), min_size=1, max_size=2, unique=True))
    if draw(st.booleans()) and "$eq" in forms:
        return column, draw(forms["$eq"])
    return column, {name: draw(forms[name]) for name in names}


def filters() -> st.SearchStrategy[dict[str, Any]]:
    leaf = st.lists(conditions(), max_size=2).map(dict)
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3).map(lambda parts: {"$and": parts}),
            st.lists(inner, max_size=3).map(lambda parts: {"$or": parts}),
            inner.map(lambda part: {"$not": part}),
        ),
        max_leaves=5,
    )


def evaluated(node: Node, table: pa.Table) -> set[int]:
    if isinstance(node, Constant):
        return set(range(table.num_rows)) if node.value else set()
    if isinstance(node, Not):
        return set(range(table.num_rows)) - evaluated(node.node, table)
    if isinstance(node, And | Or):
        parts = [evaluated(part, table) for part in node.nodes]
        return set.intersection(*parts) if isinstance(node, And) else set.union(*parts)
    return set(places(node, table).tolist())


def random_table(rows: int, seed: int) -> pa.Table:
    """Every column with its values and nulls at random, in two chunks, the second of which is a slice."""
    random = np.random.default_rng(seed)
    columns = {}
    for name, (kind, held, _) in COLUMNS.items():
        values = [None if i == len(held) else held[i] for i in random.integers(0, len(held) + 1, rows + 3)]
        if pa.types.is_float16(kind):
            values = [None if v is None else np.float16(v) for v in values]
        array = pa.array(values, kind)
        columns[name] = pa.chunked_array([array.slice(0, rows // 2), array.slice(rows // 2 + 3)])
    return pa.table(columns)


@settings(max_examples=400)
@given(st.data(), st.integers(0, 50), st.integers(0, 10**6))
def test_every_filter_finds_what_python_finds(data: st.DataObject, rows: int, seed: int) -> None:
    table = random_table(rows, seed)
    where = data.draw(filters())
    wanted = {i for i, row in enumerate(table.to_pylist()) if holds(where, row)}
    assert evaluated(parse(where, table.schema), table) == wanted


def all_of(name: str) -> list[dict[str, Any]]:
    """Return every operator with every value that is asked of a column."""
    _, held, others = COLUMNS[name]
    if name in ELEMENTS:
        return [{"$contains": v} for v in ELEMENTS[name]] + [{"$eq": None}, {"$exists": False}]
    asked: list[dict[str, Any]] = [{op: v} for op in ("$eq", "$ne") for v in (None, *held, *others)] + [
        {"$exists": True}
    ]
    asked += [{op: v} for op in ORDERS for v in (*held, *others) if name != "flag"]
    return asked


@pytest.mark.parametrize("name", sorted(COLUMNS))
def test_all_operators_with_all_values(name: str) -> None:
    table = random_table(60, 1)
    rows = table.to_pylist()
    for spec in all_of(name):
        found = evaluated(parse({name: spec}, table.schema), table)
        assert found == {i for i, row in enumerate(rows) if holds({name: spec}, row)}, spec


@pytest.mark.parametrize("name", sorted(COLUMNS))
def test_the_same_from_disk_with_bitmaps_and_without(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = random_table(60, 2).select([name]).combine_chunks()
    rows = table.to_pylist()
    for indexed in (False, True):
        with monkeypatch.context() as patch:
            if not indexed:
                patch.setattr(column_index, "MAX_VALUES", -1)
            with ti.open(tmp_path / f"{indexed}.tidx", 8, merge_policy=ti.NoMergePolicy()) as index:
                for first in range(0, 60, 20):
                    index.add(range(first, first + 20), np.eye(20, 8) + 1, table.slice(first, 20))
                for step in ("as written", "merged"):
                    for spec in all_of(name):
                        found = index.get(where={name: spec})["id"].to_pylist()
                        wanted = [i for i, row in enumerate(rows) if holds({name: spec}, row)]
                        assert found == wanted, (step, indexed, spec)
                    assert index.verify().ok
                    index.optimize()


def test_values_hidden_under_null_lists_are_no_elements(tmp_path: Path) -> None:
    values = pa.array(["a", "hidden", "b", "c"])
    tags = pa.ListArray.from_arrays([0, 1, 2, 3, 4], values, mask=pa.array([False, True, False, False]))
    with ti.open(tmp_path / "x.tidx", 8) as index:
        index.add(range(4), np.eye(4, 8) + 1, {"tags": tags})
        assert index.get(where={"tags": {"$contains": "b"}})["id"].to_pylist() == [2]
        assert index.count({"tags": {"$contains": "hidden"}}) == 0
        assert index.delete(where={"tags": {"$contains": "c"}}) == 1
        assert index.get(where={})["id"].to_pylist() == [0, 1, 2]
        assert index.verify().ok


def test_a_column_that_is_named_like_a_field_of_another(tmp_path: Path) -> None:
    table = pa.table({"s": [{"a": 1_000_000 + i} for i in range(3_000)], "s.a": range(3_000)})
    with ti.open(tmp_path / "x.tidx", 8) as index:
        index.add(range(3_000), np.ones((3_000, 8)), table)
        assert index.count({"s.a": {"$lt": 10}}) == 10
