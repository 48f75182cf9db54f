"""What is refused before a row is looked at, and which filters are the same."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import tiered_index as ti
from tiered_index.filters.columns import columns_of, places
from tiered_index.filters.key import key_of
from tiered_index.filters.nodes import EVERYTHING, NOTHING, In, IsNull, Not, Range
from tiered_index.filters.parse import parse

SCHEMA = pa.schema(
    {
        "id": pa.int64(),
        "n": pa.int32(),
        "x": pa.float64(),
        "s": pa.string(),
        "b": pa.bool_(),
        "t": pa.timestamp("us", "UTC"),
        "naive": pa.timestamp("ns"),
        "d": pa.date32(),
        "clock": pa.time64("us"),
        "span": pa.duration("ms"),
        "price": pa.decimal128(6, 2),
        "raw": pa.binary(2),
        "tags": pa.list_(pa.string()),
        "nested": pa.struct({"a": pa.int64()}),
    }
)


@pytest.mark.parametrize(
    ("where", "named"),
    [
        ("n", "'n'"),
        ([{"n": 1}], "dict"),
        ({"m": 1}, "unknown column 'm'"),
        ({"vector": 1}, "vector"),
        ({3: 1}, "3"),
        ({"$nor": []}, "unknown operator '$nor'"),
        ({"$and": {"n": 1}}, "$and takes a list"),
        ({"$or": [3]}, "not 3"),
        ({"$not": [{"n": 1}]}, "dict"),
        ({"n": {}}, "no operator"),
        ({"n": {"gt": 1}}, "unknown operator 'gt'"),
        ({"n": {"$like": 1}}, "unknown operator '$like'"),
        ({"n": {"$not": 3}}, "'$not': {'$gt': 3}"),
        ({"n": "1"}, "'n' (int32): $eq '1'"),
        ({"n": True}, "number, not bool"),
        ({"n": {"$in": 3}}, "list of values"),
        ({"n": {"$in": [1, "2"]}}, "number, not str"),
        ({"n": np.timedelta64(1, "s")}, "number, not timedelta64"),
        ({"x": {"$lt": np.timedelta64(1, "s")}}, "number, not timedelta64"),
        ({"n": {"$in": np.array(1)}}, "list of values"),
        ({"n": {"$in": iter([1])}}, "pass a list"),
        ({"$not": {"n": {"$nin": map(int, "12")}}}, "pass a list"),
        ({"n": {"$not": {"$in": (i for i in range(3))}}}, "pass a list"),
        ({"$or": iter([{"n": 1}])}, "$or takes a list"),
        ({"$and": [{"$and": ({"n": i} for i in range(3))}]}, "$and takes a list"),
        ({"s": {"$in": "abc"}}, "list of values"),
        ({"n": [1, 2]}, "one value, not a list: $in takes several"),
        ({"s": {"$not": {"$eq": ["a"]}}}, "string, not list"),
        ({"s": ("a", "b")}, "one value, not a tuple: $in takes several"),
        ({"n": {"$gt": None}}, "null is neither"),
        ({"n": {"$contains": 1}}, "lists or strings"),
        ({"s": {"$contains": 1}}, "strings"),
        ({"s": {"$contains": None}}, "strings"),
        ({"tags": {"$contains": 1}}, "$contains 1"),
        ({"tags": ["a"]}, "not compared"),
        ({"tags": {"$in": [["a"]]}}, "not compared"),
        ({"nested": {"$eq": 1}}, "not compared"),
        ({"n": {"$exists": 1}}, "True or False"),
        ({"x": {"$gt": 1j}}, "number, not complex"),
        ({"s": 3}, "string, not int"),
        ({"s": "\ud800"}, "Unicode"),
        ({"b": 1}, "boolean, not int"),
        ({"b": {"$gt": False}}, "not ordered"),
        ({"t": datetime(2025, 1, 1)}, "time zone"),
        ({"t": date(2025, 1, 1)}, "datetime"),
        ({"t": np.datetime64("2025-01-01")}, "time zone"),
        ({"t": "2025"}, "ISO 8601"),
        ({"t": "2025-01-01"}, "time zone"),
        ({"naive": datetime(2025, 1, 1, tzinfo=UTC)}, "time zone"),
        ({"naive": np.datetime64("NaT")}, "no time"),
        ({"naive": pd.NaT}, "no time"),
        ({"d": datetime(2025, 1, 1)}, "without a time"),
        ({"d": 20250101}, "date"),
        ({"clock": time(1, tzinfo=UTC)}, "without a time zone"),
        ({"span": 3}, "timedelta"),
        ({"price": "1.5"}, "number, not str"),
        ({"raw": "ab"}, "bytes, not str"),
        (pc.field("m") == 1, "No match"),
        (pc.field("vector") == 1, "No match"),
        (pc.field("n") == "a", "cannot be evaluated"),
        (pc.field("n") + 1, "cannot be evaluated"),
        ({"$and": [pc.field("m") == 1]}, "No match"),
        (pc.field(1) == 1, "name it"),
        (pc.field(13, "a") == 1, "name it"),
        (pc.field(13, 0) == 1, "name it"),
        ({"$not": (pc.field("n") > 1) & pc.field(0).is_valid()}, "name it"),
    ],
)
def test_refused(where: Any, named: str) -> None:
    with pytest.raises(ti.FilterError) as error:
        parse(where, SCHEMA)
    assert named in str(error.value)
    assert isinstance(error.value, ti.InvalidInputError)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({"n": 1}, {"n": {"$in": [1, 1.0, np.int64(1)]}}),
        ({"n": 1, "s": "a"}, {"s": "a", "n": 1}),
        ({"$or": [{"n": 1}, {"s": "a"}]}, {"$or": [{"s": "a"}, {"n": 1}, {"n": 1}]}),
        ({"n": {"$gt": 3, "$lte": 9}}, {"$and": [{"n": {"$lt": 9.5}}, {"n": {"$gte": Decimal("3.5")}}]}),
        ({"n": {"$ne": 1}}, {"$not": {"n": 1}}),
        ({"n": {"$not": {"$not": {"$gt": 1}}}}, {"n": {"$gt": 1}}),
        ({"n": {"$exists": False}}, {"n": None}),
        ({"$and": []}, {}),
        ({"$or": []}, {"n": {"$in": []}}),
        ({"$or": [{}, {"n": 1}]}, {}),
        ({"n": {"$gt": 5, "$lt": 5}}, {"n": 0.5}),
        ({"x": {"$gte": 2, "$lt": 2}}, {"n": 2**40}),
        ({"t": "2025-01-01T00:00:00Z"}, {"t": datetime.fromisoformat("2025-01-01T01:00:00+01:00")}),
        ({"naive": "2025-01-01"}, {"naive": np.datetime64("2025-01-01")}),
        ({"naive": pd.Timestamp(5)}, {"naive": np.datetime64(5, "ns")}),
        ({"d": "2025-01-01"}, {"d": np.datetime64("2025-01-01")}),
        ({"clock": "01:00"}, {"clock": time(1)}),
        ({"span": timedelta(seconds=1)}, {"span": np.timedelta64(1000, "ms")}),
        ({"span": np.timedelta64(1, "m")}, {"span": pd.Timedelta(minutes=1)}),
        ({"price": 1.5}, {"price": Decimal("1.50")}),
        ({"raw": b"ab"}, {"raw": memoryview(b"ab")}),
        ({"n": {"$in": pa.array([1, None])}}, {"n": {"$in": {1, None}}}),
        *[
            ({"n": {"$in": values}}, {"n": {"$in": [1, 2]}})
            for values in (
                (1, 2),
                frozenset({1, 2}),
                range(1, 3),
                {1: 3, 2: 4}.keys(),
                {3: 1, 4: 2}.values(),
                np.array([1, 2]),
                pa.chunked_array([[1], [2]]),
                pd.Series([1, 2]),
                pl.Series([1, 2]),
            )
        ],
        (pc.field("n") > 1, pc.field("n") > 1),
    ],
)
def test_the_same_filter(a: Any, b: Any) -> None:
    a, b = parse(a, SCHEMA), parse(b, SCHEMA)
    assert a == b
    assert hash(a) == hash(b)


def deepened(where: Any, operator: str, times: int) -> Any:
    for _ in range(times):
        where = {operator: where if operator == "$not" else [where]}
    return where


TWO_DEEP = {"n": {"$gt": 3}}
ENDLESS: dict[str, Any] = {}
ENDLESS["$and"] = [ENDLESS, ENDLESS]

TOO_DEEP: dict[str, Any] = {
    "one more": deepened(TWO_DEEP, "$not", 199),
    "$not": deepened(TWO_DEEP, "$not", 100_000),
    "$and": deepened(TWO_DEEP, "$and", 100_000),
    "$or": deepened(TWO_DEEP, "$or", 100),
    "of a column": {"n": deepened({"$gt": 3}, "$not", 900)},
    "a value": {"n": deepened(3, "$in", 900)},
    "expressions": deepened(pc.field("n") > 3, "$or", 900),
    "endless": ENDLESS,
}


@pytest.mark.parametrize("schema", [SCHEMA, None], ids=["columns", "none"])
@pytest.mark.parametrize("where", TOO_DEEP.values(), ids=TOO_DEEP)
def test_filters_nested_too_deep(where: Any, schema: pa.Schema | None) -> None:
    with pytest.raises(ti.FilterError, match="more than 200 deep"):
        parse(where, schema)
    assert key_of(where) is None


def test_filters_nested_as_deep_as_they_may_be(filled: ti.Index, queries: np.ndarray) -> None:
    few = {"year": {"$lt": 2003}}
    within = few
    for year in range(99):
        within = (
            {"$or": [within, {"year": year}]} if year % 2 else {"$and": [within, {"year": {"$ne": year}}]}
        )
    found = filled.search(queries[0], where={"$not": deepened(few, "$not", 197), "$or": [few]})
    assert found.ids.tolist() == filled.search(queries[0], where=few).ids.tolist()
    assert filled.count(within) == filled.count(few) == 150
    assert key_of(within) is not None


def test_nodes() -> None:
    assert parse({"n": {"$gt": 3}}, SCHEMA) == Range("n", low=4)
    assert parse({"x": {"$gt": 3}}, SCHEMA) == Range("x", low=3.0, low_open=True)
    assert parse({"n": {"$nin": [2, 1]}}, SCHEMA) == Not(In("n", (1, 2)))
    assert parse({"nested": None}, SCHEMA) == IsNull("nested")
    assert parse({"price": Decimal("1e999999999")}, SCHEMA) == NOTHING
    assert parse({"x": {"$gt": Decimal("-1e-999999999")}}, SCHEMA) == Range("x", low=-0.0)


@pytest.mark.parametrize("made", [datetime, pd.Timestamp])
def test_an_hour_that_a_zone_repeats_is_two(made: Any) -> None:
    passes = [made(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=fold) for fold in (0, 1)]
    for moment, hour in zip(passes, (0, 1), strict=True):
        assert parse({"t": moment}, SCHEMA) == parse({"t": f"2024-10-27T0{hour}:30:00Z"}, SCHEMA)


class Spelt(str, Enum):  # noqa: UP042 - of those, str() gives the name
    A = "a"


class AnyCase(str):
    """It equals what is spelt alike but for case."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and str.lower(self) == str.lower(other)

    def __hash__(self) -> int:
        return hash(str.lower(self))


@pytest.mark.parametrize("operator", ["$eq", "$in", "$gt", "$contains"])
def test_strings_are_compared_by_their_characters(operator: str) -> None:
    """Held rows are found by their filter, so one that equals others would find the rows of those."""
    plain, spelt, upper = (
        parse({"s": {operator: [text] if operator == "$in" else text}}, SCHEMA)
        for text in ("a", Spelt.A, AnyCase("A"))
    )
    assert repr(spelt) == repr(plain)
    assert upper != plain


def test_long_lists_of_expressions_are_told_apart() -> None:
    """Their text leaves out the middle."""
    values = list(range(100))
    a = parse(pc.field("n").isin(values), SCHEMA)
    b = parse(pc.field("n").isin([*values[:50], -1, *values[51:]]), SCHEMA)
    assert str(a) == str(b)
    assert a != b


def test_an_expression_knows_its_columns_and_where_it_is_true() -> None:
    node = parse((pc.field("n") > 1) | pc.field("s").is_null(), SCHEMA)
    assert columns_of(node) == ("n", "s")
    table = pa.table({"n": pa.array([1, 2, None, None], pa.int32()), "s": ["a", "b", "c", None]})
    assert places(node, table).tolist() == [1, 3]
    failing = parse(pc.divide(pc.scalar(1), pc.field("n")) == 1, SCHEMA)
    with pytest.raises(ti.FilterError, match="divide by zero"):
        places(failing, pa.table({"n": pa.array([0], pa.int32())}))


@pytest.mark.parametrize(
    ("expression", "columns"),
    [
        (pc.field("nested", "a") == 1, ("nested",)),
        (pc.field("nested", 0) == 1, ("nested",)),
        (pc.struct_field(pc.field("nested"), [0]) == 1, ("nested",)),
        (pc.field("s") == "FieldPath(1)", ("s",)),
        (pc.is_in(pc.field("n"), value_set=pa.chunked_array([[1], [2]], pa.int32())), ("n",)),
        (pc.scalar(True), ()),
    ],
)
def test_an_expression_that_names_its_columns_is_taken(expression: Any, columns: tuple[str, ...]) -> None:
    node = parse(expression, SCHEMA)
    assert columns_of(node) == columns
    kinds = {"nested": [{"a": 1}, {"a": 3}], "s": ["FieldPath(1)", ""], "n": [1, 3]}
    table = pa.table({name: pa.array(kinds[name], SCHEMA.field(name).type) for name in kinds})
    assert places(node, table).tolist() == ([0] if columns else [0, 1])


def test_without_columns_shapes_are_checked_and_nothing_matches() -> None:
    assert parse({"year": 3}, None) == NOTHING
    assert parse({"year": {"$gte": "x"}, "n": {"$contains": 3}}, None) == NOTHING
    assert parse({}, None) == EVERYTHING
    assert parse(pc.field("n") > 1, None) == NOTHING
    for wrong in ({"year": {"$x": 3}}, {"year": {"$in": 3}}, {"$or": 3}, pc.field(1) > 1):
        with pytest.raises(ti.FilterError):
            parse(wrong, None)
