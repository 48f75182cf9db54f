"""The work of watching: exact answers, recalls by group, drift, the planner's correction."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiered_index.explain import plan_label
from tiered_index.planner.choose import Chooser
from tiered_index.planner.misses import Misses
from tiered_index.planning import Planning
from tiered_index.search import search
from tiered_index.storage.commit import Store
from tiered_index.storage.matching import Matching
from tiered_index.storage.snapshot import Snapshot
from tiered_index.validate.vectors import prepare_queries
from tiered_index.watch.drift import Drift, Live, features
from tiered_index.watch.groups import Groups, Key
from tiered_index.watch.reference import Reference, make_reference
from tiered_index.watch.report import RecallChange, drift_words
from tiered_index.watch.samples import Sample, Samples
from tiered_index.watch.truth import exact_answers, hits

MOST_TOGETHER = 64
"""Queries that share a pass. Over 250,000 rows of 1,024 dimensions it took .13 s of a core for one query,
.28 s for 32, .43 s for 64 and 1.1 s for 128."""

OTHER_PLANS = 2
"""Plans that were not chosen, which each watched query is asked with too: a hundredth of its exact answer's
time. Else nothing is known of a plan before it is trusted, nor of those that no longer are."""

_True = tuple[NDArray[np.int64], NDArray[np.float64]]

_log = logging.getLogger("tiered_index.watch")


class Work:
    """Answers what waits, for one thread.

    Parameters
    ----------
    store : Store
        Where the calibration is kept.
    planning : Planning
        Is corrected.
    samples : Samples
        What waits.
    groups : Groups
        Get the recalls.
    window : int
        Queries that are compared with calibration's.
    correct : bool
        Whether predictions are corrected.
    on_below : callable or None
        Told of changes.
    pause : callable
        Called after each piece of work; sleeps as it likes, and returns False to end.
    """

    def __init__(
        self,
        store: Store,
        planning: Planning,
        samples: Samples,
        groups: Groups,
        *,
        window: int,
        correct: bool,
        on_below: Callable[[RecallChange], object] | None,
        pause: Callable[[], bool],
    ) -> None:
        self._store = store
        self._planning = planning
        self._samples = samples
        self._groups = groups
        self._correct = correct
        self._on_below = on_below
        self._pause = pause
        self._live = Live(window)
        self._reference: Reference | None = None
        self._misses = Misses()
        self._chooser: Chooser | None = None
        self.drift: Drift | None = None
        self.answered = 0
        self.failed = 0
        self.generation = 0

    def step(self) -> bool:
        """Answer the oldest query that waits and those of its snapshot; return whether there was one."""
        batch = self._samples.take(MOST_TOGETHER)
        if not batch:
            return False
        before = self.answered
        try:
            self._answer(batch)
            self._samples.dropped += len(batch) - (self.answered - before)  # if it was told to stop
        except Exception:  # the service goes on without being watched, and says so
            self.failed += len(batch) - (self.answered - before)
            _log.exception("%s: queries could not be watched", self._store.root)
        return True

    def expire(self) -> None:
        """Drop what is beyond the window, and tell of what that changed."""
        self._tell(self._groups.expire(time.monotonic()))

    def corrected(self) -> dict[str, tuple[float, float]]:
        """Return by how much predictions are corrected, by family of plans."""
        chooser = self._planning.chooser
        correction = None if chooser is None else chooser.feedback.state().misses
        return {} if correction is None else correction.factors()

    def _answer(self, batch: list[Sample]) -> None:
        snapshot = batch[0].snapshot
        self.generation = max(self.generation, snapshot.manifest.generation)
        self._follow(self._planning.chooser_for(snapshot))
        for matching, alike in _by_filter(snapshot, batch):
            touched = self._answer_alike(snapshot, matching, alike)
            if touched is None:
                return
            self._tell(self._groups.changes(touched, time.monotonic()))
        if self._correct and self._chooser is not None:
            self._chooser.feedback.use_misses(self._misses.correction())
        self._compare(snapshot)

    def _answer_alike(
        self, snapshot: Snapshot, matching: Matching | None, samples: list[Sample]
    ) -> list[Key] | None:
        """Answer queries of one filter; return the groups that changed, or None if told to stop."""
        count = snapshot.rows if matching is None else matching.count
        if not count:
            self.answered += len(samples)
            return []
        config = snapshot.config
        queries = np.concatenate([prepare_queries(sample.query, config)[0] for sample in samples])
        approximate = [i for i, sample in enumerate(samples) if sample.plan.strategy != "exact"]
        truth = None
        if approximate:
            k = min(max(10, *(samples[i].k for i in approximate)), count)
            truth = exact_answers(snapshot, queries[approximate], k, matching, self._pause)
            if truth is None:
                return None
            rows = features(queries[approximate], config.prefix_dim, None if matching else truth.scores)
            self._live.add(rows)
        place = {i: row for row, i in enumerate(approximate)}
        touched: list[Key] = []
        for i, sample in enumerate(samples):
            k = min(sample.k, count)
            if truth is not None and i in place:
                true = truth.addresses[place[i], :k], truth.scores[place[i], :k]
            else:  # every vector was scored
                true = sample.addresses[:k], sample.scores[:k].astype(np.float64)
            found = hits(sample.addresses, sample.scores, *true)
            if matching is None and sample.complete and self._correct:
                self._learn(sample, queries[i : i + 1], found, k, true)
            touched += self._groups.add(
                sample.at,
                found / k,
                sample.k,
                floor=sample.floor,
                tag=sample.tag,
                profile=sample.profile,
                plan=plan_label(sample.plan),
            )
            self.answered += 1
        return touched

    def _follow(self, chooser: Chooser | None) -> None:
        """Begin anew with a new calibration: what it predicts was not watched."""
        if chooser is not self._chooser:
            self._chooser, self._misses = chooser, Misses()

    def _learn(self, sample: Sample, query: NDArray[np.float32], found: int, k: int, true: _True) -> None:
        """Compare what was missed with what was predicted, and so for a few plans that were not chosen."""
        if self._chooser is None:
            return
        rows = sample.snapshot.rows
        known = self._chooser.measured(sample.k, rows)
        plans = [plan for plan in self._chooser.options(sample.k, rows).plans if plan.strategy != "exact"]
        if sample.plan in known and sample.plan.strategy != "exact":
            self._misses.observe(sample.plan, 1.0 - known[sample.plan], k - found, k)
        for plan in random.sample(plans, min(OTHER_PLANS, len(plans))):
            answer = search(sample.snapshot, query, sample.k, plan, perf_counter())
            if answer.plan == plan:  # what is walked in small parts is scanned, whatever was planned
                missed = k - hits(answer.addresses[0], answer.scores[0], *true)
                self._misses.observe(plan, 1.0 - known[plan], missed, k)

    def _tell(self, changes: list[RecallChange]) -> None:
        """Tell of groups that fell below their floors or no longer are."""
        for change in changes:
            _log.log(logging.WARNING if change.below else logging.INFO, "%s: %s", self._store.root, change)
            if self._on_below is not None:
                try:
                    self._on_below(change)
                except Exception:
                    _log.exception("%s: on_below failed", self._store.root)

    def _compare(self, snapshot: Snapshot) -> None:
        """Look for drift, if it is time to."""
        if self._chooser is None or not self._live.due():
            return
        calibration = self._chooser.calibration
        if self._reference is None or not self._reference.fits(calibration, snapshot.rows):
            self._reference = make_reference(snapshot, self._store, calibration, self._pause)
            if self._reference is None:
                return
        drifted = self.drift is not None and self.drift.drifted
        self.drift = self._live.look(self._reference.values, self._reference.source)
        if self.drift.drifted != drifted:
            level = logging.WARNING if self.drift.drifted else logging.INFO
            _log.log(level, "%s: %s", self._store.root, drift_words(self.drift))


def _by_filter(snapshot: Snapshot, batch: list[Sample]) -> list[tuple[Matching | None, list[Sample]]]:
    """Group samples by their filters."""
    groups: dict[int, tuple[Any, list[Sample]]] = {}
    for sample in batch:
        matching = None if sample.where is None else snapshot.matching(sample.where)
        if matching is not None and matching.count == snapshot.rows:
            matching = None
        groups.setdefault(id(matching), (matching, []))[1].append(sample)
    return list(groups.values())
