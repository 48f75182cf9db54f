"""Drift: no alarm for the same queries, an alarm for others."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ks_2samp

from tiered_index.testing import exact_top_k, matryoshka_vectors
from tiered_index.watch.drift import FEATURES, LEAST, LEVEL, Live, compare, distance, features, threshold


@pytest.mark.parametrize(("n", "m"), [(50, 80), (300, 256), (1_000, 256)])
def test_distance_and_threshold_are_those_of_the_literature(n: int, m: int) -> None:
    random = np.random.default_rng(n)
    a, b = random.normal(size=n), random.normal(0.2, 1.1, size=m)
    assert distance(a, b) == pytest.approx(ks_2samp(a, b).statistic, abs=1e-12)
    at = threshold(n, m, 0.01)
    # a pair of samples whose distance is the threshold has about that p-value
    p = ks_2samp(a, b, method="asymp").pvalue
    assert (distance(a, b) > at) == (p < 0.01) or p == pytest.approx(0.01, rel=0.3)


def test_the_same_distribution_raises_hardly_an_alarm() -> None:
    random = np.random.default_rng(3)
    alarms = sum(
        compare(random.gamma(3, size=(400, 3)), random.gamma(3, size=(256, 3)), "given").drifted
        for _ in range(1_000)
    )
    assert alarms <= 5  # LEVEL of 1,000 is one
    assert LEVEL == 1e-3


@pytest.mark.parametrize("feature", range(3))
def test_a_shift_of_any_number_raises_it(feature: int) -> None:
    random = np.random.default_rng(4)
    live, seen = random.normal(size=(400, 3)), random.normal(size=(256, 3))
    live[:, feature] += 0.7
    found = compare(live, seen, "given")
    assert found.drifted
    assert [one.feature for one in found.compared if one.differs] == [FEATURES[feature]]


def test_few_queries_tell_nothing() -> None:
    random = np.random.default_rng(5)
    found = compare(random.normal(9, size=(LEAST - 1, 3)), random.normal(size=(256, 3)), "live")
    assert (found.drifted, found.compared) == (False, ())
    live = random.normal(size=(400, 3))
    live[:, :2] = np.nan  # filtered: only the query itself tells
    assert [one.feature for one in compare(live, live, "live").compared] == ["prefix energy"]


def test_features_of_queries() -> None:
    vectors = matryoshka_vectors(300, 32, seed=2)
    queries = matryoshka_vectors(5, 32, seed=2, stream=1)
    _, scores = exact_top_k(vectors, queries, 10)
    found = features(queries, 8, scores)
    np.testing.assert_allclose(found[:, 0], scores[:, 0])
    np.testing.assert_allclose(found[:, 1], scores[:, 0] - scores[:, 9])
    np.testing.assert_allclose(found[:, 2], (queries[:, :8] ** 2).sum(axis=1), rtol=1e-6)
    assert np.isnan(features(queries, 8, None)[:, :2]).all()


def test_looks_come_at_an_eighth_of_a_window() -> None:
    live = Live(400)
    rows = np.random.default_rng(6).normal(size=(1_000, 3))
    looks = []
    for i, row in enumerate(rows):
        live.add([row])
        if live.due():
            looks.append(i + 1)
            live.look(rows, "given")
    assert looks == list(range(50, 1_001, 50))
    assert len(live) == 400
