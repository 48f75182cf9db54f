"""What a calibration predicts: measured points are hit, and what lies between them lies between."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tiered_index.config import Budget
from tiered_index.planner.choose import choose
from tiered_index.planner.expect import DRIFT_MISSES, Expectation
from tiered_index.planner.feedback import State
from tiered_index.planner.margins import claim_of, margin_curve
from tiered_index.planner.model import FRACTIONS, STORED_MISSES, Calibration, Options, options
from tiered_index.planner.plan import EXACT, Plan
from tiered_index.planner.times import Reading, Times, added, quantiles

from .synthetic import KS, ROWS, WIDTH, calibration

SEEDS = st.integers(0, 2**32 - 1)
LEAST = 2e-4
"""Fewer misses than this are not told apart."""

positive = st.floats(1e-3, 1e3)
summaries = st.lists(positive, min_size=4, max_size=4).map(
    lambda n: Times(n[0], n[0], n[0] + n[2], n[0] + n[3])
)


def all_options(made: Calibration, k: int, rows: int = ROWS, cold_share: float = 0.0) -> Options:
    """Return the options before those are dropped that others beat."""
    return options(made, k, rows, cold_share, worthwhile=False)


def line(found: Options, strategy: str, width: int) -> list[int]:
    """Return the places of the plans that rescore all that they find, by ef."""
    places = [
        i
        for i, plan in enumerate(found.plans)
        if (plan.strategy, plan.prefix_dim, plan.early_stop) == (strategy, width, 0.0)
        and plan.candidates == plan.ef
    ]
    return sorted(places, key=lambda i: found.plans[i].ef)


def families(made: Calibration) -> set[tuple[str, int]]:
    return {(walk.strategy, walk.prefix_dim) for walk in made.walked}


# Times


@given(st.lists(positive, min_size=1, max_size=300))
def test_times_of_samples(samples: list[float]) -> None:
    seen = Times.of(samples)
    assert min(samples) <= seen.p50 <= seen.p95 <= seen.p99 <= max(samples)
    assert min(samples) <= seen.mean * (1 + 1e-12)
    assert seen.mean <= np.mean(samples) * (1 + 1e-12)
    assert seen.p50 == pytest.approx(np.median(samples))


def test_the_worst_sample_does_not_move_the_mean() -> None:
    usual = [1.0] * 299
    assert Times.of([*usual, 1e6]).mean == pytest.approx(1.0)


def test_stages_add_by_hand() -> None:
    total = added(quantiles(Times(1.0, 0.9, 4.0, 7.0)), quantiles(Times(2.0, 1.9, 6.0, 10.0)))
    np.testing.assert_allclose(total, [3.0, 2.8, 3.0 + 5.0, 3.0 + 10.0])


@given(st.lists(summaries, min_size=1, max_size=4))
def test_stages_that_add(stages: list[Times]) -> None:
    arrays = [quantiles(stage) for stage in stages]
    total, mean = added(*arrays), sum(stage.mean for stage in stages)
    np.testing.assert_allclose(total, added(*reversed(arrays)))
    assert total[0] == pytest.approx(mean)
    for i in (2, 3):
        above = [stage[i] - stage[0] for stage in arrays]
        assert max(above) * (1 - 1e-9) <= total[i] - mean + 1e-9
        assert total[i] - mean <= sum(above) * (1 + 1e-9) + 1e-9


def test_stages_add_by_rows_too() -> None:
    many = np.abs(np.random.default_rng(1).normal(size=(5, 4)))
    one = quantiles(Times(1.0, 1.0, 2.0, 3.0))
    for row, total in zip(many, added(many, np.broadcast_to(one, many.shape)), strict=True):
        np.testing.assert_allclose(total, added(row, one))


def test_reading_grows_by_the_row() -> None:
    reading = Reading(Times(1.0, 2.0, 3.0, 4.0), Times(0.1, 0.2, 0.3, 0.4))
    np.testing.assert_allclose(reading.of(10), [2.0, 4.0, 6.0, 8.0])
    np.testing.assert_allclose(reading.of([0, 10]), [[1, 2, 3, 4], [2, 4, 6, 8]])


# Interpolation


@settings(max_examples=20)
@given(SEEDS, st.sampled_from(KS))
def test_measured_walks_are_predicted_as_measured(seed: int, k: int) -> None:
    made = calibration(seed)
    found = all_options(made, k)
    by_plan: dict[Plan, list[int]] = {}
    for i, plan in enumerate(found.plans):
        by_plan.setdefault(plan, []).append(i)
    checked = 0
    for walk in made.walked:
        for fraction, recall in zip(FRACTIONS, walk.recall[k], strict=True):
            if recall < 0 or walk.ef < k:
                continue
            size = round(walk.ef * fraction)
            plan = Plan(strategy=walk.strategy, prefix_dim=walk.prefix_dim, ef=walk.ef, candidates=size)
            near = min(by_plan[plan], key=lambda i: abs(found.recall[i] - recall))
            assert found.recall[near] == pytest.approx(recall, abs=LEAST)
            assert found.error[near] == pytest.approx(walk.error[k][0])
            np.testing.assert_allclose(found.coarse[near], quantiles(walk.coarse))
            np.testing.assert_allclose(found.rescore[near], made.hot.of(size))
            np.testing.assert_allclose(found.rest[near], quantiles(made.rest))
            checked += 1
    assert checked >= 5
    exact = found.plans.index(EXACT)
    assert found.recall[exact] == 1.0
    whole = added(found.coarse[exact], found.rescore[exact], found.rest[exact])
    np.testing.assert_allclose(whole, quantiles(made.exact))


@settings(max_examples=20)
@given(SEEDS, st.sampled_from(KS))
def test_early_stops_are_predicted_as_measured(seed: int, k: int) -> None:
    made = calibration(seed)
    found = all_options(made, k)
    for stopped in (one for one in made.stopped if one.k == k):
        i = found.plans.index(stopped.plan)
        assert found.recall[i] == pytest.approx(stopped.recall, abs=LEAST)
        np.testing.assert_allclose(found.coarse[i], quantiles(stopped.coarse))
        np.testing.assert_allclose(found.rescore[i], quantiles(stopped.rescore))
    for ef in {one.plan.ef for one in made.stopped if one.k == k}:
        places = [i for i, plan in enumerate(found.plans) if plan.early_stop and plan.ef == ef]
        assert len(places) > 4
        places.sort(key=lambda i: found.plans[i].early_stop)
        assert (np.diff(found.recall[places]) >= -1e-12).all()
        assert (np.diff(found.coarse[places, 0]) >= -1e-12).all()


@settings(max_examples=20)
@given(SEEDS, st.sampled_from([*KS, 3, 30, 400]))
def test_between_measured_widths_all_rises(seed: int, k: int) -> None:
    made = calibration(seed)
    found = all_options(made, k)
    for family in families(made):
        places = line(found, *family)
        assert len(places) > 1
        assert (np.diff(found.recall[places]) >= -1e-12).all()
        assert (np.diff(found.coarse[places], axis=0) >= -1e-12).all()
        assert (np.diff(found.rescore[places], axis=0) >= -1e-12).all()
        if family[0] == "graph":  # so fine that the next plan is hardly dearer
            ratios = [found.plans[b].ef / found.plans[a].ef for a, b in pairwise(places)]
            assert max(ratios) < 1.3


@settings(max_examples=20)
@given(SEEDS, st.sampled_from([(1, 10), (10, 100)]), st.data())
def test_between_measured_k_recall_lies_between(
    seed: int, around: tuple[int, int], data: st.DataObject
) -> None:
    k = data.draw(st.integers(around[0] + 1, around[1] - 1))
    made = calibration(seed)
    low, middle, high = (all_options(made, one) for one in (around[0], k, around[1]))
    recalls = [dict(zip(found.plans, found.recall.tolist(), strict=True)) for found in (low, middle, high)]
    shared = [
        middle.plans[i]
        for family in families(made)
        for i in line(middle, *family)
        if middle.plans[i] in recalls[0] and middle.plans[i] in recalls[2]
    ]
    assert shared
    for plan in shared:
        ends = sorted((recalls[0][plan], recalls[2][plan]))
        assert ends[0] - LEAST <= recalls[1][plan] <= ends[1] + LEAST


def test_beyond_the_largest_k_the_beam_grows_with_it() -> None:
    made = calibration(1)
    hundred, thousand = all_options(made, 100), all_options(made, 1_000)
    for family in families(made):
        a, b = line(hundred, *family)[0], line(thousand, *family)[0]
        assert thousand.plans[b].ef == 10 * hundred.plans[a].ef
        assert thousand.recall[b] == pytest.approx(hundred.recall[a])
    assert all(plan.candidates >= 1_000 for plan in thousand.plans if plan is not EXACT)


# Rows, sources and cold rows


@settings(max_examples=30)
@given(
    SEEDS,
    st.integers(1, 2_000),
    st.integers(1, 10**9),
    st.sampled_from(["given", "live", "stored"]),
    st.floats(0, 1),
)
def test_predictions_are_possible(seed: int, k: int, rows: int, source: str, cold_share: float) -> None:
    found = options(calibration(seed, source=source), k, rows, cold_share)
    assert len(found.plans) == len(found.recall) == len(found.error) == len(found.coarse)
    assert ((found.recall >= 0.0) & (found.recall <= 1.0)).all()
    assert (found.error >= 0.0).all()
    total = added(found.coarse, found.rescore, found.rest)
    assert np.isfinite(total).all()
    assert (total > 0.0).all()
    for plan in found.plans:
        assert plan is EXACT or k <= plan.candidates
        assert plan.early_stop or plan.candidates <= plan.ef


@settings(max_examples=20)
@given(SEEDS, st.sampled_from(KS), st.floats(1.01, 100.0))
def test_more_rows_are_slower_and_miss_more(seed: int, k: int, growth: float) -> None:
    made = calibration(seed)
    now, later = all_options(made, k), all_options(made, k, round(ROWS * growth))
    growth = round(ROWS * growth) / ROWS
    assert now.plans == later.plans
    assert (later.recall <= now.recall).all()
    assert (later.coarse >= now.coarse).all()
    np.testing.assert_allclose(later.rescore[:-1], now.rescore[:-1])
    scans = [i for i, plan in enumerate(now.plans) if plan.strategy == "scan"]
    np.testing.assert_allclose(later.coarse[scans], now.coarse[scans] * growth)
    np.testing.assert_allclose(later.rescore[-1], now.rescore[-1] * growth)
    assert later.recall[-1] == 1.0
    walks = [i for i, plan in enumerate(now.plans) if plan.strategy == "graph"]
    ratios = later.coarse[walks, 0] / now.coarse[walks, 0]
    np.testing.assert_allclose(ratios, 1 + 0.06 * np.log2(growth))


@settings(max_examples=20)
@given(SEEDS, st.integers(1, 300), st.sampled_from(["given", "live"]))
def test_stored_queries_promise_less(seed: int, k: int, source: str) -> None:
    made = calibration(seed, source=source)
    real, stored = all_options(made, k), all_options(msgspec.structs.replace(made, source="stored"), k)
    assert real.plans == stored.plans
    assert (stored.recall <= real.recall).all()
    missing = (real.recall < 1 - LEAST) & (real.recall > 0)
    assert (stored.recall[missing] < real.recall[missing]).all()
    assert (stored.error >= real.error).all()
    np.testing.assert_array_equal(stored.coarse, real.coarse)


@settings(max_examples=20)
@given(SEEDS, st.sampled_from(KS), st.floats(0.01, 1.0), st.floats(0.01, 1.0))
def test_cold_rows_cost_more(seed: int, k: int, share: float, more: float) -> None:
    made = calibration(seed)
    low, high = sorted((share, more))
    hot, some, cold = (all_options(made, k, cold_share=one) for one in (0.0, low, high))
    fixed = [i for i, plan in enumerate(hot.plans) if not plan.early_stop]  # when cold, there are only these
    assert [hot.plans[i] for i in fixed] == some.plans == cold.plans
    hot = hot.take(fixed)
    assert (hot.rescore[:-1, 0] < some.rescore[:-1, 0]).all()
    assert (some.rescore[:-1] <= cold.rescore[:-1] + 1e-12).all()
    np.testing.assert_array_equal(hot.rescore[-1], cold.rescore[-1])
    np.testing.assert_array_equal(hot.recall, cold.recall)
    np.testing.assert_array_equal(hot.coarse, cold.coarse)


def test_where_cold_reads_could_not_be_measured_they_count_as_hot() -> None:
    made = calibration(2, cold=None, stopped=())
    np.testing.assert_array_equal(
        all_options(made, 10).rescore, all_options(made, 10, cold_share=1.0).rescore
    )


# What is dropped


@settings(max_examples=40)
@example(seed=0, k=1, floor=0.5, exponent=0.5)  # a scan beats a graph that alone ends at the deadline
@given(SEEDS, st.sampled_from([1, 7, 10, 100]), st.floats(0.3, 0.99), st.floats(-2.0, 2.0))
def test_no_dropped_plan_would_have_been_chosen(seed: int, k: int, floor: float, exponent: float) -> None:
    made, state = calibration(seed), State(1.0, 1.0, 0.0)
    every, kept = all_options(made, k), options(made, k, ROWS)
    assert len(kept.plans) < len(every.plans)
    latency = 10.0**exponent
    for budget in (Budget(latency_ms=latency), Budget(min_recall=floor)):
        best, chosen = choose(every, state, budget), choose(kept, state, budget)
        assert best[1:] == chosen[1:]
        if budget.latency_ms is None:
            assert chosen.prediction.total.mean <= best.prediction.total.mean * (1 + 1e-9)
        elif best.budget_fits:
            assert chosen.prediction.recall == pytest.approx(best.prediction.recall)
        else:
            assert chosen.prediction.total.p99 == pytest.approx(best.prediction.total.p99)
    both = Budget(latency_ms=latency, min_recall=floor)
    assert choose(every, state, both)[1:] == choose(kept, state, both)[1:]


@settings(max_examples=20)
@given(SEEDS, st.floats(0.3, 0.99), st.floats(1 / 1.04, 1.04), st.floats(1 / 1.04, 1.04))
def test_small_corrections_find_the_best_among_what_was_kept(
    seed: int, floor: float, coarse: float, rescore: float
) -> None:
    made, state = calibration(seed), State(coarse, rescore, 0.0)
    budget = Budget(min_recall=floor)
    best = choose(all_options(made, 10), state, budget)
    chosen = choose(options(made, 10, ROWS), state, budget)
    assert chosen.floor_reached
    assert chosen.prediction.total.mean <= best.prediction.total.mean * (1 + 1e-9)


# The recall of one answer


def recall_of(made: Calibration, k: int, margin: float, predicted: float, *, drifted: bool = False) -> float:
    return Expectation(made, k).recall(margin, predicted, drifted=drifted)


def test_recall_by_margin() -> None:
    made = calibration(3)
    for margin, recall in made.margins[10]:
        assert recall_of(made, 10, margin, 0.999_999) == pytest.approx(recall, abs=1e-6)
    assert recall_of(made, 10, -5.0, 0.99) == 0.5
    assert recall_of(made, 10, 3.0, 0.99) == pytest.approx(0.95)
    assert recall_of(made, 10, 9.0, 0.8) == pytest.approx(0.9)  # half of what was missing
    stored = msgspec.structs.replace(made, source="stored")
    assert recall_of(stored, 10, 3.0, 0.99) == pytest.approx(1 - 0.05 * STORED_MISSES)
    assert recall_of(made, 10, 3.0, 0.99, drifted=True) == pytest.approx(1 - 0.05 * DRIFT_MISSES)


def test_what_margins_tell_too_much_or_too_little_of_a_plan_is_made_up_for() -> None:
    stops = [one for one in calibration(3).stopped if one.k == 10][:2]
    stopped = tuple(msgspec.structs.replace(one, claim=0.8 + i / 10) for i, one in enumerate(stops))
    made = calibration(3, claims={10: ((50.0, 0.8), (200.0, 0.9))}, stopped=stopped)
    walk = Plan(strategy="graph", prefix_dim=WIDTH, ef=100, candidates=100)

    def expected(plan: Plan, predicted: float, k: int = 10, **how: bool) -> float:
        return Expectation(made, k).recall(3.0, predicted, plan, **{"drifted": False, **how})

    assert expected(walk, 0.85) == pytest.approx(0.95)  # as the margin tells
    assert expected(walk, 0.7) == pytest.approx(0.9)  # twice the misses
    assert expected(walk, 0.97) == pytest.approx(0.99)
    assert expected(walk, 0.7, drifted=True) == pytest.approx(1 - 0.1 * DRIFT_MISSES)
    assert expected(walk, 1.0) == 1.0
    few = msgspec.structs.replace(walk, ef=400, candidates=50)
    assert expected(few, 0.6) == pytest.approx(0.9)  # by what was rescored
    narrow, wide = (msgspec.structs.replace(walk, ef=ef, candidates=ef) for ef in (88, 128))
    assert expected(wide, 0.7, k=20) == pytest.approx(expected(narrow, 0.7))
    assert expected(wide, 0.7, k=20) != pytest.approx(expected(wide, 0.7))
    first, second = (one.plan for one in stopped)
    between = msgspec.structs.replace(first, early_stop=(first.early_stop + second.early_stop) // 2)
    assert expected(first, 0.6) == pytest.approx(0.9)
    assert expected(second, 0.8) == pytest.approx(0.9)
    assert 0.9 < expected(between, 0.8) < 0.95
    unknown = msgspec.structs.replace(first, ef=first.ef + 1)
    assert expected(unknown, 0.8) == pytest.approx(0.9)  # half of what was missing


@given(
    st.lists(st.tuples(st.floats(-5, 15), st.floats(0, 1)), min_size=1, max_size=40),
    st.lists(st.tuples(st.floats(-5, 15), st.floats(0, 0.9)), min_size=1, max_size=40),
    st.floats(0.5, 1.0),
)
def test_the_mean_of_what_is_expected_is_what_is_predicted(
    others: list[tuple[float, float]], answers: list[tuple[float, float]], predicted: float
) -> None:
    curve = margin_curve(others + answers)
    claim = claim_of(curve, answers)
    made = calibration(3, margins={10: curve}, claims={10: ((64.0, claim),)})
    plan = Plan(strategy="graph", prefix_dim=WIDTH, ef=64, candidates=64)
    found = [Expectation(made, 10).recall(margin, predicted, plan, drifted=False) for margin, _ in answers]
    assert all(0.0 <= recall <= 1.0 for recall in found)
    if min(found) > 0.0 and claim < 0.999:
        assert np.mean(found) == pytest.approx(predicted)


def test_recall_by_the_margins_of_the_nearest_k() -> None:
    made = calibration(
        4, margins={1: ((0.0, 0.1),), 100: ((0.0, 0.9),)}, scores={1: (1, 1, 1, 1), 100: (2, 2, 2, 2)}
    )
    recalls = [recall_of(made, k, 0.0, 0.95) for k in (1, 3, 40, 10**4)]
    assert recalls == pytest.approx([0.1, 0.1, 0.9, 0.9])
    assert [Expectation(made, k).scores[0] for k in (3, 40)] == [1, 2]


@given(SEEDS, st.floats(-1e6, 1e6), st.floats(0, 1), st.integers(1, 10**4), st.booleans())
def test_recall_of_an_answer_is_possible(
    seed: int, margin: float, predicted: float, k: int, drifted: bool
) -> None:
    for source in ("given", "stored"):
        made = calibration(seed % 8, source=source)
        recall = recall_of(made, k, margin, predicted, drifted=drifted)
        assert 0.0 <= recall <= predicted + 0.5 * (1 - predicted) + 1e-12
        assert recall <= recall_of(made, k, margin + 1, predicted, drifted=drifted) + 1e-12
        assert recall_of(made, k, margin, predicted, drifted=True) <= recall
