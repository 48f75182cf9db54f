"""What Parquet's statistics say of a column in a row group: its smallest and greatest key, and its nulls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from tiered_index.filters.nodes import Key
from tiered_index.filters.values import family_of


class Bounds(NamedTuple):
    """Of one row group: how many rows, how many of them null, and the bounds of the others, if known."""

    rows: int
    nulls: int
    low: Key | None
    high: Key | None


def group_bounds(metadata: pq.FileMetaData, column: str, kind: pa.DataType) -> Iterator[Bounds | None]:
    """Yield the bounds of a column in each row group; None where the file does not tell.

    Parameters
    ----------
    metadata : pyarrow.parquet.FileMetaData
        The file's.
    column : str
        Its name.
    kind : pyarrow.DataType
        Its type.
    """
    names = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    # a list's path is longer than its name; a struct's field may have the path of another column
    place = names.index(column) if names.count(column) == 1 else None
    for group in range(metadata.num_row_groups):
        chunk = None if place is None else metadata.row_group(group).column(place)
        if chunk is None or not chunk.is_stats_set or not chunk.statistics.has_null_count:
            yield None
            continue
        yield Bounds(chunk.num_values, chunk.statistics.null_count, *_keys(chunk.statistics, kind))


def _keys(statistics: pq.Statistics, kind: pa.DataType) -> tuple[Key | None, Key | None]:
    if statistics.has_min_max:
        if family_of(kind) in ("int", "text"):
            return statistics.min, statistics.max
        # Parquet has no seconds: their statistics are in milliseconds
        if pa.types.is_date32(kind) or (pa.types.is_timestamp(kind) and kind.unit != "s"):
            return statistics.min_raw, statistics.max_raw
    return None, None
