"""Leaves of filters, looked for in Arrow columns."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tiered_index.errors import FilterError
from tiered_index.filters.nodes import HasElement, HasPart, In, IsNull, Key, Leaf, Matches, Range
from tiered_index.filters.values import key_type
from tiered_index.lazily import pc
from tiered_index.validate.metadata import VECTOR_COLUMN

_PLACE = VECTOR_COLUMN
"""Name of a column of row numbers: no metadata column can have it."""


def columns_of(leaf: Leaf) -> tuple[str, ...]:
    """Return the columns a leaf looks at."""
    return leaf.columns if isinstance(leaf, Matches) else (leaf.column,)


def places(leaf: Leaf, table: pa.Table) -> NDArray[np.int64]:
    """Return the rows of a table for which a leaf holds, ascending.

    Parameters
    ----------
    leaf : Leaf
        From :func:`tiered_index.filters.parse.parse`, with the table's types.
    table : pyarrow.Table
        The columns it looks at, or more.

    Raises
    ------
    FilterError
        An expression that fails on these values.
    """
    if isinstance(leaf, Matches):
        numbered = table.append_column(_PLACE, pa.arange(0, table.num_rows))
        try:
            found = numbered.filter(leaf.expression)[_PLACE]
        except pa.ArrowException as error:
            raise FilterError(f"the expression {leaf.expression} cannot be evaluated: {error}") from error
        return np.sort(np.from_dlpack(found.combine_chunks()))
    column = table[leaf.column]
    if isinstance(leaf, HasElement):
        return _with_element(leaf, column)
    return _true(_mask(leaf, column))


def comparable(column: pa.Array | pa.ChunkedArray) -> Any:
    """Return a column in the type of its keys: dictionaries as their values, times as numbers."""
    kind = key_type(column.type)
    return column if column.type == kind else column.cast(kind)


def elements(column: pa.Array) -> tuple[pa.Array, NDArray[np.int64]]:
    """Return the elements of all lists one after the other, and the row of each."""
    # not list_parent_indices: it counts the values, too, that may be hidden under a null
    lengths = np.from_dlpack(pc.list_value_length(column).fill_null(0).cast(pa.int64())).view(np.int64)
    return pc.list_flatten(column), np.repeat(np.arange(len(column)), lengths)


def _with_element(leaf: HasElement, column: pa.ChunkedArray) -> NDArray[np.int64]:
    inner = IsNull(leaf.column) if leaf.key is None else In(leaf.column, (leaf.key,))
    found, first = [np.empty(0, np.int64)], 0
    for chunk in column.chunks:
        values, rows = elements(chunk)
        found.append(first + np.unique(rows[_true(_mask(inner, values))]))
        first += len(chunk)
    return np.concatenate(found)


def _mask(leaf: Leaf, column: Any) -> Any:
    """Return an Arrow array of whether a leaf holds, which may be null where it does not."""
    if isinstance(leaf, IsNull):
        return pc.is_null(column)
    column = comparable(column)
    if isinstance(leaf, In):
        return _among(leaf.keys, column)
    if isinstance(leaf, HasPart):
        return pc.match_substring(column, leaf.part)
    if not isinstance(leaf, Range):
        raise TypeError(f"{leaf!r} is not of one column")
    masks = []
    if leaf.low is not None:
        compare = pc.greater if leaf.low_open else pc.greater_equal
        masks.append(compare(column, pa.scalar(leaf.low, column.type)))
    if leaf.high is not None:
        compare = pc.less if leaf.high_open else pc.less_equal
        masks.append(compare(column, pa.scalar(leaf.high, column.type)))
    return reduce(pc.and_, masks)


def _among(keys: tuple[Key, ...], column: Any) -> Any:
    if len(keys) == 1:
        return pc.equal(column, pa.scalar(keys[0], column.type))
    if 0.0 in keys and pa.types.is_floating(column.type):
        keys = (*keys, -0.0)  # is_in tells the zeros apart
    return pc.is_in(column, value_set=pa.array(keys, column.type))


def _true(mask: Any) -> NDArray[np.int64]:
    return np.from_dlpack(pc.indices_nonzero(mask)).view(np.int64)  # to_numpy would import pandas, in 0.1 s
