"""TextIndex: an index that is given texts instead of vectors."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from time import perf_counter
from typing import Any, Self

from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from tiered_index.config import Dtype, Metric, in_range, one_of
from tiered_index.encoding import TextConfig
from tiered_index.errors import EncoderMismatchError, IndexNotFoundError, ParameterError, PrefixWarning
from tiered_index.explain import Explanation
from tiered_index.index import Index
from tiered_index.ingest import COMMIT_ROWS, IngestReport, finish
from tiered_index.opening import CoarseMemory, FullReads, create_for_texts, holding, index_exists, open_index
from tiered_index.planner.model import Calibration
from tiered_index.progress import Progress
from tiered_index.recalibrate import CALIBRATE_SECONDS, check_seconds
from tiered_index.results import SearchResult
from tiered_index.sources import Columns, open_source
from tiered_index.storage.garbage import DEFAULT_KEEP_GENERATIONS
from tiered_index.storage.policy import MergePolicy
from tiered_index.storage.writer import Mode
from tiered_index.text.encoder import Encoder, as_encoder, encoder_again
from tiered_index.text.feed import ENCODE_ROWS, Encoding, TextFeed, TextRows
from tiered_index.validate.metadata import RESERVED

DEFAULT_TEXT_COLUMN = "text"


class TextIndex:
    """An index with an encoder in front of it; made by :meth:`open` or :meth:`over`.

    Attributes
    ----------
    index : Index
        The index itself, for everything else: get, delete, count, batch, optimize, ...
    encoder : Encoder
        What makes the vectors.
    text_column : str or None
        The metadata column that keeps the texts.
    """

    def __init__(self, index: Index, encoder: Encoder, config: TextConfig) -> None:
        self.index = index
        self.encoder = encoder
        self.text_column = config.column
        self._encoding = Encoding(encoder, config, index.config.dim)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        encoder: Any = None,
        *,
        text_column: str | UnsetType | None = UNSET,
        metric: Metric | None = None,
        prefix_dim: int | None = None,
        store_dim: int | None = None,
        dtype: Dtype | None = None,
        graph_degree: int | None = None,
        ef_construction: int | None = None,
        tail_sketch: bool | int | None = None,
        mode: Mode = "rw",
        generation: int | None = None,
        keep_generations: int = DEFAULT_KEEP_GENERATIONS,
        merge_policy: MergePolicy | None = None,
        full_reads: FullReads = "mapped",
        coarse_memory: CoarseMemory = "mapped",
    ) -> Self:
        """Open an index for texts, or create it if there is none.

        Parameters
        ----------
        path : path
            The index folder.
        encoder : str, path, SentenceTransformer, callable or Encoder, optional
            A string is the name or folder of a SentenceTransformer. A callable takes a list of texts and
            returns an array. It is kept with the index by name, dimension and prompts, and may be left out
            later, if the name is enough to load it. An index that was made without one takes any whose
            dimension fits, and keeps it with the first texts.
        text_column : str or None, default "text"
            The metadata column that keeps the texts, which results carry; None does not keep them.
        metric, prefix_dim, store_dim, dtype, graph_degree, ef_construction, tail_sketch, mode, generation, \
keep_generations, merge_policy, full_reads, coarse_memory
            As in :func:`tiered_index.open`.

        Raises
        ------
        EncoderMismatchError
            The index's vectors are from another encoder, or of another dimension.
        ParameterError
            No encoder is given, and none can be loaded from what the index keeps; or `text_column` is no name
            that a metadata column may have.
        EncoderError
            The encoder cannot be loaded, or fails.
        MissingDependencyError
            What it needs is not installed.
        ConfigMismatchError
            The index was made with other settings.
        TieredIndexError
            Others as of :func:`tiered_index.open`.
        """
        settings = {
            "metric": metric,
            "prefix_dim": prefix_dim,
            "store_dim": store_dim,
            "dtype": dtype,
            "graph_degree": graph_degree,
            "ef_construction": ef_construction,
            "tail_sketch": tail_sketch,
        }
        _check_column(text_column)
        one_of("mode", mode, ("rw", "r"))
        holding(full_reads, coarse_memory)
        in_range("keep_generations", keep_generations, 1)
        if not index_exists(path):
            if encoder is None or mode == "r" or generation is not None:
                raise IndexNotFoundError(f"{path}: there is no index here; give encoder= to create one")
            encoder = as_encoder(encoder)
            column = DEFAULT_TEXT_COLUMN if text_column is UNSET else text_column
            kept = TextConfig(encoder=encoder.identity(), column=column)
            create_for_texts(path, encoder.dim, kept, **settings)
        index = open_index(
            path,
            mode=mode,
            generation=generation,
            keep_generations=keep_generations,
            merge_policy=merge_policy,
            full_reads=full_reads,
            coarse_memory=coarse_memory,
            **settings,  # type: ignore[arg-type]
        )
        try:
            return cls.over(index, encoder, text_column=text_column)
        except BaseException:
            index.close()
            raise

    @classmethod
    def over(cls, index: Index, encoder: Any = None, *, text_column: str | UnsetType | None = UNSET) -> Self:
        """Put an encoder in front of an open index; parameters and errors are those of :meth:`open`."""
        return cls(index, *_fitting(index, encoder, text_column))

    def add_texts(self, ids: Any, texts: Any, metadata: Any = None, *, progress: bool | None = None) -> None:
        """Encode texts and add them, durably and all together.

        However many they are, a thousand are encoded at a time, and only their vectors are in memory.

        Parameters
        ----------
        ids : sequence of str or of int
            One a text.
        texts : sequence of str
            A list, or a column of Arrow, pandas or NumPy.
        metadata : columns or sequence of mappings, optional
            As :meth:`Index.add` takes it, without the column of the texts.
        progress : bool, optional
            Show rows, rate and time left; by default on a terminal only, and for more than a thousand texts.

        Raises
        ------
        TextError
            A text that is no string; nothing was encoded.
        EncoderError
            The encoder failed, or returned something else than one finite vector a text.
        InvalidInputError
            Another of its subclasses, as of :meth:`Index.add`; the index is as it was.
        EncoderMismatchError
            Meanwhile somebody added texts of another encoder.
        StorageError
            The disk failed; the index is as it was, unless it is a CommitUncertainError.
        """
        self._write(ids, texts, metadata, progress, replace=False)

    def upsert_texts(
        self, ids: Any, texts: Any, metadata: Any = None, *, progress: bool | None = None
    ) -> None:
        """Encode texts and add them, each in the place of the row that has its id, if there is one.

        Parameters and errors are those of :meth:`add_texts`, but for an id that the index holds.
        """
        self._write(ids, texts, metadata, progress, replace=True)

    def search(self, text: Any, k: int = 10, **asked: Any) -> SearchResult:
        """Find the k rows that fit a text best.

        Parameters
        ----------
        text : str or sequence of str
            One query, or several.
        k : int
            Results a query.
        **asked
            All that :meth:`Index.search` takes: where, latency_budget_ms, min_recall, group_by, exact, ...
            A latency budget is that of the search; encoding comes before it.

        Raises
        ------
        TextError
            No text, or something that is no string.
        EncoderError
            The encoder failed, or returned something else than was asked.
        EncoderMismatchError
            Meanwhile somebody added texts of another encoder.
        TieredIndexError
            Others as of :meth:`Index.search`.
        """
        return self.index.search(self.encode_queries(text), k, **asked)

    def encode_queries(self, text: Any) -> NDArray[Any]:
        """Return the vector of a query, shape (dim,), or those of a sequence of them, shape (n, dim).

        Raises
        ------
        TextError, EncoderError, EncoderMismatchError
            As of :meth:`search`.
        """
        if (kept := self.index.text) is not None:  # somebody may have added texts of another one since
            kept.check_same(self._encoding.config)
        return self._encoding.queries(text)

    def explain(self, text: str | None = None, k: int = 10, **asked: Any) -> Explanation:
        """Say which plan a search would take; with a text, search for it too, and say what that took.

        Parameters and errors are those of :meth:`search` and :meth:`Index.explain`.
        """
        return self.index.explain(None if text is None else self.encode_queries(text), k, **asked)

    def calibrate(self, texts: Sequence[str] | None = None, **asked: Any) -> Calibration:
        """Measure what each plan takes and finds, with these queries.

        Parameters
        ----------
        texts : sequence of str, optional
            Real queries; at most 1,000 are used.
        **asked
            All that :meth:`Index.calibrate` takes.
        """
        return self.index.calibrate(None if texts is None else self.encode_queries(texts), **asked)

    def ingest(
        self,
        source: Any,
        *,
        id_column: str | None = "id",
        text_column: str = DEFAULT_TEXT_COLUMN,
        columns: Sequence[str] | None = None,
        skip_existing: bool = False,
        progress: bool | None = None,
        commit_rows: int = COMMIT_ROWS,
        calibrate_seconds: float = CALIBRATE_SECONDS,
        check_prefix: bool = True,
    ) -> IngestReport:
        """Encode and add the texts of a source of any length, in the memory of the coarse tier.

        Parameters
        ----------
        source : path, Arrow stream or data set
            Parquet files, or what else :func:`tiered_index.ingest` takes that has columns.
        text_column : str, default "text"
            The source's column of texts.
        skip_existing : bool
            Pass over rows whose ids the index holds, without encoding them.
        id_column, columns, progress, commit_rows, calibrate_seconds, check_prefix
            As in :func:`tiered_index.ingest`.

        Raises
        ------
        SourceError
            The source cannot be read; nothing has changed.
        TextError, EncoderError, InvalidInputError
            A row cannot be taken; it is named, and what was committed before it stays.
        """
        started = perf_counter()
        in_range("commit_rows", commit_rows, 1)
        check_seconds("calibrate_seconds", calibrate_seconds)
        opened = open_source(source, Columns(id_column, text_column, columns, texts=True))
        shown = Progress(opened.rows, progress)
        feed = TextFeed(self._encoding, opened.batches(), skip_existing, shown)
        added = 0
        while feed.more():
            added += self.index.write(
                lambda intake: feed.take(intake, commit_rows), text=self._encoding.config, alone=True
            )
        doubted = finish(self.index, added, shown, calibrate_seconds, check_prefix)
        if doubted is not None:
            warnings.warn(doubted, PrefixWarning, stacklevel=2)
        return IngestReport(rows=added, skipped=feed.skipped, seconds=perf_counter() - started, doubt=doubted)

    def close(self) -> None:
        """Close the index; closing again does nothing."""
        self.index.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        return f"TextIndex({self.index!r}, encoder={self.encoder.name!r})"

    def _write(self, ids: Any, texts: Any, metadata: Any, progress: bool | None, *, replace: bool) -> None:
        rows = TextRows(self._encoding, ids, texts, metadata)
        shown = Progress(len(rows), False if progress is None and len(rows) <= ENCODE_ROWS else progress)
        rows.begin(shown)
        self.index.write(
            lambda intake: rows.batches(intake, shown, replace=replace),
            replace=replace,
            text=self._encoding.config,
            alone=True,
        )
        shown.finish(len(rows))


def _check_column(column: object) -> None:
    if column is None or column is UNSET:
        return
    if not isinstance(column, str) or not column or column in RESERVED:
        raise ParameterError(f"text_column must be None or a name other than {RESERVED}, not {column!r}")


def _fitting(index: Index, given: Any, text_column: str | UnsetType | None) -> tuple[Encoder, TextConfig]:
    """Return the encoder that is given or kept, and how the index keeps texts; raise if they do not fit."""
    _check_column(text_column)
    kept = index.text
    if given is None and kept is None:
        raise ParameterError(f"{index.path}: the index knows no encoder; pass encoder=")
    encoder = encoder_again(kept.encoder) if given is None and kept else as_encoder(given)
    column: str | None = DEFAULT_TEXT_COLUMN
    if text_column is not UNSET:
        column = text_column
    elif kept is not None:
        column = kept.column
    elif (len(index) or len(index.schema)) and DEFAULT_TEXT_COLUMN not in index.schema.names:
        column = None
    config = TextConfig(encoder=encoder.identity(), column=column)
    if kept is not None:
        kept.check_same(config)
    if encoder.dim != index.config.dim:
        raise EncoderMismatchError(
            f"the index's vectors have {index.config.dim} dimensions, those of {config.encoder} do not"
        )
    return encoder, config
