"""Measuring, of a made-up index whose recalls and times follow laws."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiered_index.planner.calibrate import (
    EFS,
    ENOUGH_RECALL,
    FIRST_QUERIES,
    SCAN_ROWS,
    Measured,
    measure,
)
from tiered_index.planner.early import _stop
from tiered_index.planner.margins import at, margin_curve
from tiered_index.planner.model import FRACTIONS, Calibration, options
from tiered_index.planner.plan import Plan
from tiered_index.planner.subject import Observed
from tiered_index.planner.work import FAR

WIDTH = 128
KS = (1, 10)


class Law:
    """An index in which every true row stands at a known place of the walk's order.

    Parameters
    ----------
    hardness : float
        How far down the order true rows stand.
    narrow : float
        By how much further on half of the dimensions.
    per_dim : float
        Milliseconds of a unit of ef for each dimension.
    scan : float
        Milliseconds of a scan.
    """

    def __init__(
        self,
        queries: int = 60,
        rows: int = 20_000,
        *,
        hardness: float = 40.0,
        narrow: float = 1.05,
        per_dim: float = 1e-5,
        scan: float = 5.0,
        widest_walk: int = 500,
        stops_early: bool = True,
        saved: float = 0.7,
        evicts: bool = True,
        width: int = WIDTH,
        largest_k: int = 10,
    ) -> None:
        self.fractions, self.sketched = FRACTIONS, False
        self.width, self.rows = width, rows
        self.widest_walk, self.stops_early, self.saved = widest_walk, stops_early, saved
        self.per_dim, self.scan, self.evicts = per_dim, scan, evicts
        self.truth = np.arange(queries * largest_k, dtype=np.int64).reshape(queries, largest_k)
        draw = np.random.default_rng(3)
        self._places: dict[int, np.ndarray] = {}
        places = draw.exponential(hardness, self.truth.shape)
        for share in (1.0, 0.75, 0.5):
            spread = places * (1 + 2 * (narrow - 1) * (1 - share))
            self._places[int(width * share)] = np.minimum(spread.astype(np.int64), rows - 1)
        self.disturbed: dict[int, float] = {}
        self.counts = True
        self.asked: Counter[tuple[Any, ...]] = Counter()
        self.searched: Counter[Plan] = Counter()
        self._cold: set[int] = set()

    def order(self, query: int, prefix_dim: int, count: int) -> np.ndarray:
        """Return the first rows of the walk's order: true ones at their places, others elsewhere."""
        count = min(count, self.rows)
        found = -1 - np.arange(count, dtype=np.int64)
        for row, place in zip(self.truth[query], self._places[prefix_dim][query], strict=True):
            while place < count and found[place] >= 0:
                place += 1
            if place < count:
                found[place] = row
        return found

    def time(self, strategy: str, prefix_dim: int, ef: int) -> float:
        return self.scan if strategy == "scan" else 0.01 + self.per_dim * prefix_dim * ef

    def candidates(
        self, query: int, strategy: str, prefix_dim: int, ef: int
    ) -> tuple[np.ndarray, float, int]:
        assert strategy == "scan" or ef <= self.widest_walk or not self.widest_walk
        self.asked[strategy, prefix_dim, ef] += 1
        ms = self.time(strategy, prefix_dim, ef) * self.disturbed.get(ef, 1.0)
        return self.order(query, prefix_dim, ef), ms, self.codes(strategy, ef)

    def codes(self, strategy: str, ef: int) -> int:
        return 0 if not self.counts else self.rows if strategy == "scan" else 20 + 30 * ef

    def search(self, query: int, k: int, plan: Plan) -> Observed:
        self.searched[plan] += 1
        read = min(plan.ef or self.rows, plan.candidates, self.rows)
        if plan.early_stop:
            read = min(read, max(k, 16, 2 * plan.early_stop))
        found = self.order(query, plan.prefix_dim, read)
        best = np.concatenate([np.sort(found[found >= 0]), found[found < 0]])[:k]
        coarse = self.time(plan.strategy, plan.prefix_dim, read)
        if plan.early_stop:  # and the wider the beam, the less
            coarse *= self.saved * (1 + plan.ef / 1_000)
        rescore = (0.5 if query in self._cold else 0.002) + read * (0.05 if query in self._cold else 0.001)
        self._cold.discard(query)
        total = coarse + rescore + 0.03
        told = read / 12.0, 0.9 - query / 100, 0.5
        return Observed(best, total, coarse, rescore, read, *told, self.codes(plan.strategy, read))

    def evict(self, query: int, rows: int) -> bool:
        self._cold.add(query)
        return self.evicts

    def recall(self, query: int, prefix_dim: int, count: int, k: int) -> float:
        found = set(self.order(query, prefix_dim, count).tolist())
        true = self.truth[query, :k].tolist()
        return len(found & set(true)) / len(true)


def measured(law: Law, ks: tuple[int, ...] = KS, seconds: float | None = None) -> Measured:
    return measure(law, ks, seconds, lambda _: None)


def widths(found: Measured) -> set[int]:
    return {walk.prefix_dim for walk in found.walked if walk.strategy == "graph"}


def walks(found: Measured, width: int = WIDTH) -> list[Any]:
    return [walk for walk in found.walked if (walk.strategy, walk.prefix_dim) == ("graph", width)]


# What is measured is what is there


def test_walks_have_the_recall_and_time_of_the_law() -> None:
    law = Law()
    found = measured(law)
    seen = walks(found)
    assert [walk.ef for walk in seen] == [ef for ef in EFS if ef <= max(w.ef for w in seen)]
    for walk in seen[::3]:
        time = law.time("graph", WIDTH, walk.ef)
        assert [walk.coarse.mean, walk.coarse.p99] == pytest.approx([time, time])
        for k in KS:
            for fraction, recall, error in zip(FRACTIONS, walk.recall[k], walk.error[k], strict=True):
                size = round(walk.ef * fraction)
                if size < k:
                    assert recall == -1.0
                    continue
                expected = [law.recall(query, WIDTH, size, k) for query in range(60)]
                assert recall == pytest.approx(np.mean(expected))
                assert error == pytest.approx(max(np.std(expected) / np.sqrt(60), 0.5 / 62))


def test_scans_have_the_recall_of_the_law() -> None:
    law = Law()
    scans = [walk for walk in measured(law).walked if walk.strategy == "scan"]
    assert [scan.ef for scan in scans] == list(SCAN_ROWS)
    for scan in scans:
        assert scan.coarse.mean == pytest.approx(law.scan)
        for k in KS:
            expected = np.mean([law.recall(query, WIDTH, scan.ef, k) for query in range(60)])
            assert scan.recall[k][0] == (pytest.approx(expected) if scan.ef >= k else -1.0)


def test_reading_is_a_line_and_the_rest_is_what_is_left() -> None:
    found = measured(Law())
    assert found.hot.call.mean == pytest.approx(0.002)
    assert found.hot.row.p99 == pytest.approx(0.001)
    assert found.rest.mean == pytest.approx(0.03)
    assert found.cold is not None
    assert found.cold.call.mean == pytest.approx(0.5)
    assert found.cold.row.mean == pytest.approx(0.05)


def test_where_rows_cannot_be_evicted_nothing_is_said_of_cold_ones() -> None:
    assert measured(Law(evicts=False)).cold is None


def test_early_stops_have_the_recall_of_the_law() -> None:
    law = Law()
    found = measured(law)
    assert {one.k for one in found.stopped} == set(KS)
    for one in found.stopped:
        assert one.plan.early_stop
        read = min(one.plan.candidates, max(one.k, 16, 2 * one.plan.early_stop), one.plan.ef)
        expected = [law.recall(query, WIDTH, read, one.k) for query in range(60)]
        assert one.recall == pytest.approx(np.mean(expected))
        assert one.rows_read == read
        assert one.total.mean == pytest.approx(one.coarse.mean + one.rescore.mean + 0.03)


def test_without_early_stopping_margins_are_learnt_all_the_same() -> None:
    law = Law(stops_early=False)
    found = measured(law)
    assert found.stopped == ()
    assert not any(plan.early_stop for plan in law.searched)
    for k in KS:
        assert found.margins[k][0][1] < found.margins[k][-1][1]


def test_where_only_wide_walks_pay_margins_are_learnt_all_the_same() -> None:
    found = measured(Law(stops_early=False, scan=0.0), ks=(1, 10))
    assert not any(walk.ef >= 10 for walk in walks(found))
    assert all(found.margins[k] for k in (1, 10))


def test_without_a_graph_all_is_scanned() -> None:
    law = Law(widest_walk=0, hardness=3.0)
    found = measured(law)
    assert {walk.strategy for walk in found.walked} == {"scan"}
    assert found.stopped == ()
    assert set(found.margins) == set(KS)
    assert all(found.margins.values())
    assert {strategy for strategy, _, _ in law.asked} == {"scan"}


# What is not worth measuring


def test_narrower_prefixes_are_measured_if_they_pay() -> None:
    assert widths(measured(Law(narrow=1.02, per_dim=1e-4))) == {WIDTH, 96, 64}


def test_narrower_prefixes_that_find_much_less_are_left_out() -> None:
    assert widths(measured(Law(narrow=6.0))) == {WIDTH}


def test_narrower_prefixes_that_save_nothing_are_left_out() -> None:
    law = Law(narrow=1.02, per_dim=1e-9)
    assert widths(measured(law)) == {WIDTH}
    assert any(prefix_dim < WIDTH for _, prefix_dim, _ in law.asked)  # they were tried


def test_a_narrow_index_has_no_narrower_prefixes() -> None:
    assert widths(measured(Law(width=32, narrow=1.0))) == {32}


def test_walks_end_when_nothing_is_missed() -> None:
    seen = walks(measured(Law(hardness=6.0)))
    assert all(seen[-1].recall[k][0] >= ENOUGH_RECALL for k in KS)
    assert not any(all(walk.recall[k][0] >= ENOUGH_RECALL for k in KS) for walk in seen[:-1])
    assert seen[-1].ef < 500


def test_walks_end_when_a_scan_takes_no_longer() -> None:
    seen = walks(measured(Law(hardness=400.0, narrow=9.0, scan=0.1)))
    assert seen[-1].coarse.mean > 0.1
    assert all(walk.coarse.mean <= 0.1 for walk in seen[:-1])


def test_walks_end_where_the_graph_is_scanned() -> None:
    law = Law(hardness=1_000.0, widest_walk=100)
    assert max(walk.ef for walk in walks(measured(law))) == 96  # the law refuses wider ones


def test_walks_narrower_than_every_k_are_left_out() -> None:
    law = Law(largest_k=20)
    assert min(walk.ef for walk in walks(measured(law, (20,)))) == 24


def test_beaten_early_stops_are_tried_with_few_queries_only() -> None:
    law = Law(queries=200)
    found = measured(law)
    kept = {one.plan for one in found.stopped}
    tried = {plan: count for plan, count in law.searched.items() if plan.early_stop}
    assert kept < set(tried)
    assert all(tried[plan] >= 200 for plan in kept)
    assert sum(count >= 200 for count in tried.values()) < 0.9 * len(tried)


@pytest.mark.parametrize("queries", [1, 3, 60])
def test_what_missed_nothing_may_miss_something_yet(queries: int) -> None:
    """The fewer queries, the less is certain; of early stops as of whole walks."""
    plan = Plan(strategy="graph", prefix_dim=WIDTH, ef=100, candidates=100, early_stop=50)
    stopped, _ = _stop(Law(queries=queries, hardness=1.0), 1, plan, queries)
    assert stopped.recall == 1.0
    assert stopped.error == pytest.approx(0.5 / (queries + 2))


def test_early_stops_that_save_nothing_are_left_out() -> None:
    law = Law(saved=1.5)
    assert measured(law).stopped == ()
    assert any(plan.early_stop for plan in law.searched)  # they were tried


# Time and sizes


def test_the_fewer_seconds_the_fewer_queries() -> None:
    hurried, patient = Law(queries=300), Law(queries=300)
    quick = measured(hurried, seconds=1e-9)
    slow = measured(patient)
    assert widths(quick) == widths(slow)
    for law, least in ((hurried, FIRST_QUERIES), (patient, 300)):
        counts = [
            count
            for (strategy, width, ef), count in law.asked.items()
            # the sizes that also decide about prefix dimensions and cold reads are asked more often
            if (strategy, width) == ("graph", WIDTH) and ef in (8, 24, 64)
        ]
        assert counts == [least + 1] * 3
    assert sum(hurried.searched.values()) < sum(patient.searched.values())


def test_enough_seconds_are_enough_for_all_queries() -> None:
    law = Law(queries=100)
    measured(law, seconds=1e6)
    assert law.asked["graph", WIDTH, 24] >= 99


def test_what_is_being_measured_is_told() -> None:
    told: list[str] = []
    measure(Law(), KS, None, told.append)
    assert told[0] == "scans"
    assert f"walks on {WIDTH} dimensions" in told
    assert told[-1] == "cold reads"


@pytest.mark.parametrize(
    ("queries", "rows", "ks"),
    [(1, 20_000, (1, 10)), (1, 1, (1,)), (3, 2, (1,)), (5, 12, (1, 10)), (2, 100, (10,)), (40, 5_000, (1,))],
)
def test_few_queries_and_few_rows(queries: int, rows: int, ks: tuple[int, ...]) -> None:
    law = Law(queries, rows, widest_walk=rows // 40, largest_k=ks[-1], hardness=min(40.0, rows / 4))
    found = measured(law, ks)
    fields = {
        "rows": rows,
        "asked_ks": ks,
        "ks": ks,
        "queries": queries,
        "exact": found.rest,
        "source": "given",
    }
    words = {"fingerprint": "", "generation": 1, "made": "", "seconds": 1.0}
    predicted = options(Calibration(**found._asdict(), **fields, **words), ks[-1], rows)
    assert ((predicted.recall >= 0) & (predicted.recall <= 1)).all()
    assert np.isfinite(predicted.coarse).all()
    assert all(curve for curve in found.margins.values())


def test_scores_of_answers_are_summarised() -> None:
    for mean, deviation, last, last_deviation in measured(Law(queries=60)).scores.values():
        assert mean == pytest.approx(0.9 - 29.5 / 100)
        assert deviation == pytest.approx(np.std(np.arange(60) / 100))
        assert (last, last_deviation) == pytest.approx((0.5, 0.0))


# Margins


@given(st.lists(st.tuples(st.floats(-100, 100), st.floats(0, 1)), min_size=1, max_size=200))
def test_margin_curves_rise(pairs: list[tuple[float, float]]) -> None:
    curve = margin_curve(pairs)
    margins, recalls = zip(*curve, strict=True)
    assert 1 <= len(curve) <= 12
    assert all(a <= b + 1e-9 for a, b in pairwise(margins))
    assert all(a <= b + 1e-12 for a, b in pairwise(recalls))
    seen = [recall for _, recall in pairs]
    assert min(seen) - 1e-12 <= recalls[0] <= np.mean(seen) + 1e-12
    assert np.mean(seen) - 1e-12 <= recalls[-1] <= max(seen) + 1e-12


def test_margins_that_tell_nothing_give_the_mean() -> None:
    falling = [(float(i), 1.0 - i / 100) for i in range(100)]
    assert len(margin_curve(falling)) == 1
    assert margin_curve(falling)[0] == pytest.approx((49.5, 0.505))


def test_what_margins_tell_of_each_plan_is_measured() -> None:
    """Under the law a margin is a twelfth of what was read."""
    found = measured(Law())
    assert found.stopped
    for k, curve in found.margins.items():
        assert len(found.claims[k]) > 2
        for ef, claim in found.claims[k]:
            assert claim == pytest.approx(at(curve, ef / 12))
    for one in found.stopped:
        read = min(one.plan.candidates, max(one.k, 16, 2 * one.plan.early_stop))
        assert one.claim == pytest.approx(at(found.margins[one.k], read / 12))


def test_margin_curves_of_the_law_rise() -> None:
    for curve in measured(Law()).margins.values():
        margins, recalls = zip(*curve, strict=True)
        assert list(margins) == sorted(margins)
        assert list(recalls) == sorted(recalls)
        assert recalls[0] < recalls[-1]


# A busy moment of the machine


def test_walks_that_a_busy_moment_slowed_take_what_their_work_takes() -> None:
    quiet, busy = Law(), Law()
    busy.disturbed = {24: 2.0, 32: 2.5, 192: 1.8}
    for before, after in zip(walks(measured(quiet)), walks(measured(busy)), strict=True):
        assert after.ef == before.ef
        assert after.coarse.mean == pytest.approx(before.coarse.mean, rel=FAR + 0.01)
        assert after.coarse.p99 / after.coarse.mean == pytest.approx(before.coarse.p99 / before.coarse.mean)
    busy.counts = False  # nothing is known of the work, as where FAISS walks
    slowed = {walk.ef: walk.coarse.mean for walk in walks(measured(busy))}
    assert slowed[32] == pytest.approx(2.5 * busy.time("graph", WIDTH, 32))
