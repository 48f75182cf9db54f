"""Lists of values of several kinds, which Arrow makes one column of without an error."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable
from decimal import Decimal
from enum import IntEnum, StrEnum
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import tiered_index as ti
from tiered_index import MetadataError
from tiered_index.validate.metadata import metadata_table

DAY = dt.date(2024, 2, 28)
NOON = dt.datetime(2024, 2, 28, 12)
THERE = NOON.replace(tzinfo=ZoneInfo("Europe/Berlin"))
HOUR = dt.timedelta(hours=1)
DEEP = {"a": {"b": [[1.5], None, [2, 3]]}}


class Level(IntEnum):
    LOW = 1


class Word(StrEnum):
    A = "a"


UNLIKE: dict[str, tuple[list[Any], int, str]] = {
    "boolean, numbers": ([1, 2.5, True], 2, "True is a boolean, 1 is a number"),
    "NumPy's boolean, whole numbers": ([1, None, np.bool_(True)], 2, "np.True_ is a boolean, 1 is a number"),
    "number, times": ([NOON, None, 5], 2, "5 is a number"),
    "bytes, UUIDs": ([uuid.UUID(int=1), b"0123456789abcdef"], 1, "is of type UUID"),
    "bytes, string": ([b"a", "b"], 1, "'b' is a string, b'a' is bytes"),
    "string, bytes": (["a", "b", b"c"], 2, "b'c' is bytes, 'a' is a string"),
    "date, with a time": ([DAY, NOON], 1, "is a date with a time"),
    "zone, none": ([NOON, THERE], 1, "has a time zone, datetime.datetime(2024, 2, 28, 12, 0) has none"),
    "none, zone": ([THERE, None, NOON], 2, "datetime.datetime(2024, 2, 28, 12, 0) has none"),
    "zone of a time": ([dt.time(1), dt.time(2, tzinfo=dt.UTC)], 1, "without a time zone"),
    "nanoseconds": ([pd.Timestamp(0), pd.Timestamp(1)], 1, "nanoseconds are lost"),
    "nanoseconds of a duration": ([pd.Timedelta(2000), pd.Timedelta(1)], 1, "nanoseconds are lost"),
    "list": ([[1.5], None, [], [2, True]], 3, "True is a boolean, 1.5 is a number"),
    "list of bytes": ([["a"], [b"b"]], 1, "b'b' is bytes"),
    "array": ([np.array([1.5]), [True]], 1, "True is a boolean"),
    "set": ([{"a"}, {b"b"}], 1, "b'b' is bytes"),
    "field": ([{"a": 1.5, "b": "x"}, None, {"b": "y"}, {"a": True}], 3, "True is a boolean, 1.5 is a number"),
    "deep": ([DEEP, None, {"a": {"b": [[4], [False]]}}], 2, "False is a boolean"),
    "field of bytes": ([{"a": 1}, {b"a": 2}], 1, "fields are named by str, not b'a'"),
}

ALIKE: dict[str, tuple[list[Any], list[Any]]] = {
    "numbers": ([1, 2.5, None, np.float32(0.5), 3], [1, 2.5, None, 0.5, 3]),
    "whole numbers": ([1, np.int8(2), Level.LOW], [1, 2, 1]),
    "decimals": ([Decimal("1.50"), 2, None], [Decimal("1.50"), 2, None]),
    "booleans": ([True, np.bool_(False), None], [True, False, None]),
    "strings": (["a", Word.A, np.str_("b")], ["a", "a", "b"]),
    "bytes": ([b"a", bytearray(b"b"), memoryview(b"c")], [b"a", b"b", b"c"]),
    "other zones": ([THERE, THERE.astimezone(dt.UTC)], [THERE, THERE]),
    "durations": ([HOUR, pd.Timedelta(minutes=60)], [HOUR, HOUR]),
    "pandas": ([NOON, pd.Timestamp(NOON)], [NOON, NOON]),
    "NumPy": (
        [np.datetime64(5, "ns"), None, np.datetime64(7, "ns")],
        [pd.Timestamp(5), None, pd.Timestamp(7)],
    ),
    "lists": ([[1], (2,), None, {3}, np.array([4]), []], [[1], [2], None, [3], [4], []]),
    "arrays": ([np.array([1.5], np.float32), np.array([], np.float32)], [[1.5], []]),
    "fields": ([{"a": 1}, {"b": "x"}, None], [{"a": 1, "b": None}, {"a": None, "b": "x"}, None]),
    "UUIDs": ([uuid.UUID(int=1), None], [uuid.UUID(int=1), None]),
    "range": (range(3), [0, 1, 2]),  # type: ignore[dict-item]
}

FORMS: dict[str, Callable[[list[Any]], Any]] = {
    "columns": lambda values: {"x": values},
    "rows": lambda values: [{"x": value} for value in values],
    "array of objects": lambda values: {"x": objects(values)},
    "series": lambda values: {"x": pd.Series(objects(values), dtype=object)},
    "frame": lambda values: pd.DataFrame(
        {"x": pd.Series(objects(values), dtype=object), "y": [1] * len(values)}
    )[["x"]],
}


def objects(values: list[Any]) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = [value if not isinstance(value, list | np.ndarray) else None for value in values]
    for i, value in enumerate(values):
        array[i] = value
    return array


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(("values", "row", "said"), UNLIKE.values(), ids=UNLIKE)
def test_values_that_are_not_alike_are_named_by_row(
    values: list[Any], row: int, said: str, form: Callable[[list[Any]], Any]
) -> None:
    with pytest.raises(MetadataError) as caught:
        metadata_table(form(values), len(values), None, first_row=100)
    assert "'x' has values of several types" in str(caught.value)
    assert said in str(caught.value)
    assert caught.value.rows == (100 + row,)


@pytest.mark.parametrize(
    ("values", "row"),
    [
        ([1, 2, True], 2),
        ([None, True, 2], 2),
        ([Decimal("1.5"), False], 1),
        ([Decimal("1.5"), 2.5], 1),
        ([DAY, None, True], 2),
        ([NOON, True], 1),
        ([HOUR, True], 1),
        (["a", 1], 1),
        ([1, "2"], 1),
        ([[1], None, [], [2, True]], 3),
        ([{"a": 1}, None, {"a": True}], 2),
    ],
    ids=repr,
)
@pytest.mark.parametrize("form", [FORMS["columns"], FORMS["rows"]], ids=["columns", "rows"])
def test_so_are_those_that_arrow_refuses_itself(
    values: list[Any], row: int, form: Callable[[list[Any]], Any]
) -> None:
    with pytest.raises(MetadataError, match="'x' has values of several types") as caught:
        metadata_table(form(values), len(values), None, first_row=100)
    assert caught.value.rows == (100 + row,)


@pytest.mark.parametrize(
    ("values", "kind", "row"),
    [
        ([1, True], pa.int64(), 1),
        ([1.5, True], pa.float32(), 1),
        ([2**63, True], pa.uint64(), 1),
        ([[2**63], [True]], pa.list_(pa.uint64()), 1),
        ([DAY, NOON], pa.timestamp("us"), 1),
        ([DAY, NOON], pa.date32(), 1),
        ([NOON, THERE], pa.timestamp("us", "UTC"), 1),
        ([pd.Timestamp(0), pd.Timestamp(1)], pa.timestamp("ns"), 1),
        (["a", b"b"], pa.binary(), 1),
    ],
)
def test_nor_are_they_taken_into_a_column_that_is_there(
    values: list[Any], kind: pa.DataType, row: int
) -> None:
    with pytest.raises(MetadataError) as caught:
        metadata_table({"x": values}, len(values), pa.schema({"x": kind}), first_row=100)
    assert caught.value.rows == (100 + row,)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(("values", "kept"), ALIKE.values(), ids=ALIKE)
def test_values_that_are_alike_are_kept(
    values: list[Any], kept: list[Any], form: Callable[[list[Any]], Any]
) -> None:
    table = metadata_table(form(values), len(values), None)
    assert table["x"].to_pylist() == kept
    assert metadata_table(form(values), len(values), table.schema)["x"].to_pylist() == kept


@pytest.mark.parametrize("missing", [float("nan"), np.nan, pd.NA, pd.NaT, None], ids=str)
def test_what_pandas_says_is_missing_is_a_null(missing: Any) -> None:
    for values in (["a", missing, "b"], [True, missing], [["a"], missing], [NOON, missing]):
        table = metadata_table(pd.DataFrame({"x": pd.Series(values, dtype=object)}), len(values), None)
        assert table["x"].to_pylist() == [None if value is missing else value for value in values]


def test_frames_of_polars_have_types() -> None:
    frame = pl.DataFrame({"x": [1, 2.5, None], "y": ["a", None, "b"]}, strict=False)
    assert metadata_table(frame, 3, None).to_pydict() == frame.to_dict(as_series=False)


def test_whole_numbers_that_no_float_is_are_not_rounded() -> None:
    with pytest.raises(MetadataError, match="'x'") as caught:
        metadata_table({"x": [0.5, 1, 2**53 + 1]}, 3, None, first_row=100)
    assert caught.value.rows == (102,)
    assert metadata_table({"x": [0.5, 2**53]}, 2, None)["x"].to_pylist() == [0.5, 2**53]


def test_nothing_is_added_of_what_is_not_alike(
    make_index: Callable[..., ti.Index], vectors: np.ndarray
) -> None:
    index = make_index()
    with pytest.raises(MetadataError, match=r"'x'.*\(row 1\)"):
        index.add([1, 2], vectors[:2], {"x": [1, True]})
    assert (len(index), index.schema.names) == (0, [])
