"""Goals of the comparison: ratios by hand, what is missed, and what was not measured."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.compare import goals


def system(name: str, times: dict[float, float], memory_mb: float, build_s: float) -> dict[str, Any]:
    """Return the figures of a system of so many microseconds at each recall."""
    settings = [
        {
            "k": 10,
            "recall": recall,
            "setting": {},
            "memory_mb": {"anonymous": 0.75 * memory_mb, "mapped": 0.25 * memory_mb},
            "rounds": [{"p50": us, "p99": 2 * us, "mean": us, "qps": 1.8e6 / us} for us in (time, time)],
        }
        for recall, time in times.items()
    ]
    described = goals.SYSTEMS[name]
    return {
        "label": described.label,
        "family": described.family,
        "settings": settings,
        "build": {"seconds": build_s, "peak_anonymous_mb": 600.0, "disk_mb": 1_100.0},
        "limited": {"from_disk": {"p95": 2_000.0}},
        "readers": {"share": 0.125},
    }


@pytest.fixture
def run() -> dict[str, Any]:
    return {
        "ours": "tiered-index",
        "data": {"vectors_mb": 1_000.0},
        "gather": {"p95": 50_000.0},
        "systems": {
            "tiered-index": system("tiered-index", {0.90: 30.0, 0.95: 50.0, 0.98: 90.0}, 150.0, 10.0),
            "qdrant-int8": system("qdrant-int8", {0.90: 40.0, 0.95: 100.0, 0.98: 300.0}, 10.0, 1.0),
            "usearch-bf16": system("usearch-bf16", {0.90: 60.0, 0.95: 80.0}, 10.0, 1.0),
            "svs-float16": system("svs-float16", {0.90: 400.0, 0.95: 500.0, 0.98: 600.0}, 300.0, 20.0),
            "faiss-hnsw-flat": system("faiss-hnsw-flat", {0.90: 60.0, 0.95: 200.0, 0.98: 300.0}, 600.0, 5.0),
            "svs-leanvec": {"label": "", "family": "SVS", "error": "not this processor"},
        },
    }


def test_every_goal_is_a_ratio_to_the_system_it_names(run: dict[str, Any]) -> None:
    found = list(goals.goals(run, "tiered-index", 0.95))
    assert [goal.measured for goal in found] == pytest.approx(
        [
            *(30 / 40, 50 / 80, 90 / 300),  # the quickest of the others, at each recall
            *(30 / 60, 50 / 200, 90 / 300),
            2.0,
            *(150 / 300, 150 / 600),
            10 / 20,
            600.0,
            2.0,
            50 / 2,
            12.5,
            1.8,
        ]
    )
    assert [name for goal in found[:3] for name in ("Qdrant", "USearch") if name in goal.what] == [
        *("Qdrant", "USearch", "Qdrant")
    ]
    missed = [goal.what.partition(",")[0] for goal in found if goal.met is False]
    assert missed == [
        "the same",
        "memory beyond what importing takes",
        "what each of eight readers adds to the memory of the first",
    ]
    assert found[10].wanted == 630.0
    assert "missed" in found[3].said()
    assert "0.50 x" in found[3].said()
    page = goals.section(run, 0.95)
    assert page.count("<small>missed</small>") == 3
    assert "not measured" not in page


def test_what_was_not_measured_is_neither_met_nor_missed(run: dict[str, Any]) -> None:
    run["systems"] = {"tiered-index": run["systems"]["tiered-index"]}
    own = run["systems"]["tiered-index"]
    del own["readers"], run["gather"], own["limited"]["from_disk"]
    found = list(goals.goals(run, "tiered-index", 0.95))
    assert [goal.measured for goal in found if goal.met is not None] == pytest.approx([2.0, 600.0, 1.8])
    assert all(
        " met" not in goal.said() and "missed" not in goal.said() for goal in found if goal.met is None
    )
    assert goals.section(run, 0.95).count("not measured") == len(found) - 3


def test_only_systems_of_this_package_have_goals(run: dict[str, Any]) -> None:
    assert goals.owned(run) == ["tiered-index"]
    del run["systems"]["tiered-index"]
    assert goals.section(run, 0.95) == ""
