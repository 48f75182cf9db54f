"""Every typed error of the public calls, and that nothing has changed when one is raised."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import tiered_index as ti
from tiered_index.errors import MAX_ROWS_NAMED

MANY = 10_000
"""More than are checked at a time, so that rows have to be counted from the first of all."""

LATE = [8_500, 9_000]


@dataclass
class Rows:
    """What is given to add."""

    ids: Any
    vectors: Any
    metadata: Any

    def add_to(self, index: ti.Index) -> None:
        index.add(self.ids, self.vectors, self.metadata)


@pytest.fixture
def many(vectors: np.ndarray) -> Rows:
    """Rows that could be added to `filled`, one test's mistake apart."""
    return Rows(
        list(range(10_000, 10_000 + MANY)),
        np.tile(vectors, (MANY // len(vectors), 1)).astype(np.float64),
        {"title": ["new"] * MANY, "year": [2_030] * MANY},
    )


@pytest.fixture
def three(vectors: np.ndarray) -> Rows:
    return Rows([5_000, 5_001, 5_002], vectors[:3].copy(), {"title": ["a", "b", "c"], "year": [1, 2, 3]})


def state(index: ti.Index, queries: np.ndarray) -> tuple[Any, ...]:
    """All of an index that a refused call must leave alone."""
    found = index.search(queries[:5], k=5)
    return (
        index.count(),
        index.stats().generation,
        index.stats().columns,
        index.stats().id_kind,
        found.ids.tolist(),
        found.scores.tolist(),
        sorted(str(path) for path in index.path.rglob("*") if path.name != "lock"),
    )


Refused = Callable[..., AbstractContextManager[Any]]


@pytest.fixture
def refused(queries: np.ndarray) -> Refused:
    """Expect a typed error, and after it the same index on disk and in memory."""

    @contextmanager
    def check(index: ti.Index, error: type[ti.TieredIndexError], match: str | None = None) -> Iterator[Any]:
        before = state(index, queries)
        with pytest.raises(error, match=match) as caught:
            yield caught
        assert state(index, queries) == before
        with ti.open(index.path, mode="r") as again:
            assert state(again, queries) == before

    return check


def numbers(value: float, columns: slice = slice(None)) -> Callable[[Rows], None]:
    def spoil(rows: Rows) -> None:
        rows.vectors[LATE, columns] = value

    return spoil


def an_id(value: Any, form: Callable[[list[Any]], Any] = list) -> Callable[[Rows], None]:
    def spoil(rows: Rows) -> None:
        rows.ids[LATE[0]] = value
        rows.ids = form(rows.ids)

    return spoil


def a_value(column: str, value: Any, form: Callable[[list[Any]], Any] = list) -> Callable[[Rows], None]:
    def spoil(rows: Rows) -> None:
        rows.metadata[column][LATE[0]] = value
        rows.metadata[column] = form(rows.metadata[column])

    return spoil


def arrow_vectors(change: Callable[[list[Any]], None]) -> Callable[[Rows], None]:
    def spoil(rows: Rows) -> None:
        lists = list(rows.vectors)
        change(lists)
        rows.vectors = pa.array(lists, pa.list_(pa.float32()))

    return spoil


def shorten(lists: list[Any]) -> None:
    lists[LATE[0]] = lists[LATE[0]][:7]


def remove(lists: list[Any]) -> None:
    lists[LATE[1]] = None


@pytest.mark.parametrize(
    ("error", "spoil", "rows"),
    [
        pytest.param(ti.NonFiniteVectorError, numbers(np.nan, slice(63, 64)), LATE, id="NaN"),
        pytest.param(ti.NonFiniteVectorError, numbers(-np.inf), LATE, id="infinity"),
        pytest.param(ti.NonFiniteVectorError, arrow_vectors(remove), [9_000], id="null vector"),
        pytest.param(ti.DimensionError, arrow_vectors(shorten), [8_500], id="short vector"),
        pytest.param(ti.ZeroVectorError, numbers(0), LATE, id="zero vector"),
        pytest.param(ti.ZeroVectorError, numbers(0, slice(0, 32)), LATE, id="zero prefix"),
        pytest.param(ti.VectorRangeError, numbers(1e39), LATE, id="beyond float32"),
        pytest.param(ti.VectorRangeError, numbers(3e38), LATE, id="length beyond float32"),
        pytest.param(ti.IdError, an_id(None), [8_500], id="null id"),
        pytest.param(ti.IdError, an_id(None, pa.array), [8_500], id="null id in Arrow"),
        pytest.param(ti.IdError, an_id(True), [8_500], id="bool id"),
        pytest.param(ti.IdError, an_id("8500"), [8_500], id="mixed ids"),
        pytest.param(ti.IdError, an_id(1.5), [8_500], id="float id"),
        pytest.param(ti.IdError, an_id(2**63, lambda ids: np.array(ids, np.uint64)), [8_500], id="uint64 id"),
        pytest.param(ti.IdError, an_id(2**63), [8_500], id="int beyond int64"),
        pytest.param(ti.DuplicateIdError, an_id(10_007), [7, 8_500], id="id twice, far apart"),
        pytest.param(ti.DuplicateIdError, an_id(10_000 + 8_499), [8_499, 8_500], id="id twice, side by side"),
        pytest.param(ti.DuplicateIdError, an_id(17), [8_500], id="id known to the index"),
        pytest.param(ti.MetadataError, a_value("year", 0.5, np.array), [8_500], id="fraction in int64"),
        pytest.param(ti.MetadataError, a_value("year", "x"), [8_500], id="text in int64"),
        pytest.param(ti.MetadataError, a_value("title", 5), [8_500], id="number in string"),
    ],
)
def test_rows_are_named_by_their_place_in_the_whole_batch(
    filled: ti.Index,
    many: Rows,
    refused: Refused,
    error: type[ti.InvalidInputError],
    spoil: Callable[[Rows], None],
    rows: list[int],
) -> None:
    spoil(many)
    with refused(filled, error) as caught:
        many.add_to(filled)
    assert list(caught.value.rows) == rows


def test_rows_that_can_be_added_are(filled: ti.Index, three: Rows) -> None:
    before = filled.count(), filled.stats().generation
    three.add_to(filled)
    assert (filled.count(), filled.stats().generation) == (before[0] + 3, before[1] + 1)
    assert filled.get(three.ids)["title"].to_pylist() == ["a", "b", "c"]


def with_column(name: str, values: Any) -> Callable[[Rows], None]:
    return lambda rows: rows.metadata.update({name: values})


def given(**parts: Any) -> Callable[[Rows], None]:
    """Replace ids, vectors or metadata; a function is given the old ones."""

    def spoil(rows: Rows) -> None:
        for name, part in parts.items():
            setattr(rows, name, part(getattr(rows, name)) if callable(part) else part)

    return spoil


@pytest.mark.parametrize(
    ("error", "spoil"),
    [
        pytest.param(ti.DimensionError, given(vectors=lambda v: v[:, :63]), id="63 dimensions"),
        pytest.param(ti.DimensionError, given(vectors=lambda v: np.hstack([v, v])), id="128 dimensions"),
        pytest.param(ti.DimensionError, given(vectors=lambda v: v[None]), id="three axes"),
        pytest.param(ti.DimensionError, given(ids=[1], vectors=lambda v: v[0]), id="one axis"),
        pytest.param(ti.DimensionError, given(ids=[1], vectors=3.0), id="no axis"),
        pytest.param(ti.DimensionError, given(vectors=[[1.0], [1.0, 2.0], []]), id="ragged"),
        pytest.param(ti.DimensionError, given(vectors=lambda v: v.astype(str)), id="text for numbers"),
        pytest.param(ti.DimensionError, given(vectors=None), id="no vectors"),
        pytest.param(
            ti.DimensionError,
            given(ids=[], vectors=np.empty((0, 63)), metadata={"title": [], "year": []}),
            id="no rows of 63 dimensions",
        ),
        pytest.param(ti.IdError, given(ids=["a", "b", "c"]), id="str ids in an int64 index"),
        pytest.param(ti.IdError, given(ids=[1.0, 2.0, 3.0]), id="float ids"),
        pytest.param(ti.IdError, given(ids=pa.array([True, False, True])), id="Arrow bool ids"),
        pytest.param(ti.IdError, given(ids="abc"), id="one string"),
        pytest.param(ti.IdError, given(ids=5_000), id="one id"),
        pytest.param(ti.IdError, given(ids=None), id="no ids"),
        pytest.param(ti.IdError, given(ids=np.zeros((3, 1), int)), id="ids with two axes"),
        pytest.param(ti.IdError, given(ids=[1]), id="fewer ids"),
        pytest.param(ti.IdError, given(vectors=lambda v: v[:2]), id="fewer vectors"),
        pytest.param(ti.MetadataError, given(metadata=None), id="no metadata"),
        pytest.param(ti.MetadataError, given(metadata={"title": ["a"] * 3}), id="missing column"),
        pytest.param(ti.MetadataError, with_column("other", [1, 2, 3]), id="unknown column"),
        pytest.param(ti.MetadataError, with_column("id", [1, 2, 3]), id="reserved id"),
        pytest.param(ti.MetadataError, with_column("vector", [1, 2, 3]), id="reserved vector"),
        pytest.param(ti.MetadataError, with_column("year", [1, 2]), id="columns of different lengths"),
        pytest.param(ti.MetadataError, given(metadata={"title": ["a"], "year": [1]}), id="less metadata"),
        pytest.param(ti.MetadataError, with_column("year", ["x", "y", "z"]), id="text for int64"),
        pytest.param(ti.MetadataError, with_column("title", [1, 2, 3]), id="numbers for text"),
        pytest.param(ti.MetadataError, given(metadata=[{1: "a"}] * 3), id="names that are no text"),
        pytest.param(
            ti.MetadataError,
            given(metadata=pd.DataFrame({"title": ["a", 2, b"c"], "year": [1, 2, 3]})),
            id="DataFrame that Arrow cannot take",
        ),
        pytest.param(ti.MetadataError, given(metadata=5), id="a number for metadata"),
    ],
)
def test_a_batch_that_cannot_be_added(
    filled: ti.Index, three: Rows, refused: Refused, error: type[ti.InvalidInputError], spoil: Any
) -> None:
    spoil(three)
    with refused(filled, error):
        three.add_to(filled)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([{}, {}, {}], id="structs without fields"),
        pytest.param(pa.array([(1, 2, 3)] * 3, pa.month_day_nano_interval()), id="intervals"),
        pytest.param(
            pa.UnionArray.from_sparse(pa.array([0] * 3, pa.int8()), [pa.array([1, 2, 3])]), id="unions"
        ),
        pytest.param([None] * 3, id="nulls alone"),
        pytest.param([object()] * 3, id="objects"),
    ],
)
def test_metadata_that_cannot_be_stored(
    make_index: Callable[..., ti.Index], three: Rows, refused: Refused, values: Any
) -> None:
    index = make_index()
    three.metadata["odd"] = values
    with refused(index, ti.MetadataError, "odd"):
        three.add_to(index)


def test_a_column_named_like_a_part_of_the_vectors(
    make_index: Callable[..., ti.Index], three: Rows, vectors: np.ndarray
) -> None:
    index = make_index()
    three.metadata["vector.x"] = [1, 2, 3]
    with suppress(ti.MetadataError):  # it may be refused; once it is taken it has to be readable
        three.add_to(index)
    with ti.open(index.path, mode="r") as again:
        assert again.count() == index.count()
        assert again.search(vectors[0], k=1).ids.tolist() in ([], [5_000])


@pytest.mark.parametrize("value", [70_000.0, -1e9])
def test_numbers_beyond_float16(
    make_index: Callable[..., ti.Index], many: Rows, refused: Refused, value: float
) -> None:
    index = make_index(dtype="float16")
    numbers(value, slice(40, 41))(many)
    with refused(index, ti.VectorRangeError, "float16") as caught:
        many.add_to(index)
    assert list(caught.value.rows) == LATE


def test_numbers_that_float16_rounds_to_zero_leave_no_direction(
    make_index: Callable[..., ti.Index], three: Rows, refused: Refused
) -> None:
    index = make_index(dtype="float16")
    three.vectors[1] = 1e-9
    with refused(index, ti.ZeroVectorError) as caught:
        three.add_to(index)
    assert caught.value.rows == (1,)


def test_zeros_are_allowed_under_dot(make_index: Callable[..., ti.Index], three: Rows) -> None:
    index = make_index(metric="dot")
    three.vectors[1] = 0
    three.vectors[2, :32] = 0
    three.add_to(index)
    for exact in (False, True):
        query = three.vectors[0].copy()
        found = index.search(query, k=3, exact=exact)
        assert sorted(found.ids.tolist()) == three.ids
        assert found.scores[found.ids == 5_001].tolist() == [0.0]
        assert index.search(np.zeros(64), k=3, exact=exact).scores.tolist() == [0.0] * 3


def test_int_ids_in_an_index_of_strings(
    make_index: Callable[..., ti.Index], three: Rows, refused: Refused
) -> None:
    index = make_index()
    index.add(["a", "b", "c"], three.vectors)
    with refused(index, ti.IdError, "the index holds str ids"):
        index.add([1, 2, 3], three.vectors)
    with refused(index, ti.DuplicateIdError, "'b'") as caught:
        index.add(["x", "y", "b"], three.vectors)
    assert caught.value.rows == (2,)
    with refused(index, ti.IdError, "the index holds str ids"):
        index.get([1])


def test_the_first_refused_rows_decide_nothing(
    make_index: Callable[..., ti.Index], three: Rows, refused: Refused
) -> None:
    index = make_index()
    three.vectors[2, 0] = np.nan
    with refused(index, ti.NonFiniteVectorError):
        three.add_to(index)
    index.add(["a"], three.vectors[:1], {"price": [1.5]})
    assert (index.stats().id_kind, index.stats().columns) == ("str", {"price": "double"})


def test_more_rows_than_are_named(filled: ti.Index, three: Rows, refused: Refused) -> None:
    with refused(filled, ti.DuplicateIdError, r"\(rows 0, 1, 2, 3, 4 and 2 more\)") as caught:
        filled.add(list(range(7)), np.repeat(three.vectors[:1], 7, axis=0), [{}] * 7)
    assert caught.value.rows == tuple(range(MAX_ROWS_NAMED))


@pytest.mark.parametrize(
    "parameters",
    [
        {"k": 0},
        {"k": -1},
        {"k": 16_385},
        {"k": 2.0},
        {"k": True},
        {"k": None},
        {"k": "5"},
        {"k": 10, "ef": 9},
        {"ef": 65_537},
        {"ef": 96.0},
        {"k": 10, "candidates": 9},
        {"candidates": 65_537},
        {"candidates": "all"},
        {"prefix_dim": 12},
        {"prefix_dim": 40},
        {"prefix_dim": 0},
        {"prefix_dim": 8.0},
        {"exact": True, "ef": 96},
        {"exact": True, "candidates": 96},
        {"exact": True, "prefix_dim": 32},
    ],
    ids=str,
)
def test_search_with_a_parameter_out_of_range(
    filled: ti.Index, queries: np.ndarray, refused: Refused, parameters: dict[str, Any]
) -> None:
    with refused(filled, ti.ParameterError, f"{'exact' if 'exact' in parameters else [*parameters][-1]}"):
        filled.search(queries[0], **parameters)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    ("error", "change", "rows"),
    [
        pytest.param(ti.DimensionError, lambda q: q[0, :32], (), id="prefix alone"),
        pytest.param(ti.DimensionError, lambda q: q[:, :63], (), id="63 dimensions"),
        pytest.param(ti.DimensionError, lambda q: q[None], (), id="three axes"),
        pytest.param(ti.DimensionError, lambda q: 1.0, (), id="a number"),
        pytest.param(ti.DimensionError, lambda q: "text", (), id="text"),
        pytest.param(ti.DimensionError, lambda q: None, (), id="nothing"),
        pytest.param(ti.DimensionError, lambda q: [], (), id="empty"),
        pytest.param(ti.NonFiniteVectorError, lambda q: q[0] * np.nan, (0,), id="NaN"),
        pytest.param(ti.NonFiniteVectorError, lambda q: np.vstack([q, q[:1] * np.inf]), (3,), id="infinity"),
        pytest.param(ti.VectorRangeError, lambda q: np.vstack([q, q[:1] * 1e40]), (3,), id="beyond float32"),
        pytest.param(ti.ZeroVectorError, lambda q: np.vstack([q, q[:1] * 0]), (3,), id="zero"),
    ],
)
def test_a_query_that_cannot_be_asked(
    filled: ti.Index,
    queries: np.ndarray,
    refused: Refused,
    error: type[ti.InvalidInputError],
    change: Callable[[np.ndarray], Any],
    rows: tuple[int, ...],
    exact: bool,
) -> None:
    with refused(filled, error) as caught:
        filled.search(change(queries[:3].astype(np.float64)), exact=exact)
    assert caught.value.rows == rows


def test_a_query_without_a_prefix_is_refused_only_where_prefixes_are_compared(
    filled: ti.Index, queries: np.ndarray, refused: Refused
) -> None:
    query = queries[0].copy()
    query[:16] = 0
    with refused(filled, ti.ZeroVectorError, "first 16 dimensions"):
        filled.search(query, prefix_dim=16)
    assert len(filled.search(query, k=3)) == 3
    query[:32] = 0
    with refused(filled, ti.ZeroVectorError, "first 32 dimensions"):
        filled.search(query)
    assert len(filled.search(query, k=3, exact=True)) == 3


@pytest.mark.parametrize("ids", [["a"], [None], [True], [1.5], "abc", 5, [1, "a"], [2**63]], ids=str)
def test_get_with_what_is_no_id_of_the_index(filled: ti.Index, refused: Refused, ids: Any) -> None:
    with refused(filled, ti.IdError):
        filled.get(ids)


def test_get_and_delete_of_nothing_in_particular(filled: ti.Index, refused: Refused) -> None:
    with refused(filled, ti.ParameterError, "where={} matches all"):
        filled.get(None)
    with refused(filled, ti.ParameterError, "either ids or where="):
        filled.delete(None)


@pytest.mark.parametrize(
    "use",
    [
        lambda index, vectors: index.add([1], vectors[:1]),
        lambda index, vectors: index.write(lambda intake: []),
        lambda index, vectors: index.search(vectors[0]),
        lambda index, vectors: index.search(vectors[0], exact=True),
        lambda index, vectors: index.get([1]),
        lambda index, vectors: index.count(),
        lambda index, vectors: len(index),
        lambda index, vectors: index.stats(),
        lambda index, vectors: index.config,
        lambda index, vectors: index.schema,
        lambda index, vectors: ti.ingest(vectors, index),
    ],
    ids=[
        "add",
        "write",
        "search",
        "exact",
        "get",
        "count",
        "len",
        "stats",
        "config",
        "schema",
        "ingest",
    ],
)
def test_use_after_close(
    filled: ti.Index, vectors: np.ndarray, use: Callable[[ti.Index, np.ndarray], object]
) -> None:
    filled.close()
    with pytest.raises(ti.IndexClosedError, match="was closed"):
        use(filled, vectors)
    filled.close()
    assert filled.closed
    with ti.open(filled.path) as again:
        assert again.count() == len(vectors)


ERRORS = [getattr(ti, name) for name in ti.__all__ if name.endswith("Error")]


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_is_a_tiered_index_error(error: type[Exception]) -> None:
    assert issubclass(error, ti.TieredIndexError)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ti.InvalidInputError, ValueError),
        (ti.ConfigMismatchError, ValueError),
        (ti.EncoderMismatchError, ti.ConfigMismatchError),
        (ti.IndexNotFoundError, FileNotFoundError),
        (ti.StorageError, OSError),
        (ti.CorruptIndexError, ti.StorageError),
        (ti.LayoutError, ti.CorruptIndexError),
        (ti.CommitUncertainError, ti.StorageError),
        (ti.MissingDependencyError, ImportError),
    ],
)
def test_errors_are_python_s_own_kinds_too(error: type[Exception], kind: type[Exception]) -> None:
    assert issubclass(error, kind)


def test_all_errors_about_arguments_are_invalid_input() -> None:
    assert {error.__name__ for error in ERRORS if issubclass(error, ti.InvalidInputError)} == {
        "InvalidInputError",
        "DimensionError",
        "NonFiniteVectorError",
        "VectorRangeError",
        "ZeroVectorError",
        "IdError",
        "DuplicateIdError",
        "MetadataError",
        "FilterError",
        "TextError",
        "ParameterError",
        "SourceError",
    }


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "wrong"),
        ([3], "wrong (row 3)"),
        ([np.int64(3), 4], "wrong (rows 3, 4)"),
        (range(7), "wrong (rows 0, 1, 2, 3, 4 and 2 more)"),
    ],
)
def test_rows_in_messages(rows: Any, message: str) -> None:
    error = ti.InvalidInputError("wrong", rows)
    assert str(error) == message
    assert error.rows == tuple(rows)[:MAX_ROWS_NAMED]
