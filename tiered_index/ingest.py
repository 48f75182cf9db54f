"""Bulk loading: a stream of any length, in the memory of its coarse tier."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from itertools import chain
from time import perf_counter
from typing import Any, get_args

import msgspec
import numpy as np
import pyarrow as pa

from tiered_index.config import Dtype, IndexConfig, Metric, Rotation, in_range, make_config, one_of
from tiered_index.errors import DimensionError, PrefixWarning
from tiered_index.fitness.quick import doubt
from tiered_index.index import Index
from tiered_index.opening import index_exists, open_index
from tiered_index.progress import Progress
from tiered_index.rebuilding import ROTATION_ROWS, check_rotated, fit
from tiered_index.recalibrate import CALIBRATE_SECONDS, check_seconds
from tiered_index.sampling import sample_of
from tiered_index.sources import Columns, Source, SourceBatch, open_source
from tiered_index.validate.batch import Intake, RowBatch
from tiered_index.validate.vectors import Floats

COMMIT_ROWS = 4_194_304
"""Rows a commit, and so a segment: a graph of more would need more memory to build than most machines
spare, and an interrupted ingestion would lose more."""


class IngestReport(msgspec.Struct, frozen=True, kw_only=True):
    """What an ingestion did.

    Attributes
    ----------
    rows : int
        Rows added.
    skipped : int
        Rows passed over because the index held their ids.
    seconds : float
        Wall time.
    doubt : str or None
        What speaks against the prefix, if it was found not to carry; a PrefixWarning says it too.
    """

    rows: int
    skipped: int
    seconds: float
    doubt: str | None = None


def ingest(
    source: Any,
    index: Index | str | os.PathLike[str],
    *,
    id_column: str | None = "id",
    vector_column: str | None = None,
    columns: Sequence[str] | None = None,
    metric: Metric | None = None,
    prefix_dim: int | None = None,
    store_dim: int | None = None,
    dtype: Dtype | None = None,
    tail_sketch: bool | int | None = None,
    rotation: Rotation | None = None,
    skip_existing: bool = False,
    progress: bool | None = None,
    commit_rows: int = COMMIT_ROWS,
    calibrate_seconds: float = CALIBRATE_SECONDS,
    check_prefix: bool = True,
) -> IngestReport:
    """Add the rows of files or streams to an index, creating it if need be.

    Parameters
    ----------
    source : path, array or Arrow stream
        A Parquet file, a folder of them or a glob; a .npy file or 2-D array, whose rows are numbered; a
        RecordBatchReader, a table or anything with ``__arrow_c_stream__``; a ``datasets.Dataset`` or
        ``IterableDataset`` of Hugging Face. Vectors may be lists of
        float16, float32 or float64, of fixed size or not.
    index : Index or path
        Where to.
    id_column : str or None, default "id"
        Column of ids; None numbers the rows from 0.
    vector_column : str, optional
        Column of vectors; by default the only one that holds lists of floats, or the one called
        vector or embedding.
    columns : sequence of str, optional
        Metadata columns; all others by default.
    metric, prefix_dim, store_dim, dtype, tail_sketch : optional
        Settings of a new index, as in :func:`tiered_index.open`. ``store_dim`` keeps only so many leading
        dimensions on disk. ``dtype`` is by default the source's, if that is float16, else float32.
    rotation : {"none", "pca"}, optional
        "pca" turns vectors and queries, before prefixes are cut, to the directions that carry most of the
        new rows: it is fitted to 16,384 of them, which lie evenly among those of files and arrays (their
        vectors are read once more for it), and are the first of a stream. Scores stay those of the vectors
        as they are given. For an index that has rows see :meth:`Index.rebuild_coarse`.
    skip_existing : bool
        Pass over rows whose ids the index holds, or would hold with the open batch of this thread: to go on
        with an interrupted ingestion.
    progress : bool, optional
        Show rows, rate and time left; by default on a terminal only.
    commit_rows : int
        Rows a commit; what is committed survives an interruption.
    calibrate_seconds : float
        About how long plans may be measured when all is in, for searches that ask for a time or a recall;
        0 leaves that to :meth:`Index.calibrate`.
    check_prefix : bool
        Look at a sample, when all is in, whether the prefix carries, and warn (PrefixWarning) if it does
        not; takes about a second, and nothing below 10,000 rows.

    Returns
    -------
    IngestReport
        Rows added and skipped, and the time.

    Raises
    ------
    SourceError
        The source cannot be read; nothing has changed.
    ConfigMismatchError
        The index has other settings.
    InvalidInputError
        A row cannot be taken; it is named, and what was committed before it stays.
    """
    started = perf_counter()
    in_range("commit_rows", commit_rows, 1)
    check_seconds("calibrate_seconds", calibrate_seconds)
    opened = open_source(source, Columns(id_column, vector_column, columns))
    settings = {"metric": metric, "prefix_dim": prefix_dim, "store_dim": store_dim}
    settings["tail_sketch"] = tail_sketch
    if rotation is not None:
        one_of("rotation", rotation, get_args(Rotation))
    if isinstance(index, Index):
        index.config.check_same(dtype=dtype, **settings)
        opened = _matched(opened, index, rotation)
        return _ingest(
            opened, index, skip_existing, progress, commit_rows, calibrate_seconds, check_prefix, started
        )
    new = not index_exists(index)
    if new and dtype is None and opened.half:
        dtype = "float16"
    turned = None
    if new and rotation == "pca":  # before there is an index
        turned, opened = _fitted(opened, make_config(opened.dim, dtype=dtype, **settings))  # type: ignore[arg-type]
    with open_index(index, opened.dim if new else None, dtype=dtype, **settings) as target:  # type: ignore[arg-type]
        if turned is not None:
            target.begin_rotated(turned)
        else:
            opened = _matched(opened, target, rotation)
        return _ingest(
            opened, target, skip_existing, progress, commit_rows, calibrate_seconds, check_prefix, started
        )


def _matched(source: Source, index: Index, rotation: Rotation | None) -> Source:
    """Check a source against an index; give one that has no rows its rotation, if that is asked."""
    config = index.config
    if source.dim != config.dim:
        raise DimensionError(f"the source's vectors have {source.dim} dimensions, the index {config.dim}")
    if rotation == "pca" and not len(index) and config.rotation == "none":
        turned, source = _fitted(source, config)
        index.begin_rotated(turned)
    else:
        config.check_same(rotation=rotation)
    return source


def _fitted(source: Source, config: IndexConfig) -> tuple[Floats, Source]:
    check_rotated(config, config.prefix_dim if source.rows is None else source.rows)
    sample, source = sample_of(source, ROTATION_ROWS, config.store_dim)
    check_rotated(config, len(sample))
    return fit(sample, config), source


def _ingest(
    source: Source,
    index: Index,
    skip_existing: bool,
    progress: bool | None,
    commit_rows: int,
    calibrate_seconds: float,
    check_prefix: bool,
    started: float,
) -> IngestReport:
    shown = Progress(source.rows, progress)
    feed = _Feed(source.batches(), skip_existing, shown)
    added = 0
    while feed.more():
        added += index.write(lambda intake: feed.take(intake, commit_rows), alone=True)
    doubted = finish(index, added, shown, calibrate_seconds, check_prefix)
    if doubted is not None:
        warnings.warn(doubted, PrefixWarning, stacklevel=3)
    return IngestReport(rows=added, skipped=feed.skipped, seconds=perf_counter() - started, doubt=doubted)


def finish(
    index: Index, added: int, shown: Progress, calibrate_seconds: float, check_prefix: bool
) -> str | None:
    """Do what comes after the rows of an ingestion; return what speaks against the prefix."""
    if added and calibrate_seconds:
        shown.note("measuring plans ...")
        index.calibrate_after(calibrate_seconds)
    doubted = doubt(index) if added and check_prefix else None
    shown.finish(added)
    return doubted


class _Feed:
    """Hands a source's batches to one commit after another."""

    def __init__(self, batches: Iterator[SourceBatch], skip_existing: bool, shown: Progress) -> None:
        self._batches = batches
        self._skip_existing = skip_existing
        self._shown = shown
        self._row = 0
        self.skipped = 0

    def more(self) -> bool:
        """Tell whether there is another batch."""
        first = next(self._batches, None)
        if first is not None:
            self._batches = chain([first], self._batches)
        return first is not None

    def take(self, intake: Intake, rows: int) -> Iterator[RowBatch]:
        """Yield checked batches of about `rows` rows in all."""
        taken = 0
        while taken < rows and (batch := next(self._batches, None)) is not None:
            first_row = self._row
            ids = batch.ids
            if ids is None:
                ids = pa.array(np.arange(first_row, first_row + len(batch.vectors)))
            self._row += len(batch.vectors)
            taken += len(batch.vectors)
            checked = intake.batch(ids, batch.vectors, batch.metadata, first_row)
            if self._skip_existing:
                fresh = np.flatnonzero(~intake.known(checked.ids, checked.keys))
                self.skipped += len(checked) - len(fresh)
                checked = checked.take(fresh)
            yield checked
            self._shown.update(self._row)
        self._shown.note(f"{self._row:,} rows read; writing the index ...")
