"""Metadata: every form that is taken, and columns that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiered_index as ti
from tiered_index import MetadataError
from tiered_index.validate.metadata import metadata_table

SCHEMA = pa.schema([("title", pa.string()), ("year", pa.int64())])
GOOD = {"title": ["a", "b", "c"], "year": [1, 2, 3]}

FORMS: dict[str, Callable[[list[str], list[int]], Any]] = {
    "mapping": lambda title, year: {"title": title, "year": year},
    "other order": lambda title, year: {"year": year, "title": title},
    "mapping of arrays": lambda title, year: {
        "title": np.array(title, object),
        "year": np.array(year, np.int64),
    },
    "mapping of series": lambda title, year: {"title": pl.Series(title), "year": pd.Series(year)},
    "table": lambda title, year: pa.table({"title": title, "year": year}),
    "record batch": lambda title, year: pa.record_batch({"title": title, "year": year}),
    "pandas": lambda title, year: pd.DataFrame({"title": title, "year": year}),
    "pandas, another index": lambda title, year: pd.DataFrame(
        {"title": ["", *title], "year": [0, *year]}
    ).iloc[1:],
    "polars": lambda title, year: pl.DataFrame({"title": title, "year": year}),
    "rows": lambda title, year: [{"title": t, "year": y} for t, y in zip(title, year, strict=True)],
    "dictionary": lambda title, year: {"title": pa.array(title).dictionary_encode(), "year": year},
    "pandas category": lambda title, year: pd.DataFrame({"title": pd.Categorical(title), "year": year}),
    "polars category": lambda title, year: pl.DataFrame(
        {"title": pl.Series(title, dtype=pl.Categorical), "year": year}
    ),
    "narrower numbers": lambda title, year: {"title": title, "year": pa.array(year, pa.int16())},
    "whole floats": lambda title, year: {"title": title, "year": np.array(year, np.float64)},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("schema", [None, SCHEMA], ids=["first rows", "later rows"])
@given(
    columns=st.lists(st.tuples(st.text("aü\n", max_size=3), st.integers(-999, 999)), min_size=1, max_size=5)
)
def test_every_form_of_metadata_is_the_same_table(
    form: Callable[[list[str], list[int]], Any],
    schema: pa.Schema | None,
    columns: list[tuple[str, int]],
) -> None:
    title, year = (list(column) for column in zip(*columns, strict=True))
    table = metadata_table(form(title, year), len(title), schema)
    assert table.select(["title", "year"]).to_pydict() == {"title": title, "year": year}
    assert table.schema.remove_metadata() == SCHEMA or schema is None


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_of_metadata_can_be_read_back(
    form: Callable[[list[str], list[int]], Any], make_index: Callable[..., ti.Index], vectors: np.ndarray
) -> None:
    index = make_index()
    index.add([1, 2, 3], vectors[:3], form(*GOOD.values()))
    index.add([4, 5, 6], vectors[3:6], form(*GOOD.values()))
    assert index.get([6, 2]).select(["title", "year"]).to_pydict() == {"title": ["c", "b"], "year": [3, 2]}
    result = index.search(vectors[0], k=1)
    assert result.metadata.select(["title", "year"]).to_pylist() == [{"title": "a", "year": 1}]


def test_a_key_that_is_missing_in_a_row_is_a_null() -> None:
    table = metadata_table([{"title": "a"}, {"year": 2}, {}], 3, None)
    assert table.to_pydict() == {"title": ["a", None, None], "year": [None, 2, None]}
    later = metadata_table([{"title": "a"}, {}], 2, SCHEMA)
    assert later.schema == SCHEMA
    assert later.to_pydict() == {"title": ["a", None], "year": [None, None]}


@pytest.mark.parametrize("nothing", [None, {}, pa.table({}), [{}, {}]])
def test_no_columns(nothing: Any) -> None:
    assert metadata_table(nothing, 2, None).num_columns == 0
    assert metadata_table(nothing, 2, pa.schema([])).num_columns == 0


def test_nulls_take_the_column_s_type() -> None:
    table = metadata_table({"title": [None, "b"], "year": [None, None]}, 2, SCHEMA)
    assert table.schema == SCHEMA
    assert table["year"].to_pylist() == [None, None]


@pytest.mark.parametrize("values", [[1, 2, 3], [[1], [2], [3]], [{"a": 1}] * 3])
def test_a_column_named_as_the_numbers_of_vectors_changes_nothing(
    make_index: Callable[..., ti.Index], vectors: np.ndarray, values: list[Any]
) -> None:
    """Its settings in Parquet would be those of the vectors, whose file could then not be opened."""
    index = make_index()
    with pytest.raises(MetadataError, match=r"index itself has a column 'vector\.list\.element'"):
        index.add(range(3), vectors[:3], {"vector.list.element": values})
    index.add(range(3), vectors[:3], {"vector.list": values, "vector.list.item": values, "vector.x": values})
    with ti.open(index.path, mode="r") as reader:
        table = reader.get([1], include_vectors=True)
        np.testing.assert_array_equal(table["vector"][0].as_py(), vectors[1])
        assert table["vector.list"].to_pylist() == [values[1]]


def test_columns_become_nullable() -> None:
    strict = pa.schema([pa.field("year", pa.int64(), nullable=False)])
    assert metadata_table(pa.table({"year": [1]}, schema=strict), 1, None).schema.field("year").nullable


def test_a_column_of_nulls_alone_has_no_type() -> None:
    with pytest.raises(MetadataError, match="'year' has only nulls"):
        metadata_table({"year": [None, None]}, 2, None)
    typed = metadata_table({"year": pa.nulls(2, pa.int64())}, 2, None)
    assert typed.schema.field("year").type == pa.int64()


@pytest.mark.parametrize("kind", [pa.decimal128(5, -2), pa.decimal256(5, -2)])
def test_first_rows_of_a_type_that_parquet_does_not_hold(kind: pa.DataType) -> None:
    with pytest.raises(MetadataError, match="'x': Parquet cannot hold"):
        metadata_table({"x": pa.nulls(2, kind)}, 2, None)


@pytest.mark.parametrize("schema", [None, SCHEMA], ids=["first rows", "later rows"])
@pytest.mark.parametrize(
    ("metadata", "match"),
    [
        ({**GOOD, "id": [1, 2, 3]}, "'id'"),
        ({**GOOD, "vector": [1, 2, 3]}, "'vector'"),
        (pa.table([[1, 2, 3]] * 2, names=["year", "year"]), "twice"),
        ({"title": ["a", "b"], "year": [1, 2]}, "2 rows for 3 vectors"),
        ([{"title": "a", "year": 1}], "1 rows for 3 vectors"),
        (pa.table(GOOD).slice(1), "2 rows for 3 vectors"),
        ({**GOOD, "year": [1, 2]}, "year"),
        (pd.DataFrame({"title": ["a", 2, b"c"], "year": [1, 2, 3]}), "title"),
        ({**GOOD, "year": 5}, "'year' must be a sequence"),
        ({**GOOD, "title": "abc"}, "'title' must be a sequence"),
        ({**GOOD, "year": iter([1, 2, 3])}, "'year' must be a sequence"),
        ({**GOOD, "year": {1, 2, 3}}, "'year' must be in the order of rows, which a set has not"),
        ({**GOOD, "year": np.zeros((3, 2))}, "'year'"),
        ({**GOOD, "year": [1, "2", 3]}, "'year'"),
        ({**GOOD, "year": [1, 2, 2**70]}, "'year'"),
        ({**GOOD, "title": ["a", "b", "\ud800"]}, "'title'"),
        ("abc", "columns or a sequence of mappings, not str"),
        (5, "columns or a sequence of mappings, not int"),
        ([{1: "a"}] * 3, "1"),
    ],
)
def test_metadata_that_no_index_takes(metadata: Any, match: str, schema: pa.Schema | None) -> None:
    with pytest.raises(MetadataError, match=match):
        metadata_table(metadata, 3, schema)


@pytest.mark.parametrize(
    ("metadata", "match"),
    [
        ({**GOOD, "other": [1, 2, 3]}, "unknown columns .'other'.; the index has"),
        ({"title": ["a", "b", "c"]}, "missing columns .'year'"),
        (None, "missing columns .'title', 'year'"),
        ({}, "missing columns"),
        ({**GOOD, "title": [1, 2, 3]}, "'title' holds string"),
    ],
)
def test_metadata_that_does_not_fit_this_index(metadata: Any, match: str) -> None:
    with pytest.raises(MetadataError, match=match):
        metadata_table(metadata, 3, SCHEMA)


@pytest.mark.parametrize(
    ("metadata", "row"),
    [
        ({**GOOD, "year": [1.0, 2.5, 3.0]}, 101),
        ({**GOOD, "year": pa.array([1, 2, 2**63], pa.uint64())}, 102),
        ({**GOOD, "year": [1, "2", 3]}, 101),
        ({**GOOD, "title": ["a", "b", 3]}, 102),
        ([{"title": "a", "year": 1}, {"title": "b", "year": "x"}, {}], 101),
        ([{}, {}, {"other": 1}], 102),
        ([{}, ["title"], {}], 101),
    ],
)
def test_a_value_of_another_type_is_named_by_row(metadata: Any, row: int) -> None:
    with pytest.raises(MetadataError) as caught:
        metadata_table(metadata, 3, SCHEMA, first_row=100)
    assert caught.value.rows[:1] == (row,)


@pytest.mark.parametrize(
    ("metadata", "first"), [({**GOOD, "year": ["1", "x", "3"]}, 100), ({**GOOD, "title": [None, 2, 3]}, 101)]
)
def test_a_column_of_another_type_is_not_blamed_on_a_later_row(metadata: Any, first: int) -> None:
    with pytest.raises(MetadataError) as caught:
        metadata_table(metadata, 3, SCHEMA, first_row=100)
    assert caught.value.rows[:1] in ((), (first,))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, None, 2**63], pa.uint64()),
        (np.array([2**64 - 1, 0, 5], object), pa.uint64()),
        ([[2**63, 1], None, []], pa.list_(pa.uint64())),
        ([{"a": 2**64 - 1}, {"a": None}, None], pa.struct({"a": pa.uint64()})),
    ],
    ids=["numbers", "array of objects", "lists", "structs"],
)
def test_numbers_beyond_int64_fit_an_unsigned_column(values: Any, kind: pa.DataType) -> None:
    schema = pa.schema([("n", kind)])
    assert metadata_table({"n": values}, 3, schema)["n"].to_pylist() == list(values)
    assert metadata_table([{"n": value} for value in values], 3, schema)["n"].to_pylist() == list(values)


@pytest.mark.parametrize("bad", [-1, 2**64, "7", True])
def test_what_an_unsigned_column_does_not_hold_is_named_beside_large_numbers(bad: Any) -> None:
    with pytest.raises(MetadataError, match="'n'") as caught:
        metadata_table({"n": [2**63, bad, 1]}, 3, pa.schema([("n", pa.uint64())]), first_row=100)
    assert caught.value.rows == (101,)
    with pytest.raises(MetadataError, match="'n'"):  # not 1
        metadata_table({"n": [2**63, 1.5]}, 2, pa.schema([("n", pa.uint64())]))


def wrong_text(kind: pa.DataType) -> pa.Array:
    """Return "a", "bc", and two bytes that are no UTF-8."""
    binary = pa.array(
        [b"a", b"bc", b"\xff\xfe"], pa.large_binary() if kind == pa.large_string() else pa.binary()
    )
    return pa.Array.from_buffers(kind, 3, binary.buffers())


WRONG: dict[str, Callable[[], pa.Array]] = {
    "string": lambda: wrong_text(pa.string()),
    "large string": lambda: wrong_text(pa.large_string()),
    "struct": lambda: pa.StructArray.from_arrays([wrong_text(pa.string())], ["a"]),
    "list": lambda: pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), wrong_text(pa.string())),
    "map": lambda: pa.MapArray.from_arrays([0, 1, 2, 3], pa.array([1, 2, 3]), wrong_text(pa.string())),
    "chunks": lambda: pa.chunked_array([["a", "bc"], wrong_text(pa.string()).slice(2)]),
}


@pytest.mark.parametrize("later", [False, True], ids=["first rows", "later rows"])
@pytest.mark.parametrize("make", WRONG.values(), ids=WRONG)
def test_text_that_is_not_utf8_is_named_by_row_and_nothing_is_kept(
    make: Callable[[], pa.Array], later: bool, make_index: Callable[..., ti.Index], vectors: np.ndarray
) -> None:
    index, wrong = make_index(), make()
    if later:
        index.add([9], vectors[:1], {"x": wrong.slice(0, 1)})
    with pytest.raises(MetadataError, match=r"'x' is not valid.*row 2") as caught:
        index.add([1, 2, 3], vectors[:3], {"x": wrong})
    assert caught.value.rows == (2,)
    assert index.count() == int(later)
    index.add([1, 2], vectors[:2], {"x": wrong.slice(0, 2)})  # what stands beside a slice is not of it
    assert index.get([2])["x"].to_pylist() == wrong.slice(1, 1).to_pylist()


def test_a_dictionary_that_is_not_utf8_is_refused() -> None:
    wrong = pa.DictionaryArray.from_arrays(pa.array([0, 1]), wrong_text(pa.string()))
    with pytest.raises(MetadataError, match="'x' is not valid"):
        metadata_table({"x": wrong}, 2, None)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([{"name": "a"}, None], pl.Struct({"name": pl.String})),
        ([[{"name": "a"}], []], pl.List(pl.Struct({"name": pl.String}))),
        ([["a", "b"], ["c", "d"]], pl.Array(pl.String, 2)),
        ([["a", "b"], None], pl.List(pl.Categorical)),
    ],
    ids=str,
)
def test_nested_views_can_be_read_and_merged(tmp_path: Path, values: list[Any], kind: pl.DataType) -> None:
    frame = pl.DataFrame({"c": values}, schema={"c": kind})
    with ti.open(tmp_path / "x.tidx", 8) as index:
        for first in range(0, 20, 2):  # so many that the policy merges
            index.add([first, first + 1], np.eye(2, 8), frame)
        assert index.get(range(20))["c"].to_pylist() == values * 10
        assert index.search(np.eye(1, 8)[0], 20).metadata["c"].null_count == 10 * values.count(None)
        assert index.delete([1]) == 1
        index.optimize()
        assert index.verify().ok
