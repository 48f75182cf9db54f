"""Intervals that hold what they say, checked by drawing again."""

from __future__ import annotations

import numpy as np
import pytest

from tiered_index.fitness.intervals import STUDENT, Bootstrap, stands_out


def test_the_bootstrap_covers_the_true_mean() -> None:
    random = np.random.default_rng(0)
    boot = Bootstrap(100)
    held = 0
    for _ in range(300):
        found = boot.mean(random.beta(4, 1, 100))  # skewed, as shares are; its mean is 0.8
        assert found.low <= found.value <= found.high
        held += found.low <= 0.8 <= found.high
    assert 0.91 <= held / 300 <= 0.985


def test_differences_are_paired() -> None:
    values = np.random.default_rng(1).random(50)
    boot = Bootstrap(50)
    shifted = boot.mean((values + 0.25) - values)
    assert shifted.low == pytest.approx(0.25)
    assert shifted.high == pytest.approx(0.25)
    ratio = boot.ratio(values * 0.9, values)
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((0.9, 0.9, 0.9))
    nothing = np.zeros(50)
    assert boot.ratio(nothing, nothing).value == 1.0


@pytest.mark.parametrize("draws", STUDENT)
def test_one_more_draw_seldom_stands_out(draws: int) -> None:
    """The interval is for a new draw of the same kind, whatever the spread of the kind is."""
    random = np.random.default_rng(draws)
    boot = Bootstrap(80)
    out = 0
    for _ in range(300):
        hardness = random.random(80)
        kinds = 0.5 + 0.1 * random.normal(size=draws + 1)
        values = (random.random((draws + 1, 80, 10)) < (kinds[:, None] * hardness)[..., None]).mean(axis=2)
        found = stands_out(values[0], values[1:], boot)
        out += not found.low <= 0 <= found.high
    assert out / 300 <= 0.08


def test_what_stands_out_is_seen() -> None:
    random = np.random.default_rng(3)
    others = (random.random((8, 100, 10)) < 0.5).mean(axis=2)
    one = (random.random((100, 10)) < 0.65).mean(axis=1)
    found = stands_out(one, others, Bootstrap(100))
    assert 0.05 < found.low < 0.15 < found.high < 0.25
