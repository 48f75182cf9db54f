"""The reading face of an index."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from time import perf_counter_ns
from typing import Any, NamedTuple

import pyarrow as pa

from tiered_index.ask import ask
from tiered_index.config import Budget, IndexConfig, in_range
from tiered_index.encoding import TextConfig
from tiered_index.errors import ParameterError
from tiered_index.explain import Explanation, explain
from tiered_index.grouping import grouped
from tiered_index.planning import Planning
from tiered_index.prepared import PreparedSearches
from tiered_index.results import SearchResult
from tiered_index.stats import IndexStats, index_stats
from tiered_index.storage.current import Current
from tiered_index.storage.linking import Linking
from tiered_index.storage.snapshot import Snapshot
from tiered_index.storage.verify import VerifyReport, verify
from tiered_index.validate.ids import id_array, id_keys
from tiered_index.watch.face import Watchable
from tiered_index.watch.onlooker import check_tag

_MB = 10**6


class Generation(NamedTuple):
    """A state that is kept: its number, time of commit (ISO 8601, UTC), rows and segments."""

    generation: int
    created: str
    rows: int
    segments: int


class Reader(Watchable):
    """What an open index can be asked, by any number of threads; :class:`Index` adds what changes it.

    Each call answers from one generation, whatever is committed meanwhile.
    """

    def __init__(self, current: Current) -> None:
        self._current = current
        self._planning = Planning()
        self._linking = Linking()
        self._prepared = PreparedSearches(self._planning, self._linking)

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
        where: Any = None,
        group_by: str | None = None,
        group_size: int = 1,
        prefix_dim: int | None = None,
        ef: int | None = None,
        candidates: int | None = None,
        exact: bool = False,
        tag: str | None = None,
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
        where : mapping or pyarrow.compute.Expression, optional
            Only rows that match are found, and k of them if there are as many. See
            :mod:`tiered_index.filters`.
        group_by : str, optional
            A metadata column: the best rows of each of k groups come back, and not many rows of one group.
            Rows whose value is null or NaN are a group each. For one query.
        group_size : int
            How many rows of a group.
        prefix_dim : int, optional
            Leading dimensions that find candidates: a multiple of 8 up to the index's. This and the
            following fix the plan; a latency budget then is a deadline only.
        ef : int, optional
            Beam width of the walk through the graph.
        candidates : int, optional
            Rows to rescore by their full vectors. With `group_by`, this and `ef` are raised to the rows that
            it takes to fill the groups.
        exact : bool
            Score every row's full vector instead.
        tag : str, optional
            A kind of query, whose recall :meth:`watch` follows by itself.

        Returns
        -------
        SearchResult
            ids and scores of shape (k,) for one query, (n, k) for several; for groups, up to k times
            `group_size` rows, group after group.

        Raises
        ------
        InvalidInputError
            One of its subclasses, for a query, a number or a filter that cannot be used.
        BudgetNotMetError
            With `strict`, if the budget or the floor is not kept.
        IndexClosedError
            After :meth:`close`.
        """
        started_ns = perf_counter_ns()
        if tag is not None:
            check_tag(tag)
        snapshot, planning, linking = self._current.get(), self._planning, self._linking
        if group_by is None and not exact and not strict:
            called = (k, latency_budget_ms, min_recall, budget, profile, prefix_dim, ef, candidates)
            found = self._prepared.search(snapshot, query, called, started_ns, where)
            if found is not None:
                if (watch := self._watch) is not None:
                    watch.saw(snapshot, found, query, called, tag, where)
                return found
        asked = planning.asked(budget, profile, latency_budget_ms, min_recall)
        fixed = {"prefix_dim": prefix_dim, "ef": ef, "candidates": candidates, "exact": exact or None}

        def answer(count: int, fixed: Mapping[str, Any]) -> SearchResult:
            return ask(
                snapshot,
                planning,
                linking,
                query,
                count,
                asked,
                fixed,
                started_ns,
                strict=strict,
                where=where,
            )

        if group_by is None:
            result = answer(k, fixed)
        else:
            once = asked.latency_ms is not None
            result = grouped(snapshot, answer, k, group_by, group_size, fixed, once=once)
        if (watch := self._watch) is not None:
            called = (k, latency_budget_ms, min_recall, budget, profile, prefix_dim, ef, candidates)
            watch.saw(snapshot, result, query, called, tag, where, group_by)
        return result

    def explain(
        self,
        query: Any = None,
        k: int = 10,
        *,
        latency_budget_ms: float | None = None,
        min_recall: float | None = None,
        budget: Budget | None = None,
        profile: str | None = None,
        where: Any = None,
        exact: bool = False,
    ) -> Explanation:
        """Say which plan a search would take, what is predicted of it, and which it beat.

        Parameters
        ----------
        query : array_like, shape (dim,), optional
            Search with it too, and say what that took.
        k, latency_budget_ms, min_recall, budget, profile, where
            As in :meth:`search`.
        exact : bool
            Compare the answer with the exact one, for its recall; reads every vector.

        Returns
        -------
        Explanation
            ``print`` it, or read its fields.
        """
        asked = self._planning.asked(budget, profile, latency_budget_ms, min_recall)
        snapshot = self._current.get()
        return explain(self.search, self._planning, snapshot, query, k, asked, where, exact=exact)

    def warm(self, where: Any) -> bool:
        """Link the rows that match a filter among themselves now, so that searches among them walk faster.

        Filters that are asked again and again become so by themselves, in the background, once searches
        among their rows have taken as long as linking them does: about a microsecond a row. Links are kept in
        memory, up to :attr:`filter_links_mb`, and until rows are added, deleted or changed.

        Parameters
        ----------
        where : mapping or pyarrow.compute.Expression
            See :mod:`tiered_index.filters`.

        Returns
        -------
        bool
            Whether they are linked. They are not where a walk would not be shorter (few rows match, or nearly
            all), where links would take too much memory, or without Numba.

        Raises
        ------
        FilterError
            It names unknown columns or operators, or values that do not fit.
        """
        snapshot = self._current.get()
        return self._linking.link(snapshot, snapshot.matching(where))

    def get(
        self, ids: Any = None, *, where: Any = None, limit: int | None = None, include_vectors: bool = False
    ) -> pa.Table:
        """Return rows by id, by filter, or both.

        Parameters
        ----------
        ids : sequence of str or of int, optional
            Which rows, in this order; ids that are not in the index are left out. By default all that match
            `where`, in the order in which they are stored.
        where : mapping or pyarrow.compute.Expression, optional
            Only rows that match; ``{}`` matches all. See :mod:`tiered_index.filters`.
        limit : int, optional
            The first so many of them.
        include_vectors : bool
            Add the column ``vector``, as it is stored.

        Returns
        -------
        pyarrow.Table
            Columns id, the metadata columns and, if asked, vector.

        Raises
        ------
        InvalidInputError
            One of its subclasses: neither of them, bad ids, a filter that cannot be asked, or a limit out
            of range.
        """
        if ids is None and where is None:
            raise ParameterError("get takes ids, where= or both; where={} matches all rows")
        if limit is not None:
            limit = in_range("limit", limit, 0)
        snapshot = self._current.get()
        if ids is None:
            addresses = snapshot.matching(where).addresses(limit)
        else:
            array = id_array(ids, snapshot.manifest.id_kind)
            addresses = snapshot.find(array, id_keys(array))
            addresses = addresses[addresses >= 0]
            if where is not None:
                addresses = addresses[snapshot.matching(where).hold(addresses)]
        return snapshot.table(addresses[:limit], vectors=include_vectors)

    def count(self, where: Any = None) -> int:
        """Return the number of rows, or of those that match a filter.

        Parameters
        ----------
        where : mapping or pyarrow.compute.Expression, optional
            See :mod:`tiered_index.filters`.

        Raises
        ------
        FilterError
            It names unknown columns or operators, or values that do not fit.
        """
        snapshot = self._current.get()
        return snapshot.rows if where is None else snapshot.matching(where).count

    def __len__(self) -> int:
        return self.count()

    def snapshot(self) -> Snapshot:
        """Return what is searched now; for measuring it."""
        return self._current.get()

    def generations(self) -> list[Generation]:
        """Return the states that are kept, oldest first."""
        return [
            Generation(m.generation, m.created, sum(e.live_rows for e in m.segments), len(m.segments))
            for m in self._current.store.kept()
        ]

    def verify(self) -> VerifyReport:
        """Compare every byte with its digest, and every row's id, code and norm with its vector."""
        return verify(self._current.store, self._current.get().manifest)

    def stats(self) -> IndexStats:
        """Return counts, and the bytes of each tier in memory and on disk."""
        return index_stats(self._current.get())

    @property
    def config(self) -> IndexConfig:
        """The settings, as of the generation that is searched."""
        return self._current.get().config

    @property
    def text(self) -> TextConfig | None:
        """The encoder whose vectors these are, where that is known; see :class:`tiered_index.TextIndex`."""
        return self._current.get().manifest.text

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

    @property
    def filter_links_mb(self) -> int | None:
        """What links among the rows of filters may take in memory, in MB of 10**6 bytes; see :meth:`warm`.

        None for three eighths of the coarse tier, but at least 67; with 0 there are none.
        """
        limit = self._linking.max_bytes
        return None if limit is None else limit // _MB

    @filter_links_mb.setter
    def filter_links_mb(self, megabytes: int | None) -> None:
        if megabytes is not None:
            megabytes = in_range("filter_links_mb", megabytes, 0) * _MB
        self._linking.allow(self._current.get(), megabytes)

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
