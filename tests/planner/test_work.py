"""Times that fit the work: of made-up walks, some of which were disturbed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiered_index.planner.model import Stopped
from tiered_index.planner.plan import Plan
from tiered_index.planner.times import Times
from tiered_index.planner.work import FAR, beside, factors

EFS = np.array([4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024], float)
CODES = 300.0 + 25.0 * EFS
COSTS = st.tuples(*(st.floats(low, high) for low, high in ((1e-3, 0.05), (1e-5, 1e-4), (1e-5, 3e-4))))


def law(costs: tuple[float, float, float], codes: np.ndarray = CODES, efs: np.ndarray = EFS) -> np.ndarray:
    """Return the milliseconds of walks: of a call, each code, and each place of the beam."""
    return costs[0] + costs[1] * codes + costs[2] * efs


@given(COSTS)
def test_times_that_follow_their_work_stay_as_they_are(costs: tuple[float, float, float]) -> None:
    assert factors(CODES, EFS, law(costs)) == pytest.approx(np.ones(len(EFS)), abs=1e-3)


@given(COSTS, st.integers(0, 2**32 - 1), st.floats(1.3, 4.0))
def test_the_fewer_that_were_disturbed_are_told_by_the_others(
    costs: tuple[float, float, float], seed: int, slower: float
) -> None:
    true, random = law(costs), np.random.default_rng(seed)
    measured = true * random.uniform(0.98, 1.02, len(true))
    begun = random.integers(2, len(true) - 5)  # a moment falls on walks one after another
    measured[begun : begun + 3] *= slower
    found = measured * factors(CODES, EFS, measured)
    assert np.abs(found / true - 1.0).max() <= FAR + 0.1
    quiet = np.setdiff1d(np.arange(len(true)), np.arange(begun, begun + 3))
    assert np.median(np.abs(found / true - 1.0)[quiet]) <= 0.03


@pytest.mark.parametrize("codes", [np.zeros(len(EFS)), CODES[:5]])
def test_without_counts_or_with_few_walks_times_stay_as_they_are(codes: np.ndarray) -> None:
    ms = np.linspace(1.0, 9.0, len(codes))
    assert (factors(codes, EFS[: len(codes)], ms) == 1.0).all()


def test_what_slowed_a_walk_slowed_the_rescoring_after_it() -> None:
    def stopped(ef: int, slower: float) -> Stopped:
        plan = Plan(strategy="graph", prefix_dim=64, ef=ef, candidates=ef, early_stop=9)
        codes = 300.0 + 20.0 * ef
        coarse = Times(*[slower * (0.01 + 4e-5 * codes)] * 4)
        rescore, total = Times(*[slower * 0.02] * 4), Times(*[slower * 0.1] * 4)
        return Stopped(10, plan, 0.9, 0.01, coarse, rescore, total, 20.0, codes=codes)

    seen = [stopped(ef, 3.0 if ef == 60 else 1.0) for ef in range(20, 120, 10)]
    found = {one.plan.ef: one for one in beside([], seen)}
    assert found[60].rescore.mean == pytest.approx(0.02, rel=FAR + 0.01)
    assert found[60].total.p99 == pytest.approx(0.1, rel=FAR + 0.01)
    assert found[50].rescore.mean == pytest.approx(0.02)


def test_walks_that_are_all_alike_tell_one_time() -> None:
    alike = np.full(12, 64.0)
    ms = np.where(np.arange(12) < 4, 3.0, 1.0)
    found = ms * factors(10 * alike, alike, ms)
    assert found == pytest.approx(np.where(np.arange(12) < 4, 1.0 + FAR, 1.0), abs=0.02)
