"""Intervals of mean recall: how often they hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiered_index.watch.intervals import _student, recall_interval

RUNS = 1_000


def clumped(mean: float, correlation: float, k: int):
    """Recalls of queries that differ: beta-binomial."""
    a, b = mean * (1 / correlation - 1), (1 - mean) * (1 / correlation - 1)
    return lambda random, shape: random.binomial(k, random.beta(a, b, shape)) / k


def mixed(share: float, hard: float, easy: float, k: int):
    """A share of the queries is hard."""
    return (
        lambda random, shape: random.binomial(k, np.where(random.random(shape) < share, hard, easy)) / k,
        share * hard + (1 - share) * easy,
    )


DISTRIBUTIONS = {
    "independent neighbours": (clumped(0.95, 0.001, 10), 0.95, 10),
    "varied": (clumped(0.95, 0.2, 10), 0.95, 10),
    "varied near 1": (clumped(0.99, 0.3, 10), 0.99, 10),
    "all or nothing": (clumped(0.9, 0.5, 10), 0.9, 10),
    "k=1": (clumped(0.95, 0.001, 1), 0.95, 1),
    "k=1 near 1": (clumped(0.99, 0.001, 1), 0.99, 1),
    "k=100": (clumped(0.98, 0.1, 100), 0.98, 100),
    "2 % hard": (*mixed(0.02, 0.3, 1.0, 10), 10),
    "5 % lost": (*mixed(0.05, 0.0, 1.0, 10), 10),
    "1 % lost": (*mixed(0.01, 0.0, 0.99, 10), 10),
    "nearly 1": (clumped(0.999, 0.01, 10), 0.999, 10),
}


@pytest.mark.parametrize("name", list(DISTRIBUTIONS))
@pytest.mark.parametrize("queries", [5, 30, 300])
def test_they_hold_the_true_mean_as_often_as_they_say(name: str, queries: int) -> None:
    draw, mean, k = DISTRIBUTIONS[name]
    recalls = draw(np.random.default_rng([queries, k]), (RUNS, queries))
    found = [
        recall_interval(queries, float(m), float(d), k)
        for m, d in zip(recalls.mean(axis=1), recalls.std(axis=1, ddof=1), strict=True)
    ]
    held = np.mean([one.low <= mean <= one.high for one in found])
    assert held >= 0.925  # 0.938 in a longer simulation, less two standard errors of this one
    if queries == 300:
        widths = [one.high - one.low for one in found]
        normal = 2 * 1.96 * recalls.std() / math.sqrt(queries)
        assert np.median(widths) < 2.5 * max(normal, 0.005)  # and not by being wide


def test_more_queries_narrow_them() -> None:
    widths = [one.high - one.low for n in (5, 50, 500, 5_000) for one in [recall_interval(n, 0.95, 0.1, 10)]]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.01


def test_no_miss_seen_is_no_certainty() -> None:
    for queries, least in ((1, 0.0), (10, 0.6), (100, 0.95), (1_000, 0.995)):
        interval = recall_interval(queries, 1.0, 0.0, 10)
        assert interval.high == 1.0
        assert least <= interval.low < 1.0 - 1.0 / (queries + 1)


@given(
    queries=st.integers(0, 10_000),
    hits=st.floats(0, 1),
    deviation=st.floats(0, 0.5),
    k=st.integers(1, 1_000),
    level=st.sampled_from([0.5, 0.95, 0.999]),
)
def test_ends_are_recalls_around_the_mean(
    queries: int, hits: float, deviation: float, k: int, level: float
) -> None:
    interval = recall_interval(queries, hits, deviation, k, level)
    assert 0.0 <= interval.low <= interval.high <= 1.0
    if queries:
        assert interval.low <= interval.mean <= interval.high
    else:
        assert interval[1:] == (0.0, 1.0)


@pytest.mark.parametrize(
    ("level", "freedom", "expected"), [(0.95, 20, 2.085963), (0.95, 1_000, 1.962339), (0.999, 25, 3.725144)]
)
def test_students_quantiles_are_those_of_the_tables(level: float, freedom: float, expected: float) -> None:
    assert _student(level, freedom) == pytest.approx(expected, rel=1e-4)
