"""Values of a column at some rows, quickly: what grouped search asks for with every call."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tiered_index.errors import FilterError
from tiered_index.storage.segment import Segment
from tiered_index.storage.snapshot import Snapshot

_NULL = -1


class _Encoded(NamedTuple):
    """A column of a segment: each row's place in the values, -1 for null."""

    codes: NDArray[np.int32]
    values: pa.Array


def check_groups(snapshot: Snapshot, column: Any) -> None:
    """Raise FilterError unless rows can be grouped by a column."""
    schema = snapshot.schema
    if not isinstance(column, str) or schema is None or column not in schema.names:
        known = ", ".join(map(repr, schema.names)) if schema is not None else ""
        raise FilterError(f"group_by: no column {column!r}; there are: {known or 'none'}")
    kind = schema.field(column).type
    if not _can_be_encoded(kind):
        raise FilterError(
            f"group_by: {column!r} holds {kind}, which makes no groups: strings, bytes, numbers, booleans, "
            "dates, times and UUIDs do"
        )


@cache
def _can_be_encoded(kind: pa.DataType) -> bool:
    """Return whether Arrow finds equal values of a type."""
    values = _comparable(pa.array([], kind))
    if pa.types.is_nested(values.type):
        return False
    try:
        values.dictionary_encode()
    except pa.ArrowException:
        return False
    return True


def group_values(snapshot: Snapshot, column: str, addresses: NDArray[np.int64]) -> list[Any]:
    """Return a column's values at some rows, in that order; None where they are null."""
    found: list[Any] = [None] * len(addresses)
    for number, places, rows in snapshot.split(addresses):
        segment = snapshot.segments[number].segment
        for place, value in zip(places.tolist(), _values(segment, column, rows), strict=True):
            found[place] = value
    return found


def _values(segment: Segment, column: str, rows: NDArray[np.int64]) -> list[Any]:
    encoded = segment.encoded.get(column)
    if encoded is None:
        encoded = _encode(segment, column)
        size = encoded.codes.nbytes + encoded.values.nbytes
        segment.encoded.put(column, encoded, size)
    codes = encoded.codes[rows]
    values: list[Any] = encoded.values.take(pa.array(codes, mask=codes == _NULL)).to_pylist()
    return values


def _encode(segment: Segment, column: str) -> _Encoded:
    parts = [values for _, values in segment.full.column(column)]
    kind = parts[0].type
    chunks = [_comparable(chunk) for part in parts for chunk in part.chunks]
    whole = pa.chunked_array(chunks, _comparable(pa.array([], kind)).type)
    encoded = whole.combine_chunks().dictionary_encode()
    codes = encoded.indices.fill_null(_NULL).to_numpy(zero_copy_only=False).astype(np.int32)
    values = encoded.dictionary
    if isinstance(kind, pa.BaseExtensionType) and values.type == kind.storage_type:
        values = pa.ExtensionArray.from_storage(kind, values)
    return _Encoded(codes, values)


def _comparable(values: pa.Array) -> pa.Array:
    """Return values in a type of which Arrow finds equal ones, as it does not of all that can be stored."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if isinstance(values, pa.ExtensionArray):
        if values.type == pa.bool8():  # whose True is any number but 0
            return values.storage.cast(pa.bool_())
        values = values.storage
    kind = values.type
    if pa.types.is_decimal32(kind) or pa.types.is_decimal64(kind):
        return values.cast(pa.decimal128(kind.precision, kind.scale))
    return values
