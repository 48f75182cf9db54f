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
    if pa.types.is_nested(kind) or not _can_be_encoded(kind):
        raise FilterError(f"group_by: {column!r} holds {kind}, which makes no groups")


@cache
def _can_be_encoded(kind: pa.DataType) -> bool:
    """Return whether Arrow finds equal values of a type: not of UUIDs, JSON and short decimals, so far."""
    try:
        pa.array([], kind).dictionary_encode()
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
    whole = pa.chunked_array([chunk for part in parts for chunk in part.chunks], parts[0].type)
    if pa.types.is_dictionary(whole.type):
        whole = whole.cast(whole.type.value_type)
    encoded = whole.combine_chunks().dictionary_encode()
    codes = encoded.indices.fill_null(_NULL).to_numpy(zero_copy_only=False).astype(np.int32)
    return _Encoded(codes, encoded.dictionary)
