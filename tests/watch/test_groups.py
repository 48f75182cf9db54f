"""Recalls by group, windows, floors, and alarms that are not noise."""

from __future__ import annotations

import numpy as np
import pytest

from tiered_index.watch.groups import MOST_GROUPS, Groups, Key
from tiered_index.watch.report import RecallChange, Watched, pooled, table


def feed(
    groups: Groups,
    recalls: np.ndarray,
    *,
    k: int = 10,
    floor: float | None = 0.9,
    tag: str | None = None,
    every: int = 10,
    at: float = 0.0,
) -> list[RecallChange]:
    changes = []
    for i, recall in enumerate(recalls.tolist()):
        keys = groups.add(at, recall, k, floor=floor, tag=tag, profile=None, plan="p")
        if i % every == every - 1:
            changes += groups.changes(keys, at)
    return changes


def draw(mean: float, count: int, seed: int = 0, k: int = 10) -> np.ndarray:
    return np.random.default_rng(seed).binomial(k, mean, count) / k


def test_moments_are_those_of_the_recalls() -> None:
    groups = Groups(100, None, {})
    recalls = draw(0.9, 250)
    feed(groups, recalls, floor=None, tag="a")
    found = {(group.by, group.name): group for group in groups.report()}
    assert set(found) == {("all", ""), ("tag", "a"), ("plan", "p")}
    group = found["tag", "a"]
    assert (group.window.queries, group.total.queries, group.floor) == (100, 250, None)
    assert group.window.recall == pytest.approx(recalls[-100:].mean())
    assert group.total.recall == pytest.approx(recalls.mean())
    assert group.total.deviation == pytest.approx(recalls.std(ddof=1))
    assert group.window.low < group.window.recall < group.window.high
    assert group.total.high - group.total.low < group.window.high - group.window.low


def test_each_k_stands_for_itself() -> None:
    groups = Groups(100, None, {})
    feed(groups, draw(1.0, 20), k=10)
    feed(groups, draw(0.0, 20), k=1)
    assert {(g.k, g.window.recall) for g in groups.report() if g.by == "all"} == {(10, 1.0), (1, 0.0)}


def test_a_window_of_time() -> None:
    groups = Groups(1_000, 60.0, {})
    feed(groups, draw(0.0, 20), at=100.0)
    feed(groups, draw(1.0, 5), at=150.0)
    assert groups.report()[0].window.queries == 25
    feed(groups, draw(1.0, 5), at=161.0)
    assert (groups.report()[0].window.queries, groups.report()[0].window.recall) == (10, 1.0)
    groups.expire(1_000.0)
    assert {group.window.queries for group in groups.report()} == {0}
    assert groups.report()[0].total.queries == 30
    assert "-" in table(groups.report())[1]


def test_an_alarm_and_its_end_are_told_once_each() -> None:
    groups = Groups(200, None, {})
    assert feed(groups, draw(0.97, 300)) == []
    fell = feed(groups, draw(0.6, 300, seed=1))
    assert [(c.below, c.by, c.k) for c in fell] == [(True, "all", 10)]
    assert fell[0].high < fell[0].floor == pytest.approx(0.9)
    assert fell[0].recall <= fell[0].high
    assert groups.report()[0].below
    back = feed(groups, draw(0.97, 400, seed=2))
    assert [(c.below, c.by) for c in back] == [(False, "all")]
    assert back[0].recall >= 0.9
    assert "below its floor" in str(fell[0])
    assert "back at its floor" in str(back[0])


def test_an_alarm_ends_with_the_last_query_that_has_a_floor() -> None:
    groups = Groups(50, None, {})
    assert [c.below for c in feed(groups, draw(0.5, 60))] == [True]
    assert feed(groups, draw(1.0, 45), floor=None, every=1) == []  # a few are left: what was said stands
    assert groups.report()[0].below
    over = feed(groups, draw(1.0, 100), floor=None, every=1)
    assert [(c.below, c.by, c.queries, c.floor) for c in over] == [(False, "all", 0, pytest.approx(0.9))]
    assert "no query with one is left" in str(over[0])
    group = groups.report()[0]
    assert (group.floor, group.below) == (None, False)
    assert feed(groups, draw(0.5, 9), every=1) == []  # too few to begin anew with
    assert [c.below for c in feed(groups, draw(0.5, 50))] == [True]


@pytest.mark.parametrize("seed", range(3))
def test_a_floor_of_1_is_reached_again(seed: int) -> None:
    groups = Groups(50, None, {})
    assert [c.below for c in feed(groups, draw(0.7, 60, seed), floor=1.0)] == [True]
    assert [c.below for c in feed(groups, draw(1.0, 60), floor=1.0)] == [False]


def test_an_alarm_ends_in_silence() -> None:
    groups = Groups(1_000, 2.0, {"legal": 0.95})
    assert [c.below for c in feed(groups, draw(0.5, 60), floor=None, tag="legal", at=100.0)] == [True]
    assert groups.expire(101.0) == []
    assert next(g for g in groups.report() if g.by == "tag").below
    assert [(c.below, c.by, c.name) for c in groups.expire(108.0)] == [(False, "tag", "legal")]
    assert not any(group.below for group in groups.report())
    assert groups.expire(109.0) == []


def test_floors_by_tag_go_before_what_was_asked() -> None:
    groups = Groups(500, None, {"legal": 0.95})
    changes = feed(groups, draw(0.85, 400), floor=0.5, tag="legal")
    assert [(c.by, c.name, c.floor) for c in changes] == [("tag", "legal", pytest.approx(0.95))]
    groups = Groups(500, None, {"legal": 0.95})
    assert feed(groups, draw(0.85, 400), floor=0.5, tag="other") == []
    assert feed(groups, draw(0.85, 400), floor=None) == []  # nothing was asked, nothing is missed


@pytest.mark.parametrize("k", [1, 10])
def test_noise_about_the_floor_is_no_alarm(k: int) -> None:
    """A true recall at the floor, 2,000 queries and a look after each ten of them."""
    alarmed = sum(bool(feed(Groups(1_000, None, {}), draw(0.9, 2_000, seed, k), k=k)) for seed in range(20))
    assert alarmed <= 2


def test_what_is_held_is_bounded() -> None:
    groups = Groups(10, None, {})
    for i in range(MOST_GROUPS + 40):
        groups.add(0.0, 1.0, 10, floor=None, tag=f"tag {i:04}", profile="p", plan=f"plan {i}")
        groups.add(0.0, 1.0, 10, floor=None, tag="often", profile="p", plan="plan")
    tags = [group.name for group in groups.report() if group.by == "tag"]
    assert len(tags) == MOST_GROUPS
    assert "often" in tags
    assert "tag 0000" not in tags
    assert groups.changes([Key("tag", "tag 0000", 10)], 0.0) == []
    assert sum(group.by == "plan" for group in groups.report()) == MOST_GROUPS


def test_groups_of_several_processes_are_joined() -> None:
    recalls = draw(0.9, 300)
    parts = [Groups(1_000, None, {}) for _ in range(3)]
    for part, some in zip(parts, np.split(recalls, [20, 120]), strict=True):
        feed(part, some)
    whole = Groups(1_000, None, {})
    feed(whole, recalls)
    joined = pooled(group for part in parts for group in part.report())
    for found, wanted in zip(joined, whole.report(), strict=True):
        assert (found.by, found.name, found.floor) == (wanted.by, wanted.name, pytest.approx(0.9))
        for name in ("window", "total"):
            ours, theirs = getattr(found, name), getattr(wanted, name)
            assert ours.queries == theirs.queries == 300
            for field in ("recall", "low", "high", "deviation"):
                assert getattr(ours, field) == pytest.approx(getattr(theirs, field))
    assert Watched.of(0, float("nan"), 0.0, 10).queries == 0
