"""What a search returns: the hits, the plan, and what it took."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tiered_index.planner.plan import Plan
from tiered_index.storage.snapshot import Snapshot


class SearchStats(msgspec.Struct, frozen=True, kw_only=True):
    """What a search took; for a batch of queries, in all.

    Attributes
    ----------
    total_ms : float
        Wall time of the call, in milliseconds.
    coarse_ms, rescore_ms : float
        Of it, finding candidates by prefix, and scoring full vectors.
    queries : int
        How many queries were asked.
    parts_walked, parts_scanned : int
        Graphs that were walked, and sets of prefixes that were all scored; small segments count as one.
    rows_read, bytes_read : int
        Full vectors that were read, and their bytes.
    cold_rows : int
        Of them, rows that had to be waited for.
    distances : int
        Prefixes that were scored; 0 where FAISS walked, which does not count them.
    """

    total_ms: float
    coarse_ms: float
    rescore_ms: float
    queries: int
    parts_walked: int
    parts_scanned: int
    rows_read: int
    bytes_read: int
    cold_rows: int = 0
    distances: int = 0

    def added(self, later: SearchStats) -> SearchStats:
        """Return both together, of a search in two attempts; `later` has its time from the beginning."""
        names = ("coarse_ms", "rescore_ms", "rows_read", "bytes_read", "cold_rows", "distances")
        return msgspec.structs.replace(
            later, **{name: getattr(self, name) + getattr(later, name) for name in names}
        )


class Hits(NamedTuple):
    """What the tiers found: addresses in a snapshot, shape (n, k), int64, and scores, float32.

    `late`: the deadline came first. `margin`: standard deviations between the k-th best score and what was
    rescored last. `missed`: how many of the best k are expected among the candidates that were not rescored,
    where the plan asks for that. `nearness`: the prefix score of one of the best that a walk among the rows
    of a filter found, which tells whether another follows; inf where that was not asked. Both are one number
    or one a query. `parts`: where queries went different ways, how many of them went each, and what they
    found.
    """

    addresses: NDArray[np.int64]
    scores: NDArray[np.float32]
    plan: Plan
    stats: SearchStats
    late: bool = False
    margin: float = 0.0
    missed: float | NDArray[np.float64] = 0.0
    nearness: float | NDArray[np.float64] = math.inf
    parts: tuple[tuple[int, Hits], ...] = ()

    def of(self, asked: NDArray[np.bool_]) -> Hits:
        """Return what some of the queries found."""
        missed, nearness = (np.broadcast_to(told, len(asked))[asked] for told in (self.missed, self.nearness))
        addresses, scores = self.addresses[asked], self.scores[asked]
        return self._replace(addresses=addresses, scores=scores, missed=missed, nearness=nearness)


class Became(Protocol):
    """What became of a search, beside what it found; see :class:`SearchResult`."""

    @property
    def stats(self) -> SearchStats: ...  # noqa: D102
    @property
    def complete(self) -> bool: ...  # noqa: D102
    @property
    def degraded_reason(self) -> str | None: ...  # noqa: D102
    @property
    def estimated_recall(self) -> float | None: ...  # noqa: D102


class SearchResult:
    """The hits of a search, best first.

    Attributes
    ----------
    ids : ndarray, shape (k,) or (n, k)
        int64, or str in an object array. There are fewer than k where the index holds fewer rows.
    scores : ndarray of float32, the same shape
        Cosines or inner products of the full vectors; higher is better.
    plan : Plan
        What was done.
    stats : SearchStats
        What it took.
    complete : bool
        Whether all of the plan was done before the deadline.
    degraded_reason : str or None
        What was asked and could not be kept.
    estimated_recall : float or None
        Mean recall@k of such answers, as calibration saw it; None before :meth:`Index.calibrate`, where the
        deadline ended a walk, and with a filter where nothing was measured that is like it.
    generation : int
        The state of the index that answered.
    groups : list or None
        With ``group_by``, each hit's value of that column.
    """

    def __init__(
        self,
        ids: NDArray[Any],
        scores: NDArray[np.float32],
        addresses: NDArray[np.int64],
        plan: Plan,
        snapshot: Snapshot,
        outcome: Became,
    ) -> None:
        self.ids = ids
        self.scores = scores
        self._addresses = addresses
        self.plan = plan
        self._snapshot = snapshot
        self._outcome = outcome
        self._metadata: pa.Table | None = None
        self._fewer: str | None = None
        self.groups: list[Any] | None = None

    @property
    def stats(self) -> SearchStats:
        """What it took."""
        return self._outcome.stats

    @property
    def complete(self) -> bool:
        """Whether all of the plan was done before the deadline."""
        return self._outcome.complete

    @property
    def degraded_reason(self) -> str | None:
        """What was asked and could not be kept."""
        reasons = (self._outcome.degraded_reason, self._fewer)
        return "; ".join(reason for reason in reasons if reason is not None) or None

    @property
    def estimated_recall(self) -> float | None:
        """Mean recall@k of such answers, as calibration saw it."""
        return self._outcome.estimated_recall

    @property
    def generation(self) -> int:
        """The state of the index that answered."""
        return self._snapshot.manifest.generation

    def keep(self, places: NDArray[np.int64], fewer: str | None = None) -> None:
        """Keep these hits of a single query, in this order; `fewer` says why they are less than was asked."""
        self._fewer = fewer
        self._addresses = self._addresses[places]
        self.ids, self.scores, self._metadata = self.ids[places], self.scores[places], None

    @property
    def addresses(self) -> NDArray[np.int64]:
        """Where the hits of all queries are in the snapshot, one after the other."""
        return self._addresses.reshape(-1)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return (
            f"SearchResult({'x'.join(map(str, self.ids.shape))} hits, {self.plan.strategy}, "
            f"{self.stats.total_ms:.3f} ms)"
        )

    @property
    def metadata(self) -> pa.Table:
        """The hits' metadata columns, one row a hit, query after query.

        Read from disk when first asked for; close the index after that, not before.
        """
        if self._metadata is None:  # no cached_property: its lock, held during a fork, would stay held
            table = self._snapshot.table(self._addresses.reshape(-1), vectors=False)
            self._metadata = table.drop_columns("id")
        return self._metadata

    def to_arrow(self) -> pa.Table:
        """Return one row a hit: query (for a batch of queries), rank, id, score, metadata columns.

        A metadata column that is named as one of those before it is called ``metadata.score``, and so on.
        """
        count, k = self._addresses.shape if self._addresses.ndim == 2 else (1, len(self._addresses))
        columns: dict[str, Any] = {}
        if self._addresses.ndim == 2:
            columns["query"] = pa.array(np.repeat(np.arange(count), k))
        columns["rank"] = pa.array(np.tile(np.arange(1, k + 1), count))
        kind = pa.string() if self._snapshot.manifest.id_kind == "str" else pa.int64()
        columns["id"] = pa.array(self.ids.reshape(-1), kind)
        columns["score"] = pa.array(self.scores.reshape(-1))
        own = set(columns)
        for name in self.metadata.column_names:
            columns[f"metadata.{name}" if name in own else name] = self.metadata[name]
        return pa.table(columns)

    def to_pandas(self) -> Any:
        """Return :meth:`to_arrow` as a pandas DataFrame; needs pandas."""
        return self.to_arrow().to_pandas()
