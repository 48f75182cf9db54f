"""The comparison: real workers on little data, and what is made of their figures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import datasets
from benchmarks.__main__ import main
from benchmarks.compare import charts, growth, report
from benchmarks.compare.commands import pythons, summary
from benchmarks.compare.measures import Point, chosen, cost_at, front, time_at
from benchmarks.compare.processes import Process, WorkerError
from benchmarks.compare.runner import Plan, Runner
from benchmarks.peers import SYSTEMS
from tiered_index.testing import exact_top_k, matryoshka_vectors

RAN = ["tiered-index", "faiss-hnsw-flat"]
ABSENT = "absent"


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run of two systems, and of one whose library cannot be imported."""
    work = tmp_path_factory.mktemp("compare")
    data = datasets.load("synthetic-2000x32", work)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SYSTEMS, ABSENT, SYSTEMS["hnswlib"]._replace(label="an absent one"))
        patch.setattr("benchmarks.compare.runner._COLD_STARTS", 1)
        patch.setattr("benchmarks.compare.runner._WRITES", 3)
        patch.setattr("benchmarks.compare.runner._READERS", 2)
        plan = Plan([*RAN, ABSENT], dict.fromkeys([*RAN, ABSENT], sys.executable), 2, work, work / "run.json")
        ran = Runner(data, plan, lambda _: None).run()
    assert json.loads(plan.output.read_text()) == ran
    return ran


@pytest.fixture(scope="module")
def page(figures: dict[str, Any]) -> str:
    return report.page([figures])


def test_every_system_that_runs_has_all_figures(figures: dict[str, Any]) -> None:
    assert figures["data"] == {
        "name": "synthetic-2000x32",
        "rows": 2_000,
        "dim": 32,
        "queries": 200,
        "vectors_mb": 0.256,
    }
    for name in RAN:
        system = figures["systems"][name]
        assert "error" not in system
        assert system["version"]
        assert system["build"]["disk_mb"] > 0.256
        assert max(e["recall"] for e in system["settings"] if e["k"] == 10) > 0.97
        for entry in system["settings"]:
            assert len(entry["rounds"]) == 2
            for measured in entry["rounds"]:
                assert measured["p50"] <= measured["p95"] <= measured["p99"]
                assert measured["queries"] == 200
                assert ("qps" in measured) == (entry["k"] == 10)
        assert set(system["cold_start_ms"]) == {"import", "disk", "cache"}
        assert system["write"]["count"] == 3
        readers = system["readers"]
        assert readers["count"] == 2
        assert readers["share"] == readers["each_more_mb"] / readers["first_mb"] > 0
        forked = readers["forked"]
        assert forked["share"] == forked["each_more_mb"] / forked["first_mb"] < readers["share"]
        limited = system["limited"]
        assert "failed" in limited or (limited["from_disk"]["p50"] > 0.0 and "p50" in limited)
        assert limited["limit_mb"] == 0.064


def test_a_plain_gather_stands_beside_searches_from_disk(figures: dict[str, Any], tmp_path: Path) -> None:
    gather = figures["gather"]
    assert "failed" in gather or gather["p95"] > 0.0  # 64 KB are not enough where page caches count
    data = datasets.load("synthetic-1000x16", tmp_path)
    with Process("tiered-index", tmp_path / "index", data.folder, sys.executable) as process:
        gather = process.ask("gather", seconds=10.0)
    assert (gather["rows"], gather["queries"]) == (100, 100)
    assert 0.0 < gather["p50"] <= gather["p95"]
    page = report.page([{**figures, "gather": gather}])
    assert f"100 rows a query from a NumPy memory map: {gather['p95']:,.0f} µs" in page


def test_a_system_that_cannot_run_is_named_with_the_reason(figures: dict[str, Any], page: str) -> None:
    assert f"KeyError: '{ABSENT}'" in figures["systems"][ABSENT]["error"]  # workers know no such system
    assert "could not run" in summary(figures["systems"][ABSENT])
    assert "an absent one</b>: hello: KeyError" in page


def test_a_built_index_is_kept_for_the_next_run_unless_its_folder_was_emptied(tmp_path: Path) -> None:
    data = datasets.load("synthetic-1000x16", tmp_path)
    plan = Plan(["faiss-hnsw-flat"], {"faiss-hnsw-flat": sys.executable}, 0, tmp_path, tmp_path / "run.json")
    runner = Runner(data, plan, lambda _: None)
    runner._build("faiss-hnsw-flat")
    first = runner.figures["systems"]["faiss-hnsw-flat"]["build"]
    runner._build("faiss-hnsw-flat")
    assert runner.figures["systems"]["faiss-hnsw-flat"]["build"] == first
    files = set(runner._folder("faiss-hnsw-flat").iterdir())
    for path in files:
        path.unlink()
    runner._build("faiss-hnsw-flat")
    assert files == set(runner._folder("faiss-hnsw-flat").iterdir()) != set()


def test_a_worker_that_dies_says_what_it_said(tmp_path: Path) -> None:
    data = datasets.load("synthetic-1000x16", tmp_path)
    script = tmp_path / "interpreter"
    script.write_text("#!/bin/sh\necho no such processor >&2\nexit 3\n")
    script.chmod(0o700)
    with (
        Process("hnswlib", tmp_path / "index", data.folder, str(script)) as process,
        pytest.raises(WorkerError, match="hello: the process ended with code 3; it said: no such processor"),
    ):
        process.ask("hello")


def test_the_page_needs_nothing_besides_itself(page: str) -> None:
    assert page.startswith("<!doctype html>")
    assert page.count("<svg") == 4
    assert "this package answers in" in page
    for outside in ("<script", "<link", 'src="', "url(http"):
        assert outside not in page
    for name in RAN:
        assert SYSTEMS[name].label in page


def test_charts_are_drawn_of_what_there_is(figures: dict[str, Any]) -> None:
    assert list(charts.draw(figures)) == ["latency", "throughput", "memory", "latency-at-100"]
    nothing = {**figures, "systems": {ABSENT: figures["systems"][ABSENT]}}
    assert charts.draw(nothing) == {}
    assert "was not run" in report.page([nothing])


def test_a_front_has_no_point_that_another_beats() -> None:
    points = [Point(0.9, 10.0), Point(0.8, 12.0), Point(0.95, 20.0), Point(0.95, 25.0), Point(0.99, 80.0)]
    assert front(points) == [Point(0.9, 10.0), Point(0.95, 20.0), Point(0.99, 80.0)]


def test_cost_between_points_is_interpolated_in_its_logarithm() -> None:
    points = [Point(0.90, 100.0), Point(0.94, 400.0), Point(0.80, 50.0)]
    assert cost_at(points, 0.92) == pytest.approx(200.0)
    assert cost_at(points, 0.94) == pytest.approx(400.0)
    assert cost_at(points, 0.5) == 50.0
    assert cost_at(points, 0.941) is None
    assert cost_at([], 0.5) is None


def test_time_at_a_recall_has_the_spread_of_rounds() -> None:
    def entry(recall: float, *times: float) -> dict[str, Any]:
        return {"k": 10, "recall": recall, "rounds": [{"p50": t} for t in times]}

    system = {"settings": [entry(0.9, 10.0, 12.0, 11.0), entry(0.99, 40.0, 30.0, 50.0)]}
    assert time_at(system, 0.99) == pytest.approx({"median": 40.0, "min": 30.0, "max": 50.0})
    assert time_at(system, 0.995) is None
    assert chosen(system, 0.95)["recall"] == 0.99
    assert chosen(system, 0.999)["recall"] == 0.99
    died_in_the_first_round = {"settings": [*system["settings"], entry(1.0)]}
    assert chosen(died_in_the_first_round, 0.999)["recall"] == 0.99
    assert time_at(died_in_the_first_round, 1.0) is None


def test_growth_is_told_where_a_set_was_run_at_two_sizes(figures: dict[str, Any]) -> None:
    def run(name: str, rows: int, slower: float) -> dict[str, Any]:
        changed = json.loads(json.dumps(figures))
        changed["data"] |= {"name": name, "rows": rows}
        for system in changed["systems"].values():
            for entry in system.get("settings", ()):
                entry["recall"] = 1.0
                entry["rounds"] = [{"p50": slower, "p99": slower, "mean": slower, "qps": 1.9e6 / slower}]
        return changed

    small, large = run("set-250k", 250_000, 10.0), run("set-1m", 1_000_000, 12.0)
    assert growth.gain_of_cores(small["systems"][RAN[0]], 0.95) == pytest.approx(1.9)
    assert growth.growth(small, large, RAN[0], 0.95) == pytest.approx(1.2)
    low, high = growth.projected((250_000, 1_000_000), (10.0, 12.0), 16_000_000)
    assert (low, high) == pytest.approx((16.0, 12.0 * 1.2**2))
    page = report.page([large, small])
    assert page.count("1.20 x") == 3 * len(RAN)
    assert "1.90 x" in page
    assert "100,000,000 rows, on paper" in page
    assert "100,000,000" not in report.page([large, run("other-250k", 250_000, 10.0)])


def test_truth_in_blocks_is_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "_BLOCK_ROWS", 300)
    vectors, queries = matryoshka_vectors(1_000, 16), matryoshka_vectors(20, 16, stream=1)
    assert np.array_equal(datasets.exact_rows(vectors, queries, 10), exact_top_k(vectors, queries, 10)[0])


def test_a_file_of_vectors_is_a_data_set(tmp_path: Path) -> None:
    np.save(tmp_path / "own.npy", 3 * matryoshka_vectors(3_000, 16))
    data = datasets.load(str(tmp_path / "own.npy"), tmp_path / "work")
    assert data.name == "own"
    assert data.vectors.shape == (2_000, 16)
    assert np.allclose(np.linalg.norm(data.vectors, axis=1), 1, atol=1e-6)
    assert data.truth.shape == (1_000, 100)
    assert datasets.load(str(data.folder), tmp_path).folder == data.folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "neither a data set"),
        ("synthetic-10", "synthetic-ROWSxDIM"),
        ("arxiv-250k", "say where it is"),
    ],
)
def test_a_data_set_that_cannot_be_had_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.delenv(datasets.DATA_VARIABLE, raising=False)
    with pytest.raises(datasets.DataSetError, match=message):
        datasets.load(name, tmp_path)


def test_the_large_sets_are_found_by_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(datasets.DATA_VARIABLE, str(tmp_path))
    with pytest.raises(datasets.DataSetError, match="there is no arxiv-250000"):
        datasets.load("arxiv-250k", tmp_path)
    folder = tmp_path / "arxiv-250000"
    folder.mkdir()
    for part in ("vectors", "queries", "truth"):
        np.save(folder / f"{part}.npy", np.zeros((1, 1)))
    assert datasets.load("arxiv-250k", tmp_path).folder == folder


def test_interpreters_are_given_by_what_names_begin_with() -> None:
    given = pythons(["/all", "tiered=/own"], ["tiered-index", "hnswlib"])
    assert given == {"tiered-index": "/own", "hnswlib": "/all"}


def test_the_commands_plot_and_report(
    figures: dict[str, Any], page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "run.json"
    source.write_text(json.dumps(figures))
    for command, output in (("plot", "charts"), ("report", "report.html")):
        monkeypatch.setattr(sys, "argv", ["benchmarks", command, str(source), str(tmp_path / output)])
        main()
    assert len(list((tmp_path / "charts").glob("run-*.svg"))) == 4
    assert (tmp_path / "report.html").read_text() == page
