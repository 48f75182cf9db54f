"""Index: the face. It delegates, and decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tiered_index.config import in_range
from tiered_index.encoding import TextConfig
from tiered_index.errors import ParameterError
from tiered_index.planner.model import Calibration
from tiered_index.reader import Reader
from tiered_index.rebuilding import Turn, decide, rotated
from tiered_index.recalibrate import CALIBRATE_KS, CALIBRATE_SECONDS, Recalibrate, check_seconds
from tiered_index.storage.current import Current
from tiered_index.storage.rebuild import Wanted
from tiered_index.storage.transaction import Transaction
from tiered_index.storage.writer import Writer
from tiered_index.validate.batch import Intake, RowBatch
from tiered_index.validate.ids import id_array, id_keys
from tiered_index.validate.vectors import prepare_queries


class Index(Reader):
    """An open index; made by :func:`tiered_index.open`.

    Any number of threads may search it while one writes; writes of several threads take turns. The first
    write takes the writer's lock, which is held until :meth:`close`. After a fork the child can search and
    cannot write.
    """

    def __init__(self, current: Current, writer: Writer) -> None:
        super().__init__(current)
        self._writer = writer
        self._calibrating = Recalibrate(current, self._planning, writer.may_write)

    def add(self, ids: Any, vectors: Any, metadata: Any = None) -> None:
        """Add rows, durably and all together.

        Parameters
        ----------
        ids : sequence of str or of int
            One kind an index; the first rows decide which.
        vectors : array_like, shape (n, dim)
            NumPy, nested sequences, Arrow lists, or anything with ``__array__``.
        metadata : columns or sequence of mappings, optional
            Table, RecordBatch, DataFrame, mapping of columns, or one mapping a row. The first rows decide
            the columns and their types.

        Raises
        ------
        InvalidInputError
            One of its subclasses, naming value and rows; the index is as it was.
        IndexLockedError
            Another process is writing.
        StorageError
            The disk failed; the index is as it was, unless it is a CommitUncertainError.
        """
        self.write(lambda intake: intake.batches(ids, vectors, metadata))

    def upsert(self, ids: Any, vectors: Any, metadata: Any = None) -> None:
        """Add rows, each in the place of the one that has its id, if there is one.

        Parameters and errors are those of :meth:`add`, but for an id that the index holds.
        """
        self.write(lambda intake: intake.batches(ids, vectors, metadata), replace=True)

    def delete(self, ids: Any = None, *, where: Any = None) -> int:
        """Delete rows by id or by filter, durably and all together.

        Parameters
        ----------
        ids : sequence of str or of int, optional
            Which rows; ids that are not in the index are passed over.
        where : mapping or pyarrow.compute.Expression, optional
            Instead: all rows that match. See :mod:`tiered_index.filters`. In a batch, rows that were added
            before are among them.

        Returns
        -------
        int
            How many rows were deleted.

        Raises
        ------
        InvalidInputError
            One of its subclasses: neither or both of them, bad ids, or a filter that cannot be asked.
        """
        if (ids is None) == (where is None):
            raise ParameterError("delete takes either ids or where=")

        def change(transaction: Transaction) -> int:
            if where is not None:
                return transaction.delete_where(where)
            array = id_array(ids, transaction.intake.id_kind)
            return transaction.delete(array, id_keys(array))

        return self._writer.run(change)

    def write(
        self,
        batches: Callable[[Intake], Iterable[RowBatch]],
        *,
        replace: bool = False,
        text: TextConfig | None = None,
        alone: bool = False,
    ) -> int:
        """Add a stream of checked batches as one commit; what `add` and ingestion are made of.

        Parameters
        ----------
        batches : callable
            Given what checks rows against this index, returns the batches.
        replace : bool
            Whether rows take the place of those that have their ids.
        text : TextConfig, optional
            The encoder that the rows are from, which the index keeps.
        alone : bool
            Make it in this thread and a commit of its own, where `batches` runs code of the caller's, or goes
            on where it ended, so that it cannot be asked twice for the same rows. Else another thread that
            writes at the same time may do it for both.

        Returns
        -------
        int
            By how many rows the index grew.
        """

        def change(transaction: Transaction) -> int:
            before = transaction.rows
            transaction.add(batches(transaction.intake), replace=replace, text=text)
            return transaction.rows - before

        return self._writer.run(change, alone=alone)

    def batch(self) -> AbstractContextManager[None]:
        """Make all writes inside one commit: at the end, or not at all if an exception leaves the block.

        Searches see none of it before. A write that raises inside, and is caught there, leaves no trace.
        """
        return self._writer.batch()

    def optimize(self, *, calibrate_seconds: float = CALIBRATE_SECONDS) -> None:
        """Merge all segments into one and drop deleted rows, while searches and writes go on.

        Also removes generations that are not kept, and files that no generation names. Where plans were
        measured before, they are measured again, with the same queries.

        Parameters
        ----------
        calibrate_seconds : float
            About how long measuring may take; 0 keeps what was measured.
        """
        check_seconds("calibrate_seconds", calibrate_seconds)
        self._writer.optimize()
        if calibrate_seconds and self._planning.chooser is not None:
            self._calibrating.again(calibrate_seconds)

    def rebuild_coarse(
        self,
        prefix_dim: int | None = None,
        *,
        graph_degree: int | None = None,
        ef_construction: int | None = None,
        rotation: Turn | None = "keep",
        tail_sketch: bool | int | None = None,
        calibrate_seconds: float = CALIBRATE_SECONDS,
    ) -> None:
        """Make the coarse tier anew from the stored vectors, while searches and writes go on.

        Only what is given changes; a graph of an earlier version, if it is made anew, also gets codes of
        half the bytes. Full vectors, metadata and their files stay as they are: each segment gets a new file
        of codes and graph beside the old one, which takes the memory and the room of that file, one segment
        at a time, and all become one generation. Earlier generations keep their coarse tiers, and
        :meth:`restore` brings them back. Rows that are added meanwhile are rebuilt last, while other writes
        wait. Later writes use the new settings, as :attr:`config` tells them.

        Where plans were measured before, they are measured again, with the same queries; until that is
        done, searches are answered as if nothing had been measured. Generations that are not kept go.

        Parameters
        ----------
        prefix_dim : int, optional
            Leading dimensions held in memory; a multiple of 8, or all.
        graph_degree, ef_construction : int, optional
            Of the graphs, as :func:`tiered_index.open` takes them.
        rotation : {"keep", "none", "pca"} or None
            "pca" fits a rotation (uncentred PCA) to at most 16,384 of the stored vectors, under cosine to
            their directions, also where there is one already. Prefixes of rows and queries are cut after
            it; scores are those of the vectors as they were given. None and "none" remove it.
        tail_sketch : bool or {1, 2, 4}, optional
            As :func:`tiered_index.open` takes it; False drops the sketches. If nothing else changes, codes
            and graphs stay as they are.
        calibrate_seconds : float
            About how long measuring may take; 0 leaves it to :meth:`calibrate`.

        Raises
        ------
        ParameterError
            Nothing is given, a setting is out of range, or there are fewer rows than `prefix_dim` to fit a
            rotation to; nothing has changed, as with each of these errors but the last.
        ZeroVectorError
            A row's new prefix would be zero, under cosine and without a rotation; its id is named.
        CorruptIndexError
            Vectors are not those that were written.
        StorageError
            The disk failed, or is full.
        CommitUncertainError
            The last step failed: it may have happened.
        """
        check_seconds("calibrate_seconds", calibrate_seconds)
        settings = {
            "prefix_dim": prefix_dim,
            "graph_degree": graph_degree,
            "ef_construction": ef_construction,
            "tail_sketch": tail_sketch,
        }
        rebuilt = self._writer.rebuild(decide(settings, rotation))
        if rebuilt and calibrate_seconds and self._planning.chooser is not None:
            self._calibrating.again(calibrate_seconds)

    def begin_rotated(self, rotation: NDArray[np.float32]) -> None:
        """Give an index without rows a rotation; what ingestion with one begins with."""
        self._writer.rebuild(lambda snapshot: Wanted(rotated(snapshot.config), rotation))

    def refresh(self) -> bool:
        """Move to the newest generation; return whether there was a newer one."""
        moved = self._current.refresh()
        self._calibrating.load()
        return moved

    def calibrate(
        self,
        queries: Any = None,
        k: Sequence[int] | int = CALIBRATE_KS,
        *,
        seconds: float | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> Calibration:
        """Measure what each plan takes and finds, on this machine, so that searches can ask for either.

        Parameters
        ----------
        queries : array_like, shape (n, dim), optional
            Real ones; at most 1,000 are used. By default those that live searches asked, if there were
            enough, else stored vectors, which are easier: predictions then allow for more misses.
        k : sequence of int
            For which recall@k is measured; between them it is interpolated.
        seconds : float, optional
            About how long it may take; the fewer seconds, the fewer queries.
        progress : callable
            Told, in a few words, what is being measured.

        Returns
        -------
        Calibration
            What was measured; it is kept with the index, unless that was opened to read.

        Raises
        ------
        InvalidInputError
            One of its subclasses, for queries or numbers that cannot be used.
        """
        given = None if queries is None else prepare_queries(queries, self.config)[0]
        return self._calibrating.calibrate(given, k, seconds, progress)

    def calibrate_after(self, seconds: float) -> None:
        """Measure plans of a grown index, within about so many seconds; what ingestion ends with."""
        self._calibrating.after_ingest(seconds)

    def known_queries(self) -> NDArray[np.float32] | None:
        """Return queries that were really asked, shape (n, store_dim); None if too few are known."""
        return self._calibrating.known_queries()

    def restore(self, generation: int) -> None:
        """Make an earlier state the newest one, as a new generation.

        The encoder of an index of texts stays the one that the newest state has.

        Raises
        ------
        GenerationNotFoundError
            It is not kept.
        ParameterError
            It is no whole number above 0.
        """
        self._writer.restore(in_range("generation", generation, 1))

    def close(self) -> None:
        """Close the files and let the next writer in; closing again does nothing.

        Searches of other threads that are under way end as they would, or with an IndexClosedError.

        Raises
        ------
        ParameterError
            In a batch of this thread.
        """
        self._writer.check_may_close()
        self._stop_watching()
        self._linking.close()
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if self.closed:
            return f"Index({str(self.path)!r}, closed)"
        config = self.config
        return (
            f"Index({str(self.path)!r}, rows={len(self)}, dim={config.dim}, "
            f"prefix_dim={config.prefix_dim}, metric={config.metric!r})"
        )
