"""A batch of rows, checked as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tiered_index.config import IdKind, IndexConfig
from tiered_index.errors import IdError
from tiered_index.validate.ids import Keys, check_distinct, check_ordered, id_array, id_keys, kind_of
from tiered_index.validate.metadata import metadata_table
from tiered_index.validate.vectors import Floats, PreparedVectors, as_rows, prepare_vectors

BATCH_ROWS = 8_192
"""Rows that are checked and handed on at a time."""


class RowBatch(NamedTuple):
    """Rows that passed every check; nothing about them can be refused any more but a known id.

    Attributes
    ----------
    ids : pyarrow.Array
        int64 or large_string.
    keys : ndarray, shape (n,), uint64
        The lookup key of each id.
    vectors : PreparedVectors
        Full vectors, prefixes and inverse norms.
    metadata : pyarrow.Table
        The index's metadata columns.
    first_row : int
        Where the batch begins in what the caller gave.
    """

    ids: pa.Array
    keys: Keys
    vectors: PreparedVectors
    metadata: pa.Table
    first_row: int

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: NDArray[np.intp]) -> RowBatch:
        """Return some of the rows."""
        stored, prefixes, norms = self.vectors
        vectors = PreparedVectors(stored[rows], prefixes[rows], None if norms is None else norms[rows])
        some = pa.array(rows)
        return RowBatch(
            self.ids.take(some), self.keys[rows], vectors, self.metadata.take(some), self.first_row
        )


class Intake:
    """Checks the rows of one write; the first rows of an index decide its kind of id and its columns.

    Parameters
    ----------
    config : IndexConfig
        The index's settings.
    id_kind : {"str", "int64"} or None
        Kind of the index's ids; None while it has no rows.
    schema : pyarrow.Schema or None
        The index's metadata columns; None while it has no rows.
    directions : ndarray, shape (prefix_dim, store_dim), float32, or None
        Those of the index's rotation, if it has one.
    known : callable, optional
        Tells which checked ids the index holds, with what its open batch did to it, but without the rows of
        this write.
    """

    def __init__(
        self,
        config: IndexConfig,
        id_kind: IdKind | None,
        schema: pa.Schema | None,
        directions: Floats | None = None,
        known: Callable[[pa.Array, Keys], NDArray[np.bool_]] = lambda _ids, keys: np.zeros(len(keys), bool),
    ) -> None:
        self.config = config
        self._directions = directions
        self.known = known
        self.id_kind = id_kind
        self.schema = schema

    def batches(self, ids: Any, vectors: Any, metadata: Any) -> Iterator[RowBatch]:
        """Check rows and yield them in batches, so that working copies stay small.

        Parameters
        ----------
        ids, vectors, metadata
            As :meth:`tiered_index.Index.add` takes them.

        Raises
        ------
        InvalidInputError
            One of its subclasses, naming the value and the rows.
        """
        check_ordered(ids)
        array = id_array(ids, self.id_kind)
        if not isinstance(vectors, pa.Array | pa.ChunkedArray):
            vectors = as_rows(vectors, self.config.dim)
        if len(array) != len(vectors):
            raise IdError(f"{len(array)} ids for {len(vectors)} vectors")
        check_distinct(array, id_keys(array))
        table = metadata_table(metadata, len(array), self.schema)
        for start in range(0, len(array), BATCH_ROWS):
            stop = start + BATCH_ROWS
            part = table.slice(start, BATCH_ROWS)
            yield self.batch(array.slice(start, BATCH_ROWS), vectors[start:stop], part, start)

    def batch(self, ids: Any, vectors: Any, metadata: Any, first_row: int) -> RowBatch:
        """Check one batch; errors add `first_row` to the rows they name."""
        prepared = prepare_vectors(vectors, self.config, first_row, self._directions)
        array = id_array(ids, self.id_kind, first_row)
        rows = len(prepared.stored)
        if len(array) != rows:
            raise IdError(f"{len(array)} ids for {rows} vectors")
        keys = id_keys(array)
        check_distinct(array, keys, first_row)
        table = metadata_table(metadata, rows, self.schema, first_row)
        if rows:
            self.id_kind, self.schema = kind_of(array), table.schema
        return RowBatch(array, keys, prepared, table, first_row)
