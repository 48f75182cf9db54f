"""Vectors of a source before it is ingested, for what must be fitted first."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import numpy as np

from tiered_index.sources import Source, SourceBatch
from tiered_index.validate.vectors import Floats, as_matrix


def sample_of(source: Source, rows: int, store_dim: int) -> tuple[Floats, Source]:
    """Return at most so many vectors of a source, and the source to ingest instead of it.

    Of files and arrays they lie evenly among all rows, whose vectors are read once more for it; of a stream
    they are the first, which are kept until they are ingested.

    Raises
    ------
    SourceError, DimensionError, NonFiniteVectorError, VectorRangeError
        With the offending rows.

    Returns
    -------
    ndarray, shape (at most `rows`, store_dim), float32
    Source
    """
    if source.vectors is None or source.rows is None:
        return _first(source, rows, store_dim)
    found: list[Floats] = []
    step, at = max(source.rows / rows, 1.0), 0
    places = np.floor(np.arange(min(rows, source.rows)) * step).astype(np.int64)
    for vectors in source.vectors():
        first, last = np.searchsorted(places, [at, at + len(vectors)])
        checked = as_matrix(vectors, source.dim, at)
        found.append(checked[places[first:last] - at, :store_dim])
        at += len(vectors)
    return np.concatenate(found), source


def _first(source: Source, rows: int, store_dim: int) -> tuple[Floats, Source]:
    batches = source.batches()
    kept: list[SourceBatch] = []
    found: list[Floats] = []
    at = 0
    while at < rows and (batch := next(batches, None)) is not None:
        kept.append(batch)
        found.append(as_matrix(batch.vectors, source.dim, at)[:, :store_dim])
        at += len(batch.vectors)

    def again() -> Iterator[SourceBatch]:
        return chain(kept, batches)

    return np.concatenate(found)[:rows], source._replace(batches=again)
