"""What tells filters apart: equal keys only of filters that mean the same."""

from __future__ import annotations

import datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiered_index.filters.key import key_of

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, 1.0, 2.0, "", "1", "a", b"a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "$eq", "$or"]), inner),
    max_leaves=6,
)


def written(value: Any) -> str:
    """Return what a filter looks like: filters that look alike mean the same."""
    return repr(value)


@given(one=VALUES, other=VALUES)
def test_equal_keys_are_of_filters_that_look_alike(one: Any, other: Any) -> None:
    assert hash(key_of(one)) is not None
    assert (key_of(one) == key_of(other)) == (written(one) == written(other))


def test_dates_and_their_texts_are_told_apart() -> None:
    day = datetime.date(2026, 1, 2)
    assert len({key_of({"day": one}) for one in (day, "2026-01-02", datetime.datetime(2026, 1, 2))}) == 3


def test_times_that_are_equal_and_mean_other_rows_are_told_apart() -> None:
    zone = ZoneInfo("Europe/Berlin")
    twice = datetime.datetime(2024, 10, 27, 2, 30, tzinfo=zone)
    assert twice == twice.replace(fold=1)
    assert key_of({"at": twice}) != key_of({"at": twice.replace(fold=1)})
    assert key_of({"at": {"$in": [twice]}}) != key_of({"at": {"$in": [twice.replace(fold=1)]}})
    one, zoned = datetime.time(1), datetime.time(1, tzinfo=zone)  # the latter is refused
    assert one == zoned
    assert key_of({"at": one}) != key_of({"at": zoned})
    assert key_of({"at": twice}) == key_of({"at": twice.replace()})
    assert key_of({"at": one}) == key_of({"at": datetime.time(1)})


@pytest.mark.parametrize("value", [np.int64(1), pc.field("a") > 1, np.arange(3), list(range(65)), {1, 2}])
def test_no_key_is_made_of_what_takes_long_or_is_unknown(value: Any) -> None:
    assert key_of(value) is None
    assert key_of({"$and": [{"a": value}]}) is None


def test_tuples_are_lists() -> None:
    assert key_of({"a": {"$in": (1, 2)}}) == key_of({"a": {"$in": [1, 2]}})
