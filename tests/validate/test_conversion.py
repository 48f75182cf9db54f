"""Which metadata a column of another type takes, and that what it refuses changes nothing."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import tiered_index as ti
from tiered_index import MetadataError
from tiered_index.validate.metadata import metadata_table

NIGHT = dt.datetime(2020, 1, 1, 23, 59)
EAST = dt.datetime(2020, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=5)))
DAY = dt.date(2020, 1, 1)
NAIVE, ZONED = pa.timestamp("us"), pa.timestamp("us", "UTC")


def cast(values: Any, kind: pa.DataType, first_row: int = 0) -> list[Any]:
    return metadata_table({"x": values}, len(values), pa.schema([("x", kind)]), first_row)["x"].to_pylist()


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (5, pa.bool_()),
        (1.0, pa.bool_()),
        (True, pa.int64()),
        (True, pa.float64()),
        ([1], pa.list_(pa.string())),
        (["7"], pa.list_(pa.int64())),
        (["7"], pa.large_list(pa.int64())),
        ([True], pa.list_(pa.int64(), 1)),
        ({"a": "7"}, pa.struct({"a": pa.int64()})),
        ({"a": [{"b": 1}]}, pa.struct({"a": pa.list_(pa.struct({"b": pa.bool_()}))})),
        (1e300, pa.float32()),
        ([1e300], pa.list_(pa.float32())),
        (1e6, pa.float16()),
        (2049, pa.float16()),
        (Decimal(10) ** 60, pa.float32()),
        (2**53 + 1, pa.float64()),
        (1.5, pa.int64()),
        (300, pa.uint8()),
        (NIGHT, pa.date32()),
        (dt.datetime(2020, 1, 1), pa.date32()),
        (NIGHT, pa.time64("us")),
        (NIGHT, ZONED),
        (EAST, NAIVE),
        (DAY, ZONED),
        (5, NAIVE),
        (5, pa.duration("s")),
        (5, pa.date32()),
        (dt.timedelta(1), pa.int64()),
        (NIGHT, pa.int64()),
        (b"a", pa.string()),
        ("a", pa.binary()),
        (b"abcd", pa.binary(3)),
    ],
    ids=str,
)
def test_a_value_that_would_become_another_is_refused_and_its_row_named(
    value: Any, kind: pa.DataType
) -> None:
    with pytest.raises(MetadataError, match=r"column 'x' holds .*, not ") as caught:
        cast([None, None, value], kind, 100)
    assert caught.value.rows == (102,)


def test_pairs_of_maps_are_looked_into() -> None:
    pairs = pa.array([None, [("a", 1)], [("b", 5), ("c", None)]], pa.map_(pa.string(), pa.int64()))
    kept = cast(pairs, pa.map_(pa.large_string(), pa.float32()))
    assert kept == [None, [("a", 1.0)], [("b", 5.0), ("c", None)]]
    for kind in pa.map_(pa.string(), pa.bool_()), pa.map_(pa.int64(), pa.int64()):
        with pytest.raises(MetadataError) as caught:
            cast(pairs, kind)
        assert caught.value.rows == (1,)


@pytest.mark.parametrize(
    ("values", "kind", "kept"),
    [
        (["a", None], pa.large_string(), ["a", None]),
        (pa.array(["a"], pa.large_string()), pa.string(), ["a"]),
        ([5], pa.uint8(), [5]),
        ([5], pa.float16(), [5.0]),
        ([2.5], pa.float64(), [2.5]),
        ([2.0], pa.int64(), [2]),
        ([0.1], pa.float32(), [float(np.float32(0.1))]),
        ([float("inf")], pa.float16(), [float("inf")]),
        ([5.5], pa.decimal128(5, 2), [Decimal("5.50")]),
        (pa.array([5], pa.int16()), pa.decimal128(9, 1), [Decimal("5.0")]),
        ([Decimal("5.0")], pa.int64(), [5]),
        ([DAY], pa.date64(), [DAY]),
        ([DAY], NAIVE, [dt.datetime(2020, 1, 1)]),
        ([NIGHT], pa.timestamp("s"), [NIGHT]),
        ([EAST], ZONED, [EAST]),
        ([NIGHT.time()], pa.time32("s"), [NIGHT.time()]),
        ([dt.timedelta(1)], pa.duration("s"), [dt.timedelta(1)]),
        ([b"abc"], pa.binary(3), [b"abc"]),
        ([[1], [], None], pa.large_list(pa.float32()), [[1.0], [], None]),
        ([[1, None]], pa.list_(pa.int8(), 2), [[1, None]]),
        ([{"b": 1}, None], pa.struct({"a": pa.string(), "b": pa.int8()}), [{"a": None, "b": 1}, None]),
        ([[], [None]], pa.list_(pa.bool_()), [[], [None]]),
        (pa.array([[], None], pa.list_(pa.int64())), pa.list_(pa.string()), [[], None]),
        (pa.array([None], pa.date32()), pa.bool_(), [None]),
        (
            pa.array([["a", "b"]], pa.list_(pa.dictionary(pa.int8(), pa.string()))),
            pa.list_(pa.string()),
            [["a", "b"]],
        ),
    ],
    ids=str,
)
def test_a_value_that_stays_what_it_is_becomes_the_column_s(
    values: Any, kind: pa.DataType, kept: Any
) -> None:
    assert cast(values, kind) == kept


def test_fields_that_a_struct_does_not_have_are_named_with_their_row() -> None:
    kind = pa.struct({"a": pa.int64()})
    with pytest.raises(MetadataError, match="unknown field 'b'") as caught:
        cast([{"a": 1}, {}, {"a": 2, "b": "lost"}], kind)
    assert caught.value.rows == (2,)
    with pytest.raises(MetadataError, match="unknown field 'b'") as caught:
        cast([{"a": 1, "b": None}], kind)
    assert caught.value.rows == ()


def test_views_of_lists_are_refused_rather_than_emptied() -> None:
    with pytest.raises(MetadataError):
        cast(pa.array([[1], [2, 3]], pa.list_view(pa.int64())), pa.list_(pa.int64()))


def test_the_first_row_that_does_not_fit_is_found_among_many() -> None:
    values = np.arange(50_000.0)
    values[31_234:] += 0.5
    with pytest.raises(MetadataError) as caught:
        cast(values, pa.int64(), 1_000)
    assert caught.value.rows == (32_234,)
    given = pa.table({"x": pa.chunked_array([pa.array([["a"]] * 3), pa.array([["a"], ["é"]])]).slice(1)})
    assert metadata_table(given, 4, pa.schema([("x", pa.list_(pa.large_string()))]))["x"][3].as_py() == ["é"]


def test_an_index_refuses_them_and_stays_as_it_was(
    make_index: Callable[..., ti.Index], vectors: np.ndarray
) -> None:
    kinds = {"flag": pa.bool_(), "s": pa.struct({"a": pa.int64()}), "d": pa.date32(), "x": pa.float32()}
    good: dict[str, Any] = {"flag": True, "s": {"a": 1}, "d": DAY, "x": 0.5}
    index = make_index()
    index.add([0], vectors[:1], pa.table({name: pa.array([good[name]], kinds[name]) for name in kinds}))
    before = index.get([0])
    for name, bad in {"flag": 5, "s": {"b": "lost"}, "d": NIGHT, "x": 1e300}.items():
        with pytest.raises(MetadataError, match=repr(name)):
            index.add([1], vectors[1:2], [{**good, name: bad}])
    assert index.get([0]) == before
    assert index.count() == 1
