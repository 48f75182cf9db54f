"""Texts on their way into an index: checked, then encoded, a part at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tiered_index.encoding import TextConfig
from tiered_index.errors import EncoderError, IdError, MetadataError, TextError
from tiered_index.progress import Progress
from tiered_index.sources import SourceBatch
from tiered_index.text.encoder import Encoder, encode, text_array
from tiered_index.validate.batch import Intake, RowBatch
from tiered_index.validate.ids import check_distinct, check_ordered, id_array, id_keys, refuse_known
from tiered_index.validate.metadata import metadata_table

ENCODE_ROWS = 1_024
"""Texts that are encoded at a time: the vectors of these are in memory, not those of the whole call."""


class Encoding(NamedTuple):
    """An encoder, and how an index keeps what comes of it."""

    encoder: Encoder
    config: TextConfig
    dim: int

    def documents(self, texts: pa.Array, first_row: int) -> NDArray[Any]:
        """Return the vectors of documents."""
        return encode(self.encoder, texts.to_pylist(), self.dim, first_row=first_row)

    def queries(self, given: Any) -> NDArray[Any]:
        """Return the vector of one text, shape (dim,), or those of several, shape (n, dim).

        Raises
        ------
        TextError
            There is none, or one that is no string.
        EncoderError
            The encoder failed, or returned something else than was asked.
        """
        if isinstance(given, str):
            vector: NDArray[Any] = self.queries([given])[0]
            return vector
        texts = text_array(given)
        if not len(texts):
            raise TextError("there is no text to search for: the list is empty")
        return encode(self.encoder, texts.to_pylist(), self.dim, queries=True)


class TextRows:
    """The rows of one call that adds texts.

    Parameters
    ----------
    encoding : Encoding
        Makes the vectors.
    ids, texts, metadata
        As :meth:`tiered_index.TextIndex.add_texts` takes them.

    Raises
    ------
    InvalidInputError
        One of its subclasses, naming value and rows; nothing was encoded.
    """

    def __init__(self, encoding: Encoding, ids: Any, texts: Any, metadata: Any) -> None:
        self._encoding = encoding
        self._texts = text_array(texts)
        check_ordered(ids)
        self._ids = id_array(ids, None)
        if len(self._ids) != len(self._texts):
            raise IdError(f"{len(self._ids)} ids for {len(self._texts)} texts")
        self._keys = id_keys(self._ids)
        check_distinct(self._ids, self._keys)
        self._metadata = metadata
        _check_free(metadata, encoding.config.column)
        self._first: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self._texts)

    def begin(self, shown: Progress) -> None:
        """Encode the first part, without the writer's lock: threads that add a few encode at the same time.

        Raises
        ------
        EncoderError
            The encoder failed, or returned something else than was asked.
        """
        if len(self):
            self._first = self._encoding.documents(self._texts[:ENCODE_ROWS], 0)
            shown.update(len(self._first))

    def batches(self, intake: Intake, shown: Progress, *, replace: bool) -> Iterator[RowBatch]:
        """Yield checked rows; what can be refused without their vectors is refused before there are any."""
        if not replace:
            refuse_known(self._ids, intake.known(self._ids, self._keys))
        column = self._encoding.config.column
        others = metadata_table(self._metadata, len(self), _without(intake.schema, column))
        for start in range(0, len(self), ENCODE_ROWS):
            texts = self._texts[start : start + ENCODE_ROWS]
            vectors = self._encoding.documents(texts, start) if start else self._first
            metadata = _with_texts(others.slice(start, ENCODE_ROWS), column, texts)
            yield intake.batch(self._ids[start : start + ENCODE_ROWS], vectors, metadata, start)
            shown.update(start + len(texts))


class TextFeed:
    """Hands the texts of a source to one commit after another.

    Parameters
    ----------
    encoding : Encoding
        Makes the vectors.
    batches : iterator of SourceBatch
        With texts in the place of vectors.
    skip_existing : bool
        Pass over rows whose ids the index holds, and do not encode them.
    shown : Progress
        Told how far it is.
    """

    def __init__(
        self, encoding: Encoding, batches: Iterator[SourceBatch], skip_existing: bool, shown: Progress
    ) -> None:
        self._encoding = encoding
        self._parts = (part for batch in batches for part in _parts(batch))
        self._next = next(self._parts, None)
        self._skip_existing = skip_existing
        self._shown = shown
        self._row = 0
        self.skipped = 0

    def more(self) -> bool:
        """Tell whether there is another part."""
        return self._next is not None

    def take(self, intake: Intake, rows: int) -> Iterator[RowBatch]:
        """Yield checked rows, about `rows` in all."""
        taken = 0
        while taken < rows and (part := self._next) is not None:
            self._next = next(self._parts, None)
            first_row = self._row
            texts = text_array(part.vectors, first_row)
            self._row += len(texts)
            taken += len(texts)
            if len(texts):
                yield self._checked(intake, part, texts, first_row)
            self._shown.update(self._row)
        self._shown.note(f"{self._row:,} rows read; writing the index ...")

    def _checked(self, intake: Intake, part: SourceBatch, texts: pa.Array, first_row: int) -> RowBatch:
        numbers = pa.array(np.arange(first_row, first_row + len(texts)))
        ids = id_array(numbers if part.ids is None else part.ids, intake.id_kind, first_row)
        column = self._encoding.config.column
        _check_free(part.metadata, column)
        metadata = _with_texts(
            metadata_table(part.metadata, len(texts), _without(intake.schema, column), first_row),
            column,
            texts,
        )
        fresh = np.ones(len(texts), bool)
        if self._skip_existing:
            fresh = ~intake.known(ids, id_keys(ids))
        # rows that are passed over get a stand-in, so that the others keep their numbers in errors
        vectors = np.ones((len(texts), self._encoding.dim), np.float32)
        if fresh.all():
            vectors = self._encoding.documents(texts, first_row)
        elif fresh.any():
            vectors[fresh] = self._fresh(texts, np.flatnonzero(fresh), first_row)
        self.skipped += int((~fresh).sum())
        checked = intake.batch(ids, vectors, metadata, first_row)
        return checked if fresh.all() else checked.take(np.flatnonzero(fresh))

    def _fresh(self, texts: pa.Array, places: NDArray[np.int64], first_row: int) -> NDArray[Any]:
        """Encode some of the texts; errors name their rows in the source."""
        try:
            return self._encoding.documents(texts.take(pa.array(places)), 0)
        except EncoderError as error:
            raise EncoderError(error.message, [first_row + int(places[row]) for row in error.rows]) from error


def _parts(batch: SourceBatch) -> Iterator[SourceBatch]:
    for start in range(0, len(batch.vectors), ENCODE_ROWS):
        yield SourceBatch(
            None if batch.ids is None else batch.ids.slice(start, ENCODE_ROWS),
            batch.vectors.slice(start, ENCODE_ROWS),
            None if batch.metadata is None else batch.metadata.slice(start, ENCODE_ROWS),
        )


def _with_texts(others: pa.Table, column: str | None, texts: pa.Array) -> pa.Table:
    columns = dict(zip(others.column_names, others.columns, strict=True))
    return pa.table(columns if column is None else {**columns, column: texts.cast(pa.string())})


def _without(schema: pa.Schema | None, column: str | None) -> pa.Schema | None:
    if schema is None or column is None or column not in schema.names:
        return schema
    return schema.remove(schema.get_field_index(column))


def _check_free(metadata: Any, column: str | None) -> None:
    """Raise if metadata has the column of the texts."""
    if isinstance(metadata, Mapping):
        names = set(metadata)
    elif isinstance(metadata, Sequence):
        names = {name for values in metadata if isinstance(values, Mapping) for name in values}
    elif isinstance(metadata, pa.Table | pa.RecordBatch):
        names = set(metadata.schema.names)
    else:
        names = set(getattr(metadata, "columns", ()))
    if column is not None and column in names:
        raise MetadataError(
            f"metadata has a column {column!r}, where the index keeps the texts: leave it out, or open the "
            "index with another text_column"
        )
