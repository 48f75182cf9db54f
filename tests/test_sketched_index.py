"""Indexes with sketches of tails: fewer rows read for the same recall, and everything else as without."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import tiered_index as ti
from tiered_index.cli import app
from tiered_index.planner import early
from tiered_index.sketch import records_of
from tiered_index.storage import manifest as manifests
from tiered_index.testing import exact_top_k, matryoshka_vectors, recall_at_k

DIM, PREFIX_DIM, ROWS = 128, 32, 8_000
GRAPH: dict[str, Any] = {"graph_degree": 16, "ef_construction": 40}  # quickly built
WALKERS = ["compiled", "faiss"]
FEW = {1: 24, 2: 16, 4: 12}


@pytest.fixture(scope="module")
def many() -> np.ndarray:
    return matryoshka_vectors(ROWS, DIM, seed=8, decay=0.5)


@pytest.fixture(scope="module")
def asked() -> np.ndarray:
    return matryoshka_vectors(60, DIM, seed=8, stream=1, decay=0.5)


@pytest.fixture(scope="module")
def plain(many: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without sketches."""
    path = tmp_path_factory.mktemp("plain") / "i.tidx"
    with ti.open(path, DIM, prefix_dim=PREFIX_DIM, **GRAPH) as index:
        index.add(np.arange(ROWS), many, {"tenth": np.arange(ROWS) % 10})
    return path


@pytest.fixture
def index(plain: Path, tmp_path: Path) -> Iterator[ti.Index]:
    """The same, to be changed."""
    shutil.copytree(plain, tmp_path / "i.tidx")
    with ti.open(tmp_path / "i.tidx", merge_policy=ti.NoMergePolicy()) as opened:
        yield opened


@pytest.fixture
def walked_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[ti.Index, str], None]:
    """Let FAISS walk, and NumPy rescore."""

    def switch(index: ti.Index, name: str) -> None:
        snapshot = index._current.get()
        if name == "faiss":
            monkeypatch.setattr("tiered_index.storage.scope.road_of", lambda *_: None)
            monkeypatch.setattr(snapshot, "scope", snapshot.scope._replace(road=None))
            for live in snapshot.segments:
                monkeypatch.setattr(live.segment.coarse, "fields", None)
        elif snapshot.scope.road is None:
            pytest.skip("the compiled engine is switched off")

    return switch


def found_by(index: ti.Index, asked: np.ndarray, k: int = 10, **plan: Any) -> tuple[np.ndarray, int]:
    """Return ids one by one, and how many rows each search read; a batch finds the same."""
    each = [index.search(query, k, **plan) for query in asked]
    assert {one.plan.strategy for one in each} == {"graph"}
    assert {(one.stats.parts_walked, one.stats.parts_scanned) for one in each} == {(1, 0)}
    ids = np.array([one.ids for one in each])
    together = index.search(asked, k, **plan)
    np.testing.assert_array_equal(together.ids, ids)
    assert together.stats.rows_read == sum(one.stats.rows_read for one in each)
    assert len({one.stats.rows_read for one in each}) == 1
    return ids, each[0].stats.rows_read


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("walker", WALKERS)
def test_few_rows_in_their_order_find_what_many_find_without(
    index: ti.Index, many: np.ndarray, asked: np.ndarray, walked_by: Callable, walker: str, bits: int
) -> None:
    truth, _ = exact_top_k(many, asked, 10)
    few = FEW[bits]
    walked_by(index, walker)
    before, read = found_by(index, asked, ef=128, candidates=few)
    assert read == few
    all_of_them, read = found_by(index, asked, ef=128, candidates=128)
    assert read == 128
    index.rebuild_coarse(tail_sketch=bits)
    walked_by(index, walker)
    after, read = found_by(index, asked, ef=128, candidates=few)
    assert read == few
    assert recall_at_k(before, truth) < recall_at_k(all_of_them, truth) - 0.04
    assert recall_at_k(after, truth) > recall_at_k(all_of_them, truth) - 0.02
    same, read = found_by(index, asked, ef=128, candidates=128)
    assert recall_at_k(same, truth) == recall_at_k(all_of_them, truth)
    default, read = found_by(index, asked)
    assert read < 40
    assert recall_at_k(default, truth) > recall_at_k(all_of_them, truth) - 0.01


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_both_roads_read_the_same_rows(
    many: np.ndarray, asked: np.ndarray, tmp_path: Path, walked_by: Callable, metric: str, dtype: str
) -> None:
    lengths = np.random.default_rng(1).uniform(0.8, 1.25, (ROWS, 1)).astype(np.float32)
    vectors = (many * lengths).astype(dtype)
    settings = {"prefix_dim": PREFIX_DIM, "metric": metric, "dtype": dtype, "tail_sketch": True, **GRAPH}
    with ti.open(tmp_path / "i.tidx", DIM, **settings) as index:
        assert index.config.tail_sketch == 1
        index.add(np.arange(ROWS), vectors)
        assert index.verify().ok
        truth, scores = exact_top_k(vectors.astype(np.float32), asked, 10, metric=metric)
        walked_by(index, "compiled")
        compiled, read = found_by(index, asked, ef=96, candidates=30)
        best = index.search(asked, 10, ef=96, candidates=30).scores
        walked_by(index, "faiss")
        by_numpy, read_too = found_by(index, asked, ef=96, candidates=30)
        assert read == read_too == 30
        assert recall_at_k(compiled, by_numpy) > 0.98  # FAISS walks otherwise
        assert recall_at_k(compiled, truth) > 0.93
        assert (best <= scores + 1e-3).all()


@pytest.mark.parametrize("walker", WALKERS)
def test_a_plan_that_stops_early_reads_its_candidates(
    index: ti.Index, many: np.ndarray, asked: np.ndarray, walked_by: Callable, walker: str
) -> None:
    from tiered_index.search import search

    index.rebuild_coarse(tail_sketch=2)
    walked_by(index, walker)
    truth, _ = exact_top_k(many, asked, 10)
    distances = []
    for stop in (2, 8, 40):
        plan = ti.Plan(strategy="graph", prefix_dim=PREFIX_DIM, ef=150, candidates=16, early_stop=stop)
        hits = [search(index._current.get(), q[None], 10, plan, perf_counter()) for q in asked]
        assert {hit.stats.rows_read for hit in hits} == {16}
        distances.append(sum(hit.stats.distances for hit in hits))
        found = np.array([hit.addresses[0] for hit in hits])
    assert recall_at_k(found, truth) > 0.96
    if walker == "compiled":  # FAISS walks once, as wide as it may
        assert distances[0] < distances[1] < distances[2]


@pytest.mark.parametrize("walker", WALKERS)
@pytest.mark.parametrize("where", [{"tenth": {"$lt": 8}}, {"tenth": 3}, {"tenth": {"$in": [1, 4, 6]}}])
def test_filtered_searches_read_less_too(
    index: ti.Index, many: np.ndarray, asked: np.ndarray, walked_by: Callable, walker: str, where: dict
) -> None:
    matching = np.array(index.get(where=where)["id"].to_pylist())
    truth, _ = exact_top_k(many[matching], asked, 10)

    def searched() -> tuple[float, float, str]:
        walked_by(index, walker)
        each = [index.search(query, 10, where=where) for query in asked]
        ids = np.array([one.ids for one in each])
        assert np.isin(ids, matching).all()
        (strategy,) = {one.plan.strategy for one in each}
        return (
            recall_at_k(ids, matching[truth]),
            float(np.mean([one.stats.rows_read for one in each])),
            strategy,
        )

    before = searched()
    index.rebuild_coarse(tail_sketch=2)
    after = searched()
    assert before[2] == after[2]
    assert after[0] > max(before[0] - 0.01, 0.95)
    assert after[1] < 0.7 * before[1]


def test_rows_of_all_segments_are_ordered_alike(index: ti.Index, many: np.ndarray, asked: np.ndarray) -> None:
    """Segments too small for a graph have sketches too: else their rows would be read first, or never."""
    new = matryoshka_vectors(900, DIM, seed=8, stream=2, decay=0.5)
    index.rebuild_coarse(tail_sketch=2)
    for part in np.array_split(np.arange(900), 3):
        index.add(ROWS + part, new[part], {"tenth": part % 10})
    gone = np.arange(0, ROWS + 900, 7)
    index.delete(gone)
    everything = np.concatenate([many, new])
    left = np.setdiff1d(np.arange(ROWS + 900), gone)
    truth, _ = exact_top_k(everything[left], asked, 10)
    found = index.search(asked, 10, ef=128, candidates=16)
    assert (found.stats.parts_walked, found.stats.parts_scanned) == (1, 1)
    assert found.stats.rows_read == 16 * len(asked)
    assert recall_at_k(found.ids, left[truth]) > 0.95
    assert index.verify().ok
    sizes = [live.segment.sketch.mapped.size for live in index._current.get().segments]
    assert index.stats().sketch_bytes == sum(sizes)
    assert len(sizes) == 4
    index.optimize()
    assert index.stats().segments == 1
    assert index.verify().ok
    found = index.search(asked, 10, ef=128, candidates=16)
    assert (found.stats.parts_walked, found.stats.parts_scanned) == (1, 0)
    assert recall_at_k(found.ids, left[truth]) > 0.95


def test_a_small_index_is_scanned_and_few_rows_read(
    many: np.ndarray, asked: np.ndarray, tmp_path: Path
) -> None:
    with ti.open(tmp_path / "i", DIM, prefix_dim=PREFIX_DIM, tail_sketch=4) as index:
        index.add(np.arange(500), many[:500])
        truth, _ = exact_top_k(many[:500], asked, 5)
        found = index.search(asked, 5, candidates=7)
        assert (found.stats.parts_scanned, found.stats.rows_read) == (1, 7 * len(asked))
        assert recall_at_k(found.ids, truth) > 0.98
        assert index.search(asked[0], 500).ids.size == 500


def files_of(path: Path, pattern: str) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob(pattern))}


def newest(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(max((path / "manifests").glob("*.json")).read_bytes())
    return found


def test_sketches_come_go_and_change_without_new_graphs(
    index: ti.Index, many: np.ndarray, asked: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs, rows = files_of(index.path, "coarse*"), files_of(index.path, "rows.parquet")
    index.rebuild_coarse(tail_sketch=True)
    first = newest(index.path)
    assert (first["format"], first["config"]["tail_sketch"]) == (4, 1)
    assert index.verify().ok
    with monkeypatch.context() as patch:
        patch.setattr(manifests, "FORMAT_VERSION", 3)
        with pytest.raises(ti.CorruptIndexError, match="format 4, written by a newer version"):
            ti.open(index.path, mode="r")
    one_bit = index.generations()[-1].generation
    index.rebuild_coarse(tail_sketch=4)
    assert index.verify().ok
    assert (
        index.stats().sketch_bytes
        > 2.9 * first["segments"][0]["files"][first["segments"][0]["sketch"]]["size"]
    )
    assert files_of(index.path, "coarse*") == graphs
    with ti.open(index.path, generation=one_bit) as earlier:
        assert earlier.config.tail_sketch == 1
        assert earlier.verify().ok
        assert earlier.search(asked[0], candidates=20).stats.rows_read == 20
    sketch = files_of(index.path, "*.sketch")
    index.rebuild_coarse(graph_degree=8)  # a new graph, the same tails
    assert newest(index.path)["segments"][0]["sketch"] in {Path(name).name for name in sketch}
    index.rebuild_coarse(prefix_dim=64)
    assert index.verify().ok
    truth, _ = exact_top_k(many, asked, 10)
    assert recall_at_k(found_by(index, asked, ef=128, candidates=12)[0], truth) > 0.97
    index.rebuild_coarse(prefix_dim=64, tail_sketch=False)
    assert newest(index.path)["segments"][0]["sketch"] is None
    assert index.stats().sketch_bytes == 0
    index.restore(index.generations()[-2].generation)
    assert (index.config.tail_sketch, index.config.prefix_dim) == (4, 64)
    assert index.verify().ok
    for i in range(3):  # generations that are kept go, and with them what only they named
        index.upsert([i], many[i : i + 1], {"tenth": [0]})
    index.optimize()
    kept = [json.loads(data)["segments"] for data in files_of(index.path / "manifests", "*.json").values()]
    named = {f"segments/{one['name']}/{one['sketch']}" for segments in kept for one in segments}
    assert set(files_of(index.path, "*.sketch")) == named
    assert files_of(index.path, "rows.parquet") != rows
    index.rebuild_coarse(tail_sketch=4)  # as it is
    assert index.verify().ok


def test_what_cannot_be(index: ti.Index, tmp_path: Path, many: np.ndarray) -> None:
    with pytest.raises(ti.ParameterError, match="prefix_dim=128 leaves none"):
        ti.open(tmp_path / "n", DIM, prefix_dim=DIM, tail_sketch=True)
    for wrong in (3, 8, -1, "1", 1.0):
        with pytest.raises(ti.ParameterError, match="must be True, False, 1, 2 or 4 bits"):
            ti.open(tmp_path / "n", DIM, tail_sketch=wrong)
    with pytest.raises(ti.ParameterError, match="choose rotation='none' or tail_sketch=False"):
        ti.ingest(many, tmp_path / "n", id_column=None, tail_sketch=2, rotation="pca", prefix_dim=PREFIX_DIM)
    assert not (tmp_path / "n").exists()
    with pytest.raises(ti.ParameterError, match="choose rotation='none' or tail_sketch=False"):
        index.rebuild_coarse(tail_sketch=2, rotation="pca")
    index.rebuild_coarse(tail_sketch=2)
    before = index.generations()
    with pytest.raises(ti.ParameterError, match="choose rotation='none' or tail_sketch=False"):
        index.rebuild_coarse(rotation="pca")
    with pytest.raises(ti.ParameterError, match="prefix_dim=128 leaves none"):
        index.rebuild_coarse(prefix_dim=DIM)
    assert index.generations() == before
    with pytest.raises(
        ti.ConfigMismatchError, match=r"tail_sketch is 2, not True; rebuild_coarse\(\) changes"
    ):
        ti.open(index.path, tail_sketch=True)
    ti.open(index.path, tail_sketch=2, mode="r").close()


@pytest.mark.parametrize("walker", WALKERS)
def test_damage_is_seen(
    index: ti.Index, many: np.ndarray, asked: np.ndarray, walked_by: Callable, walker: str
) -> None:
    index.rebuild_coarse(tail_sketch=1)
    walked_by(index, walker)
    segment = index._current.get().segments[0].segment
    (path,) = segment.folder.glob("*.sketch")
    sound = path.read_bytes()
    path.write_bytes(sound[:5_000] + bytes([sound[5_000] ^ 1]) + sound[5_001:])
    assert [path.name in problem for problem in index.verify().problems] == [True]
    with pytest.raises(ti.CorruptIndexError, match=f"{path.name}: the digest is wrong"):
        ti.open(index.path, mode="r")
    os.truncate(path, len(sound) // 2)
    for query in (asked[0], asked):
        with pytest.raises(ti.CorruptIndexError, match=f"{path.name}: was cut"):
            index.search(query)
    assert index.search(asked[0], exact=True).ids.size == 10  # which needs none
    path.unlink()
    with pytest.raises(ti.CorruptIndexError, match=path.name):
        ti.open(index.path, mode="r")


def test_sketches_of_other_rows_are_seen(
    index: ti.Index, many: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if they were written of the wrong vectors, with their digest."""

    def of_others(stored: np.ndarray, norms: np.ndarray, form: Any) -> np.ndarray:
        return records_of(stored[::-1], norms[::-1], form)

    with monkeypatch.context() as patch:
        patch.setattr("tiered_index.sketch.records_of", of_others)
        index.rebuild_coarse(tail_sketch=2)
    problems = index.verify().problems
    assert problems
    assert all("sketches of rows" in problem for problem in problems)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_stored_vectors_calibrate(index: ti.Index, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each finds itself, which is read besides, however few candidates a plan has."""
    monkeypatch.setattr(early, "pays", lambda *_, **__: True)  # else times decide which plans are kept
    index.rebuild_coarse(tail_sketch=bits)
    calibration = index.calibrate(k=(1, 10))
    assert calibration.source == "stored"
    assert min(stopped.plan.candidates for stopped in calibration.stopped if stopped.k == 1) < 8


def test_calibration_weighs_how_few_rows_are_read(
    index: ti.Index, asked: np.ndarray, many: np.ndarray
) -> None:
    if index._current.get().scope.road is None:
        pytest.skip("NumPy orders so slowly that scans take no longer")
    queries = matryoshka_vectors(100, DIM, seed=8, stream=3, decay=0.5)
    truth, _ = exact_top_k(many, asked, 10)
    index.calibrate(queries, k=(1, 10))
    before = index.search(asked, 10, min_recall=0.95)
    index.rebuild_coarse(tail_sketch=2)
    calibration = index.calibrate(queries, k=(1, 10))
    assert len(calibration.fractions) == len(calibration.walked[-1].recall[10]) > 5
    after = index.search(asked, 10, min_recall=0.95)
    assert (before.plan.strategy, after.plan.strategy) == ("graph", "graph")
    assert after.plan.candidates < after.plan.ef / 2
    assert after.stats.rows_read < before.stats.rows_read
    few = {stopped.plan.candidates for stopped in calibration.stopped if stopped.k == 10}
    assert few <= {12, 16, 22, 32}
    for walk in calibration.walked:
        if walk.strategy == "graph" and walk.ef == 128:  # an eighth of it finds nearly what all of it does
            by_share = dict(zip(calibration.fractions, walk.recall[10], strict=True))
            assert by_share[0.125] > by_share[1.0] - 0.03
    assert min(recall_at_k(one.ids, truth) for one in (before, after)) > 0.93
    said = str(index.explain(asked[0], min_recall=0.95))
    assert "order: candidates are the best by prefix and 2-bit tail sketch" in said
    assert f"{after.plan.candidates} rows, " in said
    assert "tail sketch" not in str(index.explain(asked[0], min_recall=1.0))


def test_on_the_command_line(many: np.ndarray, tmp_path: Path) -> None:
    def run(*arguments: object) -> str:
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    np.save(tmp_path / "v.npy", many[:1_000])
    path = tmp_path / "i.tidx"
    run("ingest", tmp_path / "v.npy", path, "--id-column", "", "--prefix-dim", 32, "--tail-sketch", 2, "-q")
    stats = json.loads(run("info", path, "--json"))
    assert stats["config"]["tail_sketch"] == 2
    assert stats["sketch_bytes"] == 1_000 * (2 * 2 * 8 + 8) + 48
    assert "2 bits of 96 dimensions" in run("info", path)
    assert newest(path)["format"] == 4
    assert "1-bit tail sketch" in run("rebuild", path, "--tail-sketch", 1)
    assert json.loads(run("rebuild", path, "--tail-sketch", 0, "--json"))["sketch_bytes"] == 0
    without = newest(path)  # of so few rows there are no codes of bytes either: an earlier version reads it
    assert without["format"] == 3
    assert "tail_sketch" not in without["config"]
    assert "sketch" not in without["segments"][0]
    assert json.loads(run("verify", path, "--json"))["problems"] == []
