"""What a walk missed, told by how near its best are: the line that is fitted, and what follows from it."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiered_index.planner.among import EFS, Among
from tiered_index.planner.filtered import (
    LINKED_SCAN_ROWS_PER_EF,
    Followed,
    expected_when_near,
    followed,
    recall_without,
)
from tiered_index.planner.nearness import LEAST_PAIRS, WIDER, WIDEST, Nearness, fit, steps_for
from tiered_index.planner.plan import MAX_EF, Plan

ROWS = 1_000_000
LINE = Nearness(10, 7.7, -0.82, -14.9, tuple(np.linspace(0.25, 0.6, 64).tolist()))
KNOWN = Among(
    10, ((16, 0.8), (128, 0.95), (1024, 0.99)), {"sparse": ((24, 0.7), (768, 0.98))}, 1.0, 1e-5, LINE
)
PLAN = Plan(strategy="graph", prefix_dim=256, ef=200, candidates=200, misses=0.2)
ALL = msgspec.structs.replace(PLAN, ef=100, candidates=100)


def walks(line: Nearness, count: int = 4_000, seed: int = 3) -> tuple[list[float], list[float], list[float]]:
    """Return beams, scores and recalls of walks that follow a line; each finds ten, or misses some."""
    draw = np.random.default_rng(seed)
    efs, scores = draw.choice(EFS, count).astype(float), draw.normal(0.42, 0.08, count)
    recalls = 1.0 - draw.binomial(10, line.missed(efs, scores)) / 10
    return efs.tolist(), scores.tolist(), recalls.tolist()


def test_the_line_that_walks_follow_is_found() -> None:
    found = fit(10, *walks(LINE))
    assert found is not None
    assert found.by_ef == pytest.approx(LINE.by_ef, rel=0.1)
    assert found.by_score == pytest.approx(LINE.by_score, rel=0.1)
    for ef in (24, 168, 768):
        for score in (0.3, 0.42, 0.5):
            assert float(found.missed(ef, score)) == pytest.approx(float(LINE.missed(ef, score)), abs=0.02)
    assert list(found.scores) == sorted(found.scores)
    assert found.scores[32] == pytest.approx(0.42, abs=0.01)


def test_a_filter_under_which_more_is_missed_than_the_line_says_is_noticed() -> None:
    """And where a floor is to be kept, walks are followed as if all filters were like it; only there."""
    efs, scores, recalls = (np.array(one) for one in walks(LINE))
    filters = np.arange(len(efs)) % 8
    alike = fit(10, efs.tolist(), scores.tolist(), recalls.tolist(), filters.tolist())
    assert alike is not None
    assert 1.0 <= alike.worst < 1.2
    recalls[filters == 5] -= 1.0 - recalls[filters == 5]
    found = fit(10, efs.tolist(), scores.tolist(), np.maximum(recalls, 0.0).tolist(), filters.tolist())
    assert found is not None
    assert 1.4 < found.worst < 1.9  # the line has moved towards it
    others = fit(10, efs.tolist(), scores.tolist(), np.maximum(recalls, 0.0).tolist(), [-1] * len(efs))
    assert others == msgspec.structs.replace(found, worst=1.0)

    def steps(worst: float, *, kept: bool) -> tuple[float, float, float]:
        known = msgspec.structs.replace(KNOWN, nearness=msgspec.structs.replace(LINE, worst=worst))
        _, then = followed(PLAN, 10, ROWS, 300_000, 0.92, known, ALL, kept=kept)
        assert then is not None
        return then.least

    assert steps(2.0, kept=False) == steps(1.0, kept=False)
    assert steps(2.0, kept=True) > steps(1.0, kept=True) == steps(1.1, kept=True)


def test_where_no_line_falls_there_is_none() -> None:
    efs, scores, recalls = walks(LINE)
    few = LEAST_PAIRS - 1
    assert fit(10, efs[:few], scores[:few], recalls[:few]) is None
    assert fit(10, efs, scores, [1.0 - recall for recall in recalls]) is None
    assert fit(10, efs, [0.4] * len(efs), recalls) is None
    assert fit(10, efs, [-math.inf] * len(efs), recalls) is None  # fewer than k were found


def test_a_walk_that_never_misses_has_a_line_all_the_same() -> None:
    efs, scores, _ = walks(LINE)
    found = fit(10, efs, scores, [1.0] * len(efs))
    assert found is None or float(found.missed(100, 0.4)) < 0.01


@given(
    ef=st.floats(10, 5_000),
    scan=st.floats(1, 50_000),
    missed=st.floats(1e-4, 0.5),
    most=st.floats(1.0, 4.0),
)
def test_no_more_is_missed_than_may_be(ef: float, scan: float, missed: float, most: float) -> None:
    steps = steps_for(LINE, ef, scan, missed, most * missed)
    assert steps.widest <= steps.wider
    scans = scan <= WIDEST * ef
    assert steps.scan == (steps.widest if scans else -math.inf)
    scores = np.array(LINE.scores)
    first, wider, widest = (LINE.missed(times * ef, scores) for times in (1.0, WIDER, WIDEST))
    if scans:
        widest = np.zeros_like(scores)
    done = np.where(scores < steps.widest, widest, np.where(scores < steps.wider, wider, first))
    if widest.mean() <= missed:
        assert done.mean() <= missed * 1.001
    harder = scores >= steps.widest
    assert np.all(done[harder] <= most * missed * 1.001)


def test_hard_queries_are_walked_again_and_others_are_not() -> None:
    steps = steps_for(LINE, 200.0, 1e9, 0.04, 0.08)
    assert LINE.scores[0] < steps.widest < steps.wider < LINE.scores[-1]
    fewer = steps_for(LINE, 200.0, 1e9, 0.02, 0.04)
    assert fewer.wider > steps.wider
    assert fewer.widest > steps.widest
    none = steps_for(LINE, 5_000.0, 1e9, 0.5, 1.0)
    assert none == (-math.inf, -math.inf, -math.inf)


@given(ef=st.floats(10, 5_000), scan=st.floats(1, 50_000), most=st.floats(1e-3, 1.0))
def test_what_is_to_be_kept_is_scanned_for_where_no_walk_finds_it(
    ef: float, scan: float, most: float
) -> None:
    steps = steps_for(LINE, ef, scan, 0.7 * most, most, kept=True)
    assert steps.scan <= steps.widest <= steps.wider
    scores = np.linspace(LINE.scores[0] - 0.2, LINE.scores[-1], 500)
    first, wider, widest = (LINE.missed(times * ef, scores) for times in (1.0, WIDER, WIDEST))
    walked = np.where(scores < steps.widest, widest, np.where(scores < steps.wider, wider, first))
    assert np.all(walked[(scores >= steps.scan) & (scores < steps.widest)] <= most * 1.001)


def follow(matches: int, recall: float = 0.95, k: int = 10, **more: bool) -> tuple[Plan, Followed | None]:
    return followed(PLAN, k, ROWS, matches, recall, KNOWN, ALL, **{"kept": False, **more})


def test_what_follows_is_wider_or_a_scan() -> None:
    first, after = follow(400_000)
    assert after is not None
    assert (first.strategy, first.ef, first.candidates) == ("graph", 165, 165)  # of all rows' beam
    assert [(one.strategy, one.ef) for one in after.plans[:2]] == [("graph", 495), ("graph", 1_320)]
    assert after.plans[2].strategy == "scan"
    wide, low, least = after.least
    assert (wide > low, least) == (True, -math.inf)
    near = [math.inf, wide, math.nextafter(wide, 0.0), low, math.nextafter(low, 0.0), -1e9]
    assert after.steps(np.array(near)).tolist() == [0, 0, 1, 1, 2, 2]
    walked = LINKED_SCAN_ROWS_PER_EF * WIDEST * first.ef
    for matches, scans in ((walked, True), (walked + LINKED_SCAN_ROWS_PER_EF, False)):
        _, after = follow(matches)
        assert after is not None
        assert after.least[2] == (after.least[1] if scans else -math.inf)
    kept, after = follow(400_000, kept=True)  # where the widest walk may miss too much
    assert kept == PLAN  # wide enough for the floor
    assert after is not None
    assert -math.inf < after.least[2] < after.least[1]
    assert [one.misses for one in after.plans] == [PLAN.misses, PLAN.misses, PLAN.misses / 2]


def test_a_floor_is_kept_under_harder_filters_too() -> None:
    (_, mean), (_, kept) = follow(400_000), follow(400_000, kept=True)
    assert mean is not None
    assert kept is not None
    assert kept.least[0] > mean.least[0]


@given(
    matches=st.integers(200, 499_999),
    recall=st.floats(0.3, 0.99999),
    k=st.integers(1, 100),
    kept=st.booleans(),
)
def test_no_walk_is_begun_that_is_followed_for_every_query(
    matches: int, recall: float, k: int, kept: bool
) -> None:
    first, after = follow(matches, recall, k, kept=kept)
    if after is None:
        assert first.strategy == "scan"
        assert first.ef <= matches
    else:
        assert after.steps(np.array([1.0])).tolist() == [0]
        assert first.ef <= after.plans[0].ef <= after.plans[1].ef <= min(matches, MAX_EF)


@pytest.mark.parametrize(
    ("matches", "recall", "wanted"),
    [(400_000, 0.95, ("graph", 165)), (400_000, 0.98, ("graph", 3 * 165)), (5_000, 0.9999, ("scan", 512))],
)
def test_where_all_queries_want_more_a_wider_walk_or_a_scan_comes_first(
    matches: int, recall: float, wanted: tuple[str, int]
) -> None:
    first, after = follow(matches, recall)
    assert (first.strategy, first.ef) == wanted
    assert (after is None) == (first.strategy == "scan")


def test_where_nothing_was_measured_nothing_follows() -> None:
    without = msgspec.structs.replace(KNOWN, nearness=None)
    for known in (None, without):
        assert followed(PLAN, 10, ROWS, 400_000, 0.95, known, ALL, kept=False) == (PLAN, None)
    assert follow(600_000) == (PLAN, None)  # a walk among most rows hardly notices
    scan = msgspec.structs.replace(PLAN, strategy="scan")
    assert followed(scan, 10, ROWS, 400_000, 0.95, KNOWN, ALL, kept=False) == (scan, None)


def test_the_beam_holds_the_one_that_is_looked_at() -> None:
    narrow = msgspec.structs.replace(PLAN, ef=4, candidates=4)
    first, after = followed(narrow, 1, ROWS, 400_000, 0.5, KNOWN, narrow, kept=False)
    assert first.ef >= LINE.k
    assert after is None or after.place == LINE.k


def test_what_is_expected_is_what_the_line_says() -> None:
    assert expected_when_near(PLAN, 10, 0.4, KNOWN) == pytest.approx(1.0 - float(LINE.missed(200, 0.4)))
    assert expected_when_near(PLAN, 100, 0.4, KNOWN) < expected_when_near(PLAN, 10, 0.4, KNOWN)  # type: ignore[operator]
    assert expected_when_near(PLAN, 10, -math.inf, KNOWN) == pytest.approx(0.0, abs=1e-6)
    assert expected_when_near(PLAN, 10, math.inf, KNOWN) is None
    assert recall_without(Plan(strategy="graph", prefix_dim=256, ef=128, candidates=9), 10, KNOWN) == (
        pytest.approx(0.95)
    )
