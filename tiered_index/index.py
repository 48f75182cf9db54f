"""Index: the face. It delegates, and decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from time import perf_counter_ns
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tiered_index.ask import ask
from tiered_index.config import Budget, IndexConfig
from tiered_index.explain import Explanation, explain
from tiered_index.planner.model import Calibration
from tiered_index.planning import Planning
from tiered_index.recalibrate import CALIBRATE_KS, CALIBRATE_SECONDS, Recalibrate, check_seconds
from tiered_index.results import SearchResult
from tiered_index.stats import IndexStats, index_stats
from tiered_index.storage.transaction import Transaction
from tiered_index.storage.verify import VerifyReport, verify
from tiered_index.storage.writer import Current, Writer
from tiered_index.validate.batch import Intake, RowBatch
from tiered_index.validate.ids import Keys, id_array, id_keys
from tiered_index.validate.vectors import prepare_queries


class Generation(NamedTuple):
    """A state that is kept: its number, time of commit (ISO 8601, UTC), rows and segments."""

    generation: int
    created: str
    rows: int
    segments: int


class Index:
    """An open index; made by :func:`tiered_index.open`.

    Any number of threads may search it while one writes; writes of several threads take turns. The first
    write takes the writer's lock, which is held until :meth:`close`. After a fork the child can search and
    cannot write.
    """

    def __init__(self, current: Current, writer: Writer) -> None:
        self._current = current
        self._writer = writer
        self._planning = Planning()
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

    def delete(self, ids: Any) -> int:
        """Delete rows by id, durably and all together; ids that are not in the index are passed over.

        Returns
        -------
        int
            How many rows were deleted.
        """

        def change(transaction: Transaction) -> int:
            array = id_array(ids, transaction.intake.id_kind)
            return transaction.delete(array, id_keys(array))

        return self._writer.run(change)

    def write(self, batches: Callable[[Intake], Iterable[RowBatch]], *, replace: bool = False) -> int:
        """Add a stream of checked batches as one commit; what `add` and ingestion are made of.

        Parameters
        ----------
        batches : callable
            Given what checks rows against this index, returns the batches.
        replace : bool
            Whether rows take the place of those that have their ids.

        Returns
        -------
        int
            By how many rows the index grew.
        """

        def change(transaction: Transaction) -> int:
            before = transaction.rows
            transaction.add(batches(transaction.intake), replace=replace)
            return transaction.rows - before

        return self._writer.run(change)

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

    @property
    def budget(self) -> Budget:
        """What searches ask for that say nothing themselves; at first, nothing."""
        return self._planning.budget

    @budget.setter
    def budget(self, budget: Budget | None) -> None:
        self._planning.budget = self._planning.asked(Budget() if budget is None else budget, None)

    @property
    def profiles(self) -> dict[str, Budget]:
        """Budgets by name, for ``search(..., profile=name)``; set as a whole."""
        return dict(self._planning.profiles)

    @profiles.setter
    def profiles(self, profiles: Mapping[str, Budget]) -> None:
        self._planning.profiles = profiles

    def generations(self) -> list[Generation]:
        """Return the states that are kept, oldest first."""
        return [
            Generation(m.generation, m.created, sum(e.live_rows for e in m.segments), len(m.segments))
            for m in self._current.store.kept()
        ]

    def restore(self, generation: int) -> None:
        """Make an earlier state the newest one, as a new generation.

        Raises
        ------
        GenerationNotFoundError
            It is not kept.
        """
        self._writer.restore(generation)

    def verify(self) -> VerifyReport:
        """Compare every byte with its digest, and every row's id, code and norm with its vector."""
        return verify(self._current.store, self._current.get().manifest)

    def find(self, ids: pa.Array, keys: Keys) -> NDArray[np.int64]:
        """Return a number below 0 for each checked id that the index does not hold; for ingestion."""
        return self._current.get().find(ids, keys)

    def get(self, ids: Any, *, include_vectors: bool = False) -> pa.Table:
        """Return rows by id, in the order of `ids`; ids that are not in the index are left out.

        Parameters
        ----------
        ids : sequence of str or of int
            Which rows.
        include_vectors : bool
            Add the column ``vector``, as it is stored.

        Returns
        -------
        pyarrow.Table
            Columns id, the metadata columns and, if asked, vector.
        """
        snapshot = self._current.get()
        array = id_array(ids, snapshot.manifest.id_kind)
        addresses = snapshot.find(array, id_keys(array))
        return snapshot.table(addresses[addresses >= 0], vectors=include_vectors)

    def count(self) -> int:
        """Return the number of rows."""
        return self._current.get().rows

    def __len__(self) -> int:
        return self.count()

    def search(
        self,
        query: Any,
        k: int = 10,
        *,
        latency_budget_ms: float | None = None,
        min_recall: float | None = None,
        budget: Budget | None = None,
        profile: str | None = None,
        strict: bool = False,
        prefix_dim: int | None = None,
        ef: int | None = None,
        candidates: int | None = None,
        exact: bool = False,
    ) -> SearchResult:
        """Find the k rows whose full vectors score highest.

        Parameters
        ----------
        query : array_like, shape (dim,) or (n, dim)
            One query, or several.
        k : int
            Results a query; fewer come back where the index holds fewer rows.
        latency_budget_ms : float, optional
            Wall time of this call, in milliseconds. The plan with the most recall that fits is chosen, and
            what is found by then comes back: see `complete` and `degraded_reason` of the result.
        min_recall : float, optional
            Floor of the mean recall@k. The fastest plan that reaches it is chosen; where none does, every
            vector is scored. With both, the budget rules.
        budget : Budget, optional
            Both of them as one value.
        profile : str, optional
            The budget of this name in :attr:`profiles`. Without any, :attr:`budget` of the index.
        strict : bool
            Raise rather than return an answer that keeps less than was asked.
        prefix_dim : int, optional
            Leading dimensions that find candidates: a multiple of 8 up to the index's. This and the
            following fix the plan; a latency budget then is a deadline only.
        ef : int, optional
            Beam width of the walk through the graph.
        candidates : int, optional
            Rows to rescore by their full vectors.
        exact : bool
            Score every row's full vector instead.

        Returns
        -------
        SearchResult
            ids and scores of shape (k,) for one query, (n, k) for several.

        Raises
        ------
        InvalidInputError
            One of its subclasses, for a query or a number that cannot be used.
        BudgetNotMetError
            With `strict`, if the budget or the floor is not kept.
        IndexClosedError
            After :meth:`close`.
        """
        started_ns = perf_counter_ns()
        snapshot, planning = self._current.get(), self._planning
        asked = planning.asked(budget, profile, latency_budget_ms, min_recall)
        fixed = {"prefix_dim": prefix_dim, "ef": ef, "candidates": candidates, "exact": exact or None}
        return ask(snapshot, planning, query, k, asked, fixed, started_ns, strict=strict)

    def explain(
        self,
        query: Any = None,
        k: int = 10,
        *,
        latency_budget_ms: float | None = None,
        min_recall: float | None = None,
        budget: Budget | None = None,
        profile: str | None = None,
        exact: bool = False,
    ) -> Explanation:
        """Say which plan a search would take, what is predicted of it, and which it beat.

        Parameters
        ----------
        query : array_like, shape (dim,), optional
            Search with it too, and say what that took.
        k, latency_budget_ms, min_recall, budget, profile
            As in :meth:`search`.
        exact : bool
            Compare the answer with the exact one, for its recall; reads every vector.

        Returns
        -------
        Explanation
            ``print`` it, or read its fields.
        """
        asked = self._planning.asked(budget, profile, latency_budget_ms, min_recall)
        return explain(self.search, self._planning, self._current.get(), query, k, asked, exact=exact)

    def stats(self) -> IndexStats:
        """Return counts, and the bytes of each tier in memory and on disk."""
        return index_stats(self._current.get())

    @property
    def config(self) -> IndexConfig:
        """The settings the index was made with."""
        return self._current.get().config

    @property
    def schema(self) -> pa.Schema:
        """The metadata columns; empty before the first rows."""
        schema = self._current.get().schema
        return pa.schema([]) if schema is None else schema

    @property
    def path(self) -> Path:
        """The index folder."""
        return self._current.store.root

    @property
    def closed(self) -> bool:
        """Whether the index was closed."""
        return self._current.closed

    def close(self) -> None:
        """Close the files and let the next writer in; closing again does nothing."""
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
