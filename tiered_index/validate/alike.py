"""Python values that Arrow puts into one column although they are not of one kind.

It makes 1 of True beside a number, the first of January of noon that day beside a date, bytes of a string
beside bytes, and drops time zones and nanoseconds: without an error, whatever was meant.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from itertools import chain, compress
from typing import Any

import numpy as np
import pyarrow as pa

from tiered_index.lazily import pc
from tiered_index.validate.conversion import is_list

_SURE = frozenset({int, float, bool, str, bytes, dt.date, dt.timedelta, Decimal})
"""Types of which a column without others says what its values do."""

_ALONE = frozenset([frozenset(), frozenset({int, float}), *(frozenset({one}) for one in _SURE)])
"""Types that may stand alone in a column: whether a float can be each whole number, Arrow looks itself."""

_KINDS: tuple[tuple[str, tuple[type, ...]], ...] = (
    ("a boolean", (bool, np.bool_)),
    ("a duration", (dt.timedelta, np.timedelta64)),  # the latter is one of NumPy's integers
    ("a number", (int, float, Decimal, np.integer, np.floating)),
    ("a string", (str,)),
    ("bytes", (bytes, bytearray, memoryview)),
    ("a date with a time", (dt.datetime, np.datetime64)),
    ("a date", (dt.date,)),
    ("a time", (dt.time,)),
)


def check_alike(values: Sequence[Any], array: pa.Array | pa.ChunkedArray) -> None:
    """Raise ValueError unless all values are of one kind, and an array that was made of them says the same.

    Parameters
    ----------
    values : sequence
        As they were given.
    array : pyarrow.Array or pyarrow.ChunkedArray
        What Arrow made of them, without being told a type.
    """
    if set(map(type, values)) - {type(None)} in _ALONE:  # of a million, in some 20 ms
        return
    if array.null_count:  # with pandas, NaN and others are nulls too
        values = list(compress(values, pc.is_valid(array).to_pylist()))
        array = array.drop_null()
    if is_list(array.type):
        if not _are_arrays_of_one_type(values):
            check_alike(list(chain.from_iterable(values)), pc.list_flatten(array))
    elif pa.types.is_struct(array.type):
        _check_keys(values)
        for number, field in enumerate(array.type.fields):
            check_alike([value.get(field.name) for value in values], pc.struct_field(array, number))
    else:
        types = set(map(type, values))
        _check_kinds(values, types)
        for checked, check in _CHECKS:
            if any(issubclass(one, checked) for one in types):
                check(values)


def _are_arrays_of_one_type(values: Sequence[Any]) -> bool:
    kinds = {value.dtype if isinstance(value, np.ndarray) else None for value in values}
    return len(kinds) == 1 and None not in kinds and np.dtype(object) not in kinds


def _check_keys(values: Iterable[Any]) -> None:
    for key in chain.from_iterable(values):
        if not isinstance(key, str):
            raise ValueError(f"fields are named by str, not {key!r}")  # noqa: TRY004 - so is all that is refused


def _check_kinds(values: Sequence[Any], types: set[type]) -> None:
    kinds = {one: _kind(one) for one in types}
    if len(set(kinds.values())) > 1:
        first = kinds[type(values[0])]
        value = next(value for value in values if kinds[type(value)] != first)
        raise ValueError(f"{value!r} is {kinds[type(value)]}, {values[0]!r} is {first}")


def _kind(one: type) -> str:
    return next((kind for kind, types in _KINDS if issubclass(one, types)), f"of type {one.__name__}")


def _check_zones(values: Sequence[Any]) -> None:
    zoned = getattr(values[0], "tzinfo", None) is not None
    for value in values:
        if (getattr(value, "tzinfo", None) is not None) != zoned:
            has = ("has none", "has a time zone")
            raise ValueError(f"{value!r} {has[not zoned]}, {values[0]!r} {has[zoned]}")


def _check_no_zones(values: Sequence[Any]) -> None:
    for value in values:
        if value.tzinfo is not None:
            raise ValueError(f"{value!r}: a time of day is kept without a time zone")


def _check_no_nanoseconds(values: Sequence[Any]) -> None:
    for value in values:
        if getattr(value, "nanosecond", 0) or getattr(value, "nanoseconds", 0):
            raise ValueError(
                f"{value!r}: of a list, nanoseconds are lost; give an Arrow array or a pandas Series"
            )


_CHECKS: tuple[tuple[type | tuple[type, ...], Callable[[Sequence[Any]], None]], ...] = (
    (dt.datetime, _check_zones),
    (dt.time, _check_no_zones),
    ((dt.datetime, dt.timedelta), _check_no_nanoseconds),
)
