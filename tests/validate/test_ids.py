"""Ids: every form that is taken, keys, and duplicates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiered_index as ti
from tiered_index import DuplicateIdError, IdError
from tiered_index.validate.ids import check_distinct, id_array, id_keys, kind_of

INT64 = st.integers(-(2**63), 2**63 - 1)
IDS = st.lists(INT64, min_size=1) | st.lists(st.text(), min_size=1)
FEW = st.lists(st.integers(0, 8)) | st.lists(st.sampled_from(["", "a", "b", "ab", "ü"]))

FORMS: list[Callable[[list[Any]], Any]] = [
    list,
    tuple,
    iter,
    pa.array,
    lambda ids: pa.chunked_array([pa.array(ids[:1]), pa.array(ids[1:], pa.array(ids).type)]),
    lambda ids: pa.array(ids).dictionary_encode(),
    lambda ids: pa.concat_arrays([pa.array(ids), pa.array(ids)]).slice(len(ids)),
    lambda ids: pd.Series(ids, dtype=object),
    pl.Series,
    lambda ids: np.array(ids, dtype=object),
]


@given(ids=IDS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_ids_round_trips(form: Callable[[list[Any]], Any], ids: list[Any]) -> None:
    array = id_array(form(ids), None)
    assert array.to_pylist() == ids
    assert array.type == (pa.int64() if isinstance(ids[0], int) else pa.large_string())
    assert kind_of(array) == ("int64" if isinstance(ids[0], int) else "str")


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i8"])
def test_numpy_integers(dtype: str) -> None:
    given = np.array([3, 1, 100], dtype)
    assert id_array(given, "int64").to_pylist() == [3, 1, 100]
    assert id_array(list(given), "int64").to_pylist() == [3, 1, 100]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_arrow_strings(kind: pa.DataType) -> None:
    array = id_array(pa.array(["a", "ü"], kind), "str")
    assert (array.type, array.to_pylist()) == (pa.large_string(), ["a", "ü"])


def test_numpy_strings() -> None:
    assert id_array(np.array(["a", "ü"]), None).to_pylist() == ["a", "ü"]


@pytest.mark.parametrize(
    ("kind", "wanted"), [("int64", pa.int64()), ("str", pa.large_string()), (None, pa.large_string())]
)
def test_no_ids_are_of_the_index_s_kind(kind: Any, wanted: pa.DataType) -> None:
    assert id_array([], kind).type == wanted


@pytest.mark.parametrize(
    ("ids", "rows"),
    [
        ([1, None], (101,)),
        (["a", None], (101,)),
        (pa.array([1, None, 2, None]), (101, 103)),
        (pa.array(["a", None]).dictionary_encode(), (101,)),
        (pa.nulls(2), (100, 101)),
        ([1, True], (101,)),
        (np.array([True, False]), (100,)),
        ([1, "a"], (101,)),
        (["a", 1], (101,)),
        ([1, 2.0], (101,)),
        (np.array([1.0, 2.0]), (100,)),
        ([1, b"a"], (101,)),
        ([1, (2,)], (101,)),
        (np.array([1, 2**63], np.uint64), (101,)),
        (pa.array([2**64 - 1, 1], pa.uint64()), (100,)),
        ([1, 2**63], (101,)),
        ([1, -(2**63) - 1], (101,)),
        ([1, 2**64], (101,)),
        (["a", "\ud800"], (101,)),
    ],
)
def test_an_id_that_cannot_be_one_is_named_by_row(ids: Any, rows: tuple[int, ...]) -> None:
    with pytest.raises(IdError) as caught:
        id_array(ids, None, first_row=100)
    assert caught.value.rows == rows


@pytest.mark.parametrize(
    "ids",
    [
        "abc",
        b"abc",
        5,
        None,
        np.array(5),
        np.zeros((2, 2), np.int64),
        pa.array([1.5]),
        pa.array([True]),
        pa.array([b"a"]),
        pa.array([[1]]),
    ],
)
def test_what_is_no_sequence_of_ids(ids: Any) -> None:
    with pytest.raises(IdError):
        id_array(ids, None)


@pytest.mark.parametrize(("ids", "kind"), [(["a"], "int64"), ([1], "str"), (pa.array([1]), "str")])
def test_ids_of_the_other_kind(ids: Any, kind: Any) -> None:
    with pytest.raises(IdError, match=f"the index holds {kind} ids"):
        id_array(ids, kind)


def test_bytes_that_are_not_unicode_are_no_string_id() -> None:
    _, offsets, data = pa.array([b"a", b"\xff"]).buffers()
    with pytest.raises(IdError):
        id_array(pa.StringArray.from_buffers(2, offsets, data), None)


@pytest.mark.parametrize("make", [set, frozenset])
def test_ids_without_an_order_name_rows_and_add_none(
    make: Callable[[list[int]], Any], make_index: Callable[..., ti.Index], vectors: np.ndarray
) -> None:
    index = make_index()
    index.add([1, 2, 3], vectors[:3])
    for write in (index.add, index.upsert):
        with pytest.raises(IdError, match=r"in their order, which a (frozen)?set has not"):
            write(make([4, 5]), vectors[:2])
    assert index.get(make([2, 3, 4])).num_rows == 2
    assert index.delete(make([1, 4])) == 1
    assert len(index) == 2


@given(ids=IDS)
def test_a_key_is_a_function_of_the_id_alone(ids: list[Any]) -> None:
    keys = id_keys(id_array(ids, None))
    assert keys.dtype == np.uint64
    for i, value in enumerate(ids):
        assert id_keys(id_array([value], None))[0] == keys[i]


@given(ids=st.lists(INT64, min_size=1, unique=True))
def test_keys_of_integers_do_not_collide(ids: list[int]) -> None:
    assert len(set(id_keys(id_array(ids, None)).tolist())) == len(ids)


@given(ids=FEW, colliding=st.booleans())
def test_duplicates_are_found_also_where_keys_collide(ids: list[Any], colliding: bool) -> None:
    array = id_array(ids, None)
    keys = np.zeros(len(ids), np.uint64) if colliding and kind_of(array) == "str" else id_keys(array)
    if len(set(ids)) == len(ids):
        check_distinct(array, keys)
        return
    with pytest.raises(DuplicateIdError) as caught:
        check_distinct(array, keys, first_row=1_000)
    first, second = caught.value.rows
    assert 1_000 <= first < second
    assert ids[first - 1_000] == ids[second - 1_000]
    assert repr(ids[first - 1_000]) in str(caught.value)


def test_categories_of_polars_are_strings() -> None:
    column = pl.Series(["a", "b", "a"], dtype=pl.Categorical).to_arrow()
    assert id_array(column, None).to_pylist() == ["a", "b", "a"]
