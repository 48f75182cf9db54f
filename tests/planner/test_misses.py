"""The correction of expected misses: it follows what is seen, slowly, and floors are kept by it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.planner.synthetic import calibration
from tiered_index.config import Budget
from tiered_index.planner.choose import Chooser
from tiered_index.planner.misses import LEVELS, MAX_FACTOR, MIN_FACTOR, Correction, Misses, family_of
from tiered_index.planner.plan import Plan

K = 10


WALK = Plan(strategy="graph", prefix_dim=64, ef=50, candidates=50)
OTHER = Plan(strategy="scan", prefix_dim=64, ef=50, candidates=50)


def seen(predicted: float, true: float, queries: int, seed: int = 0) -> Misses:
    misses = Misses()
    for missed in np.random.default_rng(seed).binomial(K, true, queries).tolist():
        misses.observe(WALK, predicted, missed, K)
        misses.correction()
    return misses


def factor(misses: Misses, predicted: float, plan: Plan = WALK) -> float:
    correction = misses.correction()
    assert correction is not None
    return float((1.0 - correction.recall([plan], np.array([1.0 - predicted]))[0]) / predicted)


def test_nothing_seen_corrects_nothing() -> None:
    assert Misses().correction() is None


@pytest.mark.parametrize("predicted", [0.2, 0.05, 0.02])
def test_predictions_that_hold_stay(predicted: float) -> None:
    found = [factor(seen(predicted, predicted, 600, seed), predicted) for seed in range(20)]
    assert 0.85 < np.median(found) < 1.25
    assert max(found) < 1.6


@pytest.mark.parametrize("times", [2.0, 5.0, 0.6])
@pytest.mark.parametrize("predicted", [0.1, 0.04])
def test_the_ratio_of_misses_is_found(times: float, predicted: float) -> None:
    found = [factor(seen(predicted, predicted * times, 600, seed), predicted) for seed in range(10)]
    assert times * 0.85 < np.median(found) < times * 1.3


def test_one_query_moves_it_little() -> None:
    misses = seen(0.05, 0.05, 500)
    before = factor(misses, 0.05)
    misses.observe(WALK, 0.05, K, K)  # all of them missed, at once
    assert factor(misses, 0.05) < before * 1.2


def test_small_moves_are_none() -> None:
    misses = seen(0.05, 0.2, 500)
    before = misses.correction()
    misses.observe(WALK, 0.05, 2, K)
    assert misses.correction() is before


def test_it_forgets() -> None:
    misses = seen(0.05, 0.3, 500)
    assert factor(misses, 0.05) > 4.0
    random = np.random.default_rng(1)
    for _ in range(8_000):
        misses.observe(WALK, 0.05, int(random.binomial(K, 0.05)), K)
    assert factor(misses, 0.05) < 1.3


def test_levels_and_families_stand_by_themselves() -> None:
    misses = Misses()
    random = np.random.default_rng(2)
    for _ in range(800):
        misses.observe(WALK, 0.1, int(random.binomial(K, 0.1)), K)
        misses.observe(WALK, 0.01, int(random.binomial(K, 0.05)), K)
        misses.observe(OTHER, 0.1, int(random.binomial(K, 0.4)), K)
    assert factor(misses, 0.1) < 1.4
    assert factor(misses, 0.01) > 3.0
    assert 3.0 < factor(misses, 0.1, OTHER) < 5.0
    unseen = Plan(strategy="graph", prefix_dim=32, ef=50, candidates=50)
    assert 1.5 < factor(misses, 0.1, unseen) < 4.0  # between them
    assert set(misses.correction().factors()) == {"graph d=64", "scan d=64"}


@settings(max_examples=100)
@given(
    logs=st.lists(st.floats(-0.7, 6.2), min_size=len(LEVELS), max_size=len(LEVELS)),
    recalls=st.lists(st.floats(0, 1), min_size=1, max_size=20),
)
def test_corrected_recalls_keep_their_order(logs: list[float], recalls: list[float]) -> None:
    ordered = np.sort(np.array([*recalls, 1.0]))
    correction = Correction({family_of(WALK): np.array(logs)}, 1.0)
    found = correction.recall([WALK] * len(ordered), ordered)
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found) >= -1e-9).all()
    assert found[-1] == 1.0


@given(seed=st.integers(0, 1_000), count=st.integers(1, 60))
@settings(max_examples=30)
def test_factors_keep_their_bounds(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    misses = Misses()
    for _ in range(count):
        k = int(random.integers(1, 100))
        predicted = float(random.choice([0.0, 1e-4, 0.03, 0.5, 1.0]))
        misses.observe(WALK, predicted, int(random.integers(0, k + 1)), k)
        (low, high) = misses.correction().factors()["graph d=64"]
        assert MIN_FACTOR * 0.999 <= low <= high <= MAX_FACTOR * 1.001


@pytest.mark.parametrize("times", [3.0, 8.0])
@pytest.mark.parametrize("floor", [0.8, 0.9, 0.95])
def test_floors_are_kept_by_queries_that_miss_more(times: float, floor: float) -> None:
    """A closed loop: what is chosen decides what is seen."""
    runs = [_chosen(times, floor, seed) for seed in range(3)]
    assert all(true[0] < floor for true in runs)  # without the correction it would not be kept
    assert np.mean([true[400:] for true in runs]) >= floor - 0.001
    assert np.mean([np.mean(true[400:] < floor - 0.01) for true in runs]) < 0.05


def _chosen(times: float, floor: float, seed: int) -> np.ndarray:
    """The true recalls of 1,200 searches whose queries miss so many times more than calibration's."""
    chooser = Chooser(calibration(3))
    misses, random = Misses(), np.random.default_rng(seed)
    measured = chooser.measured(K, chooser.calibration.rows)
    plans = chooser.options(K, chooser.calibration.rows).plans
    true = []
    for _ in range(1_200):
        choice = chooser.choose(K, chooser.calibration.rows, Budget(min_recall=floor))
        chosen = choice.prediction.plan
        true.append(1.0 - min((1.0 - measured[chosen]) * times, 1.0))
        others = random.choice(len(plans), 2, replace=False)
        for plan in [chosen, *(plans[i] for i in others)]:
            if plan.strategy != "exact":
                predicted = 1.0 - measured[plan]
                rate = min(predicted * times, 1.0)
                # queries differ: neighbours are missed several at a time
                hard = random.beta(rate * 4, (1 - rate) * 4) if 0.0 < rate < 1.0 else rate
                misses.observe(plan, predicted, int(random.binomial(K, hard)), K)
        chooser.feedback.use_misses(misses.correction())
    return np.array(true)


def test_times_do_not_lose_the_correction() -> None:
    chooser = Chooser(calibration(3))
    correction = seen(0.05, 0.2, 100).correction()
    chooser.feedback.use_misses(correction)
    chooser.feedback.observe((1.0, 1.0), (2.0, 2.0), 10, 0)
    assert chooser.feedback.state().misses is correction
