"""Choices against brute force, and the corrections that follow what is observed."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiered_index.config import Budget
from tiered_index.planner.choose import FLOOR_ERRORS, Chooser, choose, front, totals
from tiered_index.planner.feedback import AS_MEASURED, MAX_FACTOR, Drift, Feedback, State
from tiered_index.planner.model import UNBOUNDED, Options, options
from tiered_index.planner.plan import EXACT, Plan
from tiered_index.planner.times import Times

from .synthetic import ROWS, calibration

SEEDS = st.integers(0, 2**32 - 1)
PLAIN = State(1.0, 1.0, 0.0)
FACTORS = st.floats(0.05, 20.0)
STATES = st.builds(State, FACTORS, FACTORS, st.sampled_from([0.0, 0.25, 1.0]), st.none())
LATENCIES = st.floats(-2.5, 2.5).map(lambda exponent: 10.0**exponent)
FLOORS = st.floats(0.01, 0.99)


def options_of(seed: int, state: State, k: int = 10) -> Options:
    """Return options whose errors differ, as measured ones do."""
    found = options(calibration(seed), k, ROWS, state.cold_share)
    error = np.random.default_rng(seed).uniform(0, 0.01, len(found.plans))
    error[[plan is EXACT for plan in found.plans]] = 0.0
    return found._replace(error=error)


def lists(
    found: Options, state: State, after_ms: float = 0.0, which: int = 3
) -> list[tuple[float, float, float, float, Plan]]:
    """Return (mean, p99, recall, recall that is sure, plan) of each option, the sum done by hand.

    Or p95, if `which` is 2. It is at least that of the stages, and what is left of a budget when their
    deadline comes.
    """
    rows = []
    for i, plan in enumerate(found.plans):
        rescored = 1.0 if plan.strategy == "exact" else state.rescore
        stages = [found.coarse[i] * state.coarse, found.rescore[i] * rescored, found.rest[i]]
        means = [float(stage[0]) for stage in stages]
        squares = [max(float(stage[which] - stage[0]), 0.0) ** 2 for stage in stages]
        p99 = max(
            sum(n) + math.sqrt(sum(n2)) + more
            for n, n2, more in ((means, squares, 0.0), (means[:2], squares[:2], after_ms))
        )
        p99 *= 1.0 if plan.strategy == "graph" else UNBOUNDED
        sure = float(found.recall[i]) - FLOOR_ERRORS * float(found.error[i])
        rows.append((sum(means), p99, float(found.recall[i]), sure, plan))
    return rows


@given(SEEDS, STATES, LATENCIES, st.floats(0.0, 0.9))
def test_a_budget_buys_the_most_recall_that_fits(
    seed: int, state: State, latency: float, share: float
) -> None:
    found, after_ms = options_of(seed, state), share * latency
    choice = choose(found, state, Budget(latency_ms=latency), after_ms)
    fits = [one for one in lists(found, state, after_ms) if one[1] <= latency]
    assert choice.budget_fits == bool(fits)
    assert choice.floor_reached
    if fits:
        chosen = choice.prediction
        assert chosen.recall == max(one[2] for one in fits)
        assert chosen.total.p99 <= latency * (1 + 1e-9)
        assert chosen.coarse.mean + chosen.rescore.mean + after_ms <= latency * (1 + 1e-9)
        ties = [one[0] for one in fits if one[2] == chosen.recall]
        assert chosen.total.mean == pytest.approx(min(ties))
    elif mostly := [one for one in lists(found, state, after_ms, 2) if one[1] <= latency]:
        assert choice.prediction.recall == max(one[2] for one in mostly)
    else:
        fastest = min(one[1] for one in lists(found, state))
        assert choice.prediction.total.p99 == pytest.approx(fastest)


def test_one_stalled_read_of_calibration_does_not_rule_out_every_plan() -> None:
    found = options_of(4, PLAIN)
    stalled = found._replace(rescore=found.rescore.copy())
    stalled.rescore[:, 3] += 1e4  # the 99th percentile of two dozen reads is one of them
    before, after = (choose(one, PLAIN, Budget(latency_ms=4.0)) for one in (found, stalled))
    assert before.budget_fits
    assert not after.budget_fits
    assert after.prediction.recall >= before.prediction.recall > 0.9
    assert after.prediction.total.p95 <= 4.0 < after.prediction.total.p99


@given(SEEDS, STATES, FLOORS)
def test_a_floor_costs_the_least_time(seed: int, state: State, floor: float) -> None:
    found = options_of(seed, state)
    choice = choose(found, state, Budget(min_recall=floor))
    reaching = [one for one in lists(found, state) if one[3] >= floor]
    assert choice.budget_fits
    assert choice.floor_reached == bool(reaching)
    assert reaching  # an exact search always does, unless something faster does too
    assert choice.prediction.recall - FLOOR_ERRORS * choice.prediction.error >= floor
    assert choice.prediction.total.mean == pytest.approx(min(one[0] for one in reaching))


@given(SEEDS, STATES, LATENCIES, FLOORS)
def test_with_both_the_budget_rules(seed: int, state: State, latency: float, floor: float) -> None:
    found = options_of(seed, state)
    choice = choose(found, state, Budget(latency_ms=latency, min_recall=floor))
    fits = [one for one in lists(found, state) if one[1] <= latency]
    both = [one for one in fits if one[3] >= floor]
    assert choice.budget_fits == bool(fits)
    if both:
        assert choice.floor_reached
        assert choice.prediction.total.mean == pytest.approx(min(one[0] for one in both))
    elif fits:
        assert not choice.floor_reached
        assert choice.prediction.recall == max(one[2] for one in fits)
    elif mostly := [one for one in lists(found, state, 0.0, 2) if one[1] <= latency]:
        reaching = [one[0] for one in mostly if one[3] >= floor]
        assert choice.floor_reached == bool(reaching)
        if reaching:
            assert choice.prediction.total.mean == pytest.approx(min(reaching))
        else:
            assert choice.prediction.recall == max(one[2] for one in mostly)
    else:
        assert choice.prediction.total.p99 == pytest.approx(min(one[1] for one in lists(found, state)))


def test_a_floor_that_no_walk_reaches_is_searched_exactly() -> None:
    for seed in range(20):
        found = options_of(seed, PLAIN)
        floor = max(one[3] for one in lists(found, PLAIN) if one[4] is not EXACT) + 1e-9
        assert floor < 1.0
        choice = choose(found, PLAIN, Budget(min_recall=floor))
        assert choice.prediction.plan == EXACT
        assert choice.floor_reached


def test_what_is_predicted_of_the_choice_adds_up() -> None:
    state = State(2.0, 3.0, 0.0)
    found = options_of(5, state)
    prediction = choose(found, state, Budget(min_recall=0.9)).prediction
    i = found.plans.index(prediction.plan)
    assert prediction.coarse.mean == pytest.approx(2.0 * found.coarse[i, 0])
    assert prediction.rescore.mean == pytest.approx(3.0 * found.rescore[i, 0])
    assert prediction.total == Times(*totals(found, state)[i].tolist())


def test_an_exact_search_is_not_corrected_by_what_rescoring_takes() -> None:
    found = options_of(6, PLAIN)
    last = found.plans.index(EXACT)
    np.testing.assert_array_equal(totals(found, State(9.0, 9.0, 0.0))[last], totals(found, PLAIN)[last])


@settings(max_examples=30)
@given(SEEDS, LATENCIES, st.floats(1.0, 20.0), st.floats(1.0, 20.0))
def test_a_slower_machine_gets_cheaper_plans(
    seed: int, latency: float, coarse: float, rescore: float
) -> None:
    found, slow = options_of(seed, PLAIN), State(coarse, rescore, 0.0)
    before = choose(found, PLAIN, Budget(latency_ms=latency))
    after = choose(found, slow, Budget(latency_ms=latency))
    assert before.budget_fits or not after.budget_fits
    if after.budget_fits:
        assert after.prediction.recall <= before.prediction.recall


@settings(max_examples=30)
@given(SEEDS, STATES)
def test_the_front_holds_what_nothing_beats(seed: int, state: State) -> None:
    found = options_of(seed, state)
    shown = front(found, state)
    every = lists(found, state)
    unbeaten = {
        (mean, recall)
        for mean, _, recall, _, _ in every
        if not any(m <= mean and r >= recall and (m < mean or r > recall) for m, _, r, _, _ in every)
    }
    assert len(shown) == len(unbeaten)
    np.testing.assert_allclose([(p.total.mean, p.recall) for p in shown], sorted(unbeaten))


# Chooser


def test_what_was_chosen_is_looked_up() -> None:
    chooser = Chooser(calibration(7))
    budget = Budget(min_recall=0.9)
    first = chooser.choose(10, ROWS, budget)
    assert chooser.choose(10, ROWS, Budget(min_recall=0.9)) is first
    assert chooser.choose(10, ROWS + 1, budget) is first
    assert chooser.choose(10, 3 * ROWS, budget) is not first
    assert chooser.choose(11, ROWS, budget) is not first
    assert chooser.options(10, ROWS) is chooser.options(10, ROWS)
    plan = Plan(strategy="graph", prefix_dim=256, ef=100, candidates=100)
    assert chooser.predict(10, ROWS, plan) is chooser.predict(10, ROWS, plan)


def test_ever_new_budgets_need_no_more_memory() -> None:
    chooser = Chooser(calibration(8, walked=calibration(8).walked[:8]))
    for i in range(1_100):
        assert chooser.choose(10, ROWS, Budget(latency_ms=1.0 + i / 1_000)).prediction.recall > 0
    assert len(chooser._choices) <= 1_024


def test_observed_times_change_the_choice() -> None:
    chooser = Chooser(calibration(9))
    budget = Budget(latency_ms=0.6)
    before = chooser.choose(10, ROWS, budget)
    assert before.budget_fits
    for _ in range(300):
        now = chooser.choose(10, ROWS, budget).prediction
        slow = 4.0 / chooser.feedback.state().coarse
        predicted = now.coarse.p50, now.rescore.p50
        chooser.feedback.observe(predicted, (slow * predicted[0], predicted[1]), 50, 0)
    after = chooser.choose(10, ROWS, budget)
    assert chooser.feedback.state().coarse == pytest.approx(4.0, rel=0.1)
    assert after is not before
    assert after.prediction.recall < before.prediction.recall
    plain = chooser.options(10, ROWS)
    means = [totals(plain, PLAIN)[plain.plans.index(choice.prediction.plan), 0] for choice in (before, after)]
    assert means[1] < means[0]


def test_any_plan_is_predicted_as_the_nearest_measured_one() -> None:
    chooser = Chooser(calibration(10, rows=ROWS))
    kept = chooser.options(10, ROWS)
    for plan in kept.plans[:-1:7]:
        prediction = chooser.predict(10, ROWS, plan)
        assert prediction.plan == plan
        same = [i for i, other in enumerate(kept.plans) if other == plan]
        # two fractions of a beam may round to one number of candidates
        assert min(abs(kept.recall[same] - prediction.recall)) < 0.05
    recalls = []
    for ef in (10, 77, 500):
        foreign = Plan(strategy="graph", prefix_dim=248, ef=ef, candidates=ef)
        prediction = chooser.predict(10, ROWS, foreign)
        assert prediction.plan is foreign
        recalls.append((prediction.recall, prediction.total.mean))
    assert recalls == sorted(recalls)
    assert recalls[0] < recalls[2]
    scan = chooser.predict(10, ROWS, Plan(strategy="scan", prefix_dim=256, ef=100, candidates=100))
    assert scan.coarse.mean > recalls[0][1]


# Feedback


def feed(feedback: Feedback, coarse: np.ndarray, rescore: np.ndarray, rows: int = 50, cold: int = 0) -> None:
    """Let stages take so many times what was measured of them once."""
    for one, other in zip(coarse.tolist(), rescore.tolist(), strict=True):
        state = feedback.state()
        # what is predicted has the corrections in it
        predicted = 2.0 * state.coarse, 0.5 * state.rescore
        feedback.observe(predicted, (2.0 * one, 0.5 * other), rows, cold)


def test_predictions_may_be_older_than_the_corrections() -> None:
    """A decision may stand for a while; what is observed of it is held against what it was made with."""
    feedback = Feedback()
    for _ in range(1_000):
        feedback.observe((2.0, 0.5), (8.0, 0.25), 50, 0, then=AS_MEASURED)
    assert feedback.state().coarse == pytest.approx(4.0, rel=0.1)
    assert feedback.state().rescore == pytest.approx(0.5, rel=0.1)
    other = Feedback()
    for _ in range(1_000):
        other.observe((8.0, 0.25), (8.0, 0.25), 50, 0, then=feedback.state())
    assert other.state() == feedback.state()


@settings(max_examples=15)
@given(st.floats(0.1, 10.0), st.floats(0.1, 10.0), SEEDS, st.booleans())
def test_corrections_follow_the_median(coarse: float, rescore: float, seed: int, outliers: bool) -> None:
    draw = np.random.default_rng(seed)
    noise = np.exp(0.2 * draw.normal(size=(2, 1_500)))
    if outliers:
        noise[:, draw.random(noise.shape[1]) < 0.01] *= 1_000
    feedback = Feedback()
    feed(feedback, coarse * noise[0], rescore * noise[1])
    state = feedback.state()
    assert abs(math.log(state.coarse / coarse)) < 0.2
    assert abs(math.log(state.rescore / rescore)) < 0.2
    assert state.cold_share == 0.0


@given(SEEDS, st.floats(0.5, 3.0))
def test_a_correction_that_wavers_stays(seed: int, slower: float) -> None:
    """Wherever it comes to rest, between two steps too."""
    draw = np.random.default_rng(seed)
    feedback, states = Feedback(), []
    for noise in np.exp(0.2 * draw.normal(size=1_500)):
        feed(feedback, np.array([slower * noise]), np.ones(1))
        states.append(feedback.state())
    changes = sum(one != other for one, other in pairwise(states[500:]))
    assert changes <= 30  # about ten; were each rounded anew, about a hundred


def test_corrections_are_bounded_and_come_back() -> None:
    feedback = Feedback()
    for factor in (1e6, 1e-6):
        feed(feedback, np.full(1_500, factor), np.full(1_500, factor))
        for correction in feedback.state()[:2]:
            assert MAX_FACTOR / 1.1 <= max(correction, 1 / correction) <= MAX_FACTOR * 1.1
            assert (correction > 1) == (factor > 1)
    feed(feedback, np.ones(500), np.ones(500))
    assert feedback.state() == PLAIN


def test_one_stalled_query_changes_nothing() -> None:
    feedback = Feedback()
    feed(feedback, np.array([1e9]), np.array([1e9]))
    assert feedback.state() == PLAIN


def test_cold_rows_are_followed_and_do_not_count_as_slow_ones() -> None:
    feedback = Feedback()
    feed(feedback, np.ones(1), np.full(1, 40.0), cold=50)
    assert feedback.state() == PLAIN
    feed(feedback, np.ones(60), np.ones(60), cold=50)
    assert feedback.state().cold_share == 1.0
    before = feedback.state().rescore
    feed(feedback, np.ones(1), np.full(1, 0.02), cold=0)
    assert feedback.state().rescore == before
    feed(feedback, np.ones(60), np.ones(60), cold=0)
    assert feedback.state().cold_share == 0.0


def test_what_tells_nothing_is_passed_over() -> None:
    feedback = Feedback()
    for _ in range(200):
        feedback.observe((1.0, 1.0), (100.0, 100.0), 0, 0)
        feedback.observe((0.0, 0.0), (100.0, 100.0), 10, 0)
        feedback.observe((1.0, 1.0), (0.0, 0.0), 10, 0)
    assert feedback.state() == PLAIN


def test_a_search_that_was_cut_tells_only_that_it_was_slow() -> None:
    feedback = Feedback()
    for _ in range(200):
        feedback.observe((1.0, 1.0), (0.2, 1.0), 10, 0, cut=True)
    assert feedback.state() == PLAIN
    for _ in range(200):
        feedback.observe((1.0, 1.0), (8.0, 4.0), 10, 0, cut=True)
    assert feedback.state().coarse > 2.0
    assert feedback.state().rescore > 2.0


@settings(max_examples=15)
@given(SEEDS)
def test_scores_as_they_were_are_no_drift(seed: int) -> None:
    draw, drift = np.random.default_rng(seed), Drift()
    for first, last in draw.normal(size=(1_000, 2)).tolist():
        drift.observe(0.8 + 0.1 * first, 0.6 + 0.05 * last, (0.8, 0.1, 0.6, 0.05))
        # over a thousand queries the running mean goes further than its deviation, and seldom four times so
        assert max(abs(drift._first), abs(drift._last)) < 0.65
    for _ in range(100):
        drift.observe(0.8, 0.6, (0.8, 0.1, 0.6, 0.05))
    assert not drift.drifted


@pytest.mark.parametrize("moved", [(0.2, 0.0), (-0.2, 0.0), (0.0, 0.1), (0.0, -0.1)])
def test_scores_that_moved_are_drift_until_they_come_back(moved: tuple[float, float]) -> None:
    drift = Drift()
    drift.observe(1e9, -1e9, (0.8, 0.1, 0.6, 0.05))
    assert not drift.drifted  # of one answer
    for _ in range(100):
        drift.observe(0.8 + moved[0], 0.6 + moved[1], (0.8, 0.1, 0.6, 0.05))
    assert drift.drifted
    for _ in range(100):
        drift.observe(0.8, 0.6, (0.8, 0.1, 0.6, 0.05))
    assert not drift.drifted
