"""Ids: one kind an index, str or int64, as Arrow arrays with a 64-bit lookup key each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from tiered_index.config import IdKind
from tiered_index.errors import DuplicateIdError, IdError
from tiered_index.lazily import pc

_INT64 = np.iinfo(np.int64)

ID_TYPES: dict[IdKind, pa.DataType] = {"str": pa.large_string(), "int64": pa.int64()}

Keys = NDArray[np.uint64]


def id_array(ids: Any, kind: IdKind | None, first_row: int = 0) -> pa.Array:
    """Turn ids into an Arrow array of int64 or large_string.

    Parameters
    ----------
    ids : sequence of str or of int, NumPy array, Arrow array
        One id a row.
    kind : {"str", "int64"} or None
        What the index holds; None while it holds nothing.
    first_row : int
        Added to the rows that errors name.

    Raises
    ------
    IdError
        An id is null, of another type, outside int64, or not valid Unicode.
    """
    array = _as_arrow(ids, first_row)
    if array.null_count:
        raise IdError("ids must not be null", _rows(pc.is_null(array), first_row))
    found = _kind_of(array.type)
    if found is None and len(array):
        raise IdError(f"ids must be str or int64, not {array.type}")
    if kind is not None and found is not None and found != kind and len(array):
        raise IdError(f"the index holds {kind} ids, not {found}; the first given is {array[0].as_py()!r}")
    target = ID_TYPES[found or kind or "str"]
    try:
        return array.cast(target)
    except pa.ArrowInvalid as error:  # uint64 beyond int64
        over = pc.greater(array, pa.scalar(_INT64.max, pa.uint64()))
        raise IdError("ids must fit int64", _rows(over, first_row)) from error


def check_ordered(ids: Any) -> None:
    """Raise IdError if ids have no order in which they could be those of rows; for what adds rows."""
    if isinstance(ids, set | frozenset):
        raise IdError(
            f"ids of rows must be in their order, which a {type(ids).__name__} has not: pass a list"
        )


def kind_of(array: pa.Array) -> IdKind:
    """Return the kind of an array that :func:`id_array` made."""
    return "int64" if pa.types.is_int64(array.type) else "str"


def id_keys(array: pa.Array) -> Keys:
    """Return a uint64 key for each id: an int64's own bits, a string's xxh3 (which may collide)."""
    if pa.types.is_int64(array.type):
        numbers: NDArray[np.int64] = array.to_numpy(zero_copy_only=False)
        return numbers.view(np.uint64)
    digest = xxhash.xxh3_64_intdigest
    return np.fromiter(map(digest, array.cast(pa.large_binary()).to_pylist()), np.uint64, len(array))


def check_distinct(array: pa.Array, keys: Keys, first_row: int = 0) -> None:
    """Raise DuplicateIdError if an id stands twice in the array."""
    order = np.argsort(keys, kind="stable")
    same = np.flatnonzero(keys[order][1:] == keys[order][:-1])
    if not len(same):
        return
    seen: dict[Any, int] = {}
    for row in np.unique(np.concatenate([order[same], order[same + 1]])).tolist():
        value = array[row].as_py()
        if value in seen:
            rows = [first_row + seen[value], first_row + row]
            raise DuplicateIdError(f"id {value!r} stands twice in the batch", rows)
        seen[value] = row


def refuse_known(array: pa.Array, known: NDArray[np.bool_], first_row: int = 0) -> None:
    """Raise DuplicateIdError if any id is known to the index."""
    rows = np.flatnonzero(known)
    if len(rows):
        raise DuplicateIdError(
            f"id {array[int(rows[0])].as_py()!r} is in the index already", (rows + first_row).tolist()
        )


def _as_arrow(ids: Any, first_row: int) -> pa.Array:
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    if isinstance(ids, pa.Array):
        _check_unicode(ids, first_row)
        if not pa.types.is_dictionary(ids.type):
            return ids
        values = ids.dictionary  # nothing can be taken from views
        return (values.cast(pa.string()) if pa.types.is_string_view(values.type) else values).take(
            ids.indices
        )
    if isinstance(ids, str | bytes):
        raise IdError(f"ids must be a sequence of ids, not one {type(ids).__name__}")
    if isinstance(ids, np.ndarray) and ids.ndim != 1:
        raise IdError(f"ids must have one axis, not the shape {ids.shape}")
    if isinstance(ids, np.ndarray) and ids.dtype.kind in "iu":
        return pa.array(ids.astype(ids.dtype.newbyteorder("="), copy=False))
    try:
        values = list(ids)
    except TypeError as error:
        raise IdError(f"ids must be a sequence of ids, not {ids!r}") from error
    _check_objects(values, first_row)
    return pa.array(values)


def _check_objects(values: list[Any], first_row: int) -> None:
    """Arrow would turn True into 1 and report a mixture without its row, so look first."""
    wanted: type | None = None
    for row, value in enumerate(values):
        if value is None:
            raise IdError("ids must not be null", [first_row + row])
        kind = str if isinstance(value, str) else int if isinstance(value, int | np.integer) else None
        if kind is None or isinstance(value, bool):
            raise IdError(f"ids must be str or int64, not {value!r}", [first_row + row])
        if kind is int and not _INT64.min <= value <= _INT64.max:
            raise IdError(f"ids must fit int64, not {value}", [first_row + row])
        if kind is str and not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            raise IdError(f"ids must be valid Unicode, not {value!r}", [first_row + row])
        wanted = wanted or kind
        if kind is not wanted:
            raise IdError(f"ids must be of one kind: {value!r} is no {wanted.__name__}", [first_row + row])


def _check_unicode(array: pa.Array, first_row: int) -> None:
    """Arrow takes a producer's word that its strings are UTF-8."""
    try:
        array.validate(full=True)
    except pa.ArrowInvalid as error:
        for row in range(len(array)):
            try:
                array.slice(row, 1).validate(full=True)
            except pa.ArrowInvalid:
                raise IdError(f"ids must be valid: {error}", [first_row + row]) from error
        raise IdError(f"ids must be valid: {error}") from error


def _kind_of(arrow_type: pa.DataType) -> IdKind | None:
    if pa.types.is_integer(arrow_type):
        return "int64"
    if (
        pa.types.is_string(arrow_type)
        or pa.types.is_large_string(arrow_type)
        or pa.types.is_string_view(arrow_type)
    ):
        return "str"
    return None


def _rows(mask: pa.Array, first_row: int) -> list[int]:
    rows: list[int] = (np.flatnonzero(mask.to_numpy(zero_copy_only=False)) + first_row).tolist()
    return rows
