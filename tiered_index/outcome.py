"""What became of a search, beside what it found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tiered_index.decision import Decision
from tiered_index.planner import filtered as filtering
from tiered_index.planner.choose import Chooser
from tiered_index.results import Hits, SearchStats


class Outcome:
    """What became of a search; worked out when it is first asked for.

    Parameters
    ----------
    decision : Decision
        How it was to be done.
    chooser : Chooser or None
        What expects recall; None without a calibration.
    k : int
        Results a query.
    hits : Hits or callable
        What was found, or what returns it when it is first asked for.
    total_ms : float
        What the call took.
    """

    __slots__ = ("_chooser", "_decision", "_drifted", "_hits", "_k", "_total_ms")

    def __init__(
        self,
        decision: Decision,
        chooser: Chooser | None,
        k: int,
        hits: Hits | Callable[[], Hits],
        total_ms: float,
    ) -> None:
        self._decision = decision
        self._chooser = chooser
        self._drifted = chooser is not None and chooser.drift.drifted
        self._k = k
        self._hits = hits
        self._total_ms = total_ms

    @property
    def hits(self) -> Hits:
        """What was found."""
        hits = self._hits
        if not isinstance(hits, Hits):  # two threads may both work it out
            hits = self._hits = hits()
        return hits

    @property
    def stats(self) -> SearchStats:
        """What it took."""
        return self.hits.stats

    @property
    def complete(self) -> bool:
        """Whether the deadline came after all that was planned."""
        return not self.hits.late

    @property
    def degraded_reason(self) -> str | None:
        """What was asked and could not be kept."""
        decision, hits = self._decision, self.hits
        reasons = [] if decision.concern is None else [decision.concern]
        if hits.late:
            reasons.insert(0, f"the deadline came after {hits.stats.rows_read} rows were rescored")
        elif decision.budget.latency_ms is not None and self._total_ms > decision.budget.latency_ms:
            reasons.insert(0, f"took {self._total_ms:.2f} ms")
        return "; ".join(reasons) or None

    @property
    def estimated_recall(self) -> float | None:
        """The recall to expect of such an answer; None where nothing is known."""
        return self._expected(self.hits)

    def _expected(self, hits: Hits) -> float | None:
        if hits.parts:
            counts, expected = zip(
                *((count, self._expected(part)) for count, part in hits.parts), strict=True
            )
            return None if None in expected else float(np.average(expected, weights=counts))
        decision = self._decision
        if hits.plan.strategy == "exact":
            return 1.0
        counted = decision.plan.misses > 0.0 or decision.plan.candidates >= (decision.matches or 0)
        if decision.matches is not None and hits.plan.strategy == "scan" and counted and not hits.late:
            # every matching prefix was scored; of the candidates that were not rescored these are missed
            missed = filtering.MISSES_SEEN * float(np.mean(hits.missed))
            return 1.0 - min(missed / max(min(self._k, decision.matches), 1), 1.0)
        if decision.matches is not None and hits.plan.strategy == "graph" and decision.among is not None:
            known, scope = decision.among, (decision.rows, decision.matches)
            walked = filtering.expected_when_near(hits.plan, self._k, hits.nearness, known)
            if walked is None:
                walked = filtering.expected(decision.plan, hits.plan, self._k, *scope, known, decision.relied)
            if walked is None or hits.late:
                return None
            missed = filtering.MISSES_SEEN * float(np.mean(hits.missed))
            return max(walked - missed / self._k, 0.0)
        if decision.prediction is None or self._chooser is None:
            return None
        predicted = decision.prediction.recall
        if not hits.margin:  # a walk that the deadline ended is not what was measured
            return None if hits.late else predicted
        return self._chooser.expect(
            self._k, hits.margin, decision.prediction, late=hits.late, drifted=self._drifted
        )

    def learn(self) -> None:
        """Correct what is expected by what was observed of a single query that was planned."""
        decision, chooser, hits = self._decision, self._chooser, self.hits
        prediction, stats = decision.prediction, hits.stats
        if prediction is None or chooser is None or hits.plan.strategy == "exact":
            return
        if hits.scores.shape[1] and hits.margin:
            chooser.saw(self._k, float(hits.scores[0, 0]), float(hits.scores[0, -1]))
        if hits.plan.strategy == prediction.plan.strategy:
            planned = prediction.plan.candidates
            share = min(stats.rows_read / planned, 1.0) if hits.late and planned else 1.0
            chooser.feedback.observe(
                (prediction.coarse.p50, prediction.rescore.p50 * share),
                (stats.coarse_ms, stats.rescore_ms),
                stats.rows_read,
                stats.cold_rows,
                cut=hits.late,
                then=prediction.state,
            )
