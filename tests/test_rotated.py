"""A rotation before prefixes are cut: what it finds where energy trails, exact scores, where it is kept."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiered_index as ti
from tiered_index.coarse import _faiss, prefix_graph
from tiered_index.compiled import get_engine
from tiered_index.planner import filtered as filtering
from tiered_index.rotation import fit_rotation
from tiered_index.storage import manifest as manifests
from tiered_index.storage import road
from tiered_index.storage.files import Files
from tiered_index.storage.rotation import directions, write_rotation
from tiered_index.testing import exact_top_k, matryoshka_vectors, recall_at_k
from tiered_index.validate.vectors import prefixes_of, prepare_vectors, prepared_again

from .conftest import DIM

ROWS = 4_400
WIDTH = 16
GRAPH: dict[str, Any] = {"graph_degree": 12, "ef_construction": 40}  # quickly built
Make = Callable[..., ti.Index]


def trailing(rows: int, stream: int = 0) -> np.ndarray:
    """Return vectors whose leading dimensions carry hardly anything: Matryoshka, backwards."""
    return np.ascontiguousarray(matryoshka_vectors(rows, DIM, decay=1.2, seed=5, stream=stream)[:, ::-1])


@pytest.fixture(scope="module")
def many() -> np.ndarray:
    return trailing(ROWS)


@pytest.fixture(scope="module")
def asked() -> np.ndarray:
    return trailing(40, stream=1)


def filled(make_index: Make, many: np.ndarray, **settings: Any) -> ti.Index:
    """An index with a graph and a small segment; the ids are the rows."""
    index = make_index(prefix_dim=WIDTH, merge_policy=ti.NoMergePolicy(), **GRAPH, **settings)
    for part in (np.arange(4_200), np.arange(4_200, ROWS)):
        index.add(part, many[part], {"third": part % 3})
    return index


def one_graph(make_index: Make, many: np.ndarray, **settings: Any) -> ti.Index:
    index = make_index("one.tidx", prefix_dim=WIDTH, **GRAPH, **settings)
    index.add(np.arange(ROWS), many, {"third": np.arange(ROWS) % 3})
    return index


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_where_energy_trails_a_rotation_finds_what_prefixes_miss(
    make_index: Make, many: np.ndarray, asked: np.ndarray, metric: Any, dtype: Any
) -> None:
    vectors = many if metric == "cosine" else many * np.linspace(0.5, 2.0, ROWS, dtype=np.float32)[:, None]
    vectors = vectors.astype(dtype).astype(np.float32)
    index = filled(make_index, vectors, metric=metric, dtype=dtype)
    truth, scores = exact_top_k(vectors, asked, 10, metric)

    def found() -> ti.SearchResult:
        result = index.search(asked, ef=60, candidates=60)
        assert (result.plan.strategy, result.stats.parts_walked, result.stats.parts_scanned) == (
            "graph",
            1,
            1,
        )
        return result

    assert recall_at_k(found().ids, truth) < 0.5
    index.rebuild_coarse(rotation="pca")
    assert index.config.rotation == "pca"
    result = found()
    assert recall_at_k(result.ids, truth) > 0.95
    for i, query in enumerate(asked):
        _, own = exact_top_k(vectors[result.ids[i]], query[None], 10, metric)
        np.testing.assert_allclose(result.scores[i], own[0], rtol=2e-6 if dtype == "float32" else 1e-4)
    exact = index.search(asked, exact=True)
    np.testing.assert_array_equal(exact.ids, truth)
    np.testing.assert_allclose(exact.scores, scores, rtol=2e-6 if dtype == "float32" else 1e-4)
    stored = index.get(range(50), include_vectors=True)["vector"].to_pylist()
    np.testing.assert_array_equal(np.array(stored, np.float32), vectors[:50])
    assert index.verify().ok
    index.rebuild_coarse(rotation=None)
    assert index.config.rotation == "none"
    assert recall_at_k(found().ids, truth) < 0.5
    assert index.verify().ok


def test_dimensions_that_are_not_kept_are_not_turned(
    make_index: Make, many: np.ndarray, asked: np.ndarray
) -> None:
    index = filled(make_index, many[:, ::-1], store_dim=40)
    index.rebuild_coarse(8, rotation="pca")
    truth, _ = exact_top_k(many[:, ::-1][:, :40], asked[:, ::-1][:, :40], 10)
    found = index.search(asked[:, ::-1], ef=100, candidates=100)
    assert found.plan.strategy == "graph"
    assert recall_at_k(found.ids, truth) > 0.9
    assert index._current.get().directions.shape == (8, 40)
    assert index.verify().ok


@pytest.fixture(params=["compiled", "faiss"])
def walker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "faiss":
        for module in (prefix_graph, road):
            monkeypatch.setattr(module, "get_engine", lambda: None)
    elif get_engine() is None:
        pytest.skip("there is no compiled engine")


@pytest.mark.usefixtures("walker")
def test_every_way_of_searching_turns_its_queries(
    make_index: Make, many: np.ndarray, asked: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = one_graph(make_index, many)
    index.rebuild_coarse(24, rotation="pca")
    truth, _ = exact_top_k(many, asked, 10)
    thirds = np.flatnonzero(np.arange(ROWS) % 3 == 1)
    among, _ = exact_top_k(many[thirds], asked, 10)

    def recall(truth: np.ndarray, wanted: str, **how: Any) -> None:
        alone = [index.search(query, **how) for query in asked]
        assert {one.plan.strategy for one in alone} == {wanted}
        assert recall_at_k([one.ids for one in alone], truth) > 0.95
        together = index.search(asked, **how)
        assert together.plan.strategy == wanted
        assert recall_at_k(together.ids, truth) > 0.95

    recall(truth, "graph", ef=60, candidates=30)
    recall(truth, "graph", ef=60, candidates=60, prefix_dim=16)
    recall(truth, "scan", ef=200, candidates=60)
    recall(thirds[among], "scan", where={"third": 1})
    monkeypatch.setattr(filtering, "SCAN_ROWS_PER_EF", 4)  # walk where so few rows would be scanned
    for module in (prefix_graph, road):
        monkeypatch.setattr(module, "SCAN_ROWS_PER_EF", 1)
    recall(thirds[among], "graph", where={"third": 1}, ef=60, candidates=60)
    groups = index.search(asked[0], k=3, group_by="third", group_size=2)
    assert groups.ids[0] == truth[0, 0]


def test_small_segments_that_are_scanned_are_turned(
    make_index: Make, many: np.ndarray, asked: np.ndarray
) -> None:
    index = make_index(prefix_dim=WIDTH, merge_policy=ti.NoMergePolicy())
    index.add(range(100), many[:100])
    index.rebuild_coarse(rotation="pca")
    for start in range(100, 1_000, 300):
        index.add(range(start, start + 300), many[start : start + 300])
    truth, _ = exact_top_k(many[:1_000], asked, 10)
    found = index.search(asked, candidates=40)
    assert (found.plan.strategy, found.stats.parts_scanned) == ("scan", 1)
    assert recall_at_k(found.ids, truth) > 0.95
    assert index.verify().ok


def test_merges_keep_the_rotation_and_pca_again_fits_another(
    make_index: Make, many: np.ndarray, asked: np.ndarray
) -> None:
    index = filled(make_index, many)
    index.rebuild_coarse(rotation="pca")
    (first,) = index.path.glob("rotation-*.npy")
    matrix = np.load(first)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(DIM), atol=1e-5)
    index.optimize()
    index.rebuild_coarse(24)
    assert list(index.path.glob("rotation-*.npy")) == [first]
    truth, _ = exact_top_k(many, asked, 10)
    found = index.search(asked, ef=60, candidates=40)
    assert found.plan.strategy == "graph"
    assert recall_at_k(found.ids, truth) > 0.95
    index.delete(range(200, ROWS))
    index.rebuild_coarse(rotation="pca")
    files = set(index.path.glob("rotation-*.npy"))
    assert len(files) == 2
    (second,) = files - {first}
    assert not np.array_equal(np.load(second), matrix)
    for i in range(3):  # until no generation names the first
        index.delete([i])
    index.optimize()
    assert list(index.path.glob("rotation-*.npy")) == [second]
    assert index.verify().ok


def test_generations_keep_their_rotations(make_index: Make, many: np.ndarray, asked: np.ndarray) -> None:
    index = filled(make_index, many)
    plain = index.stats().generation
    index.rebuild_coarse(rotation="pca")
    turned = index.search(asked, ef=60, candidates=60).ids.tolist()
    index.restore(plain)
    assert index.config.rotation == "none"
    assert index.search(asked, ef=60, candidates=60).ids.tolist() != turned
    assert index.verify().ok
    with ti.open(index.path, generation=plain + 1) as earlier:
        assert earlier.config.rotation == "pca"
        assert earlier.search(asked, ef=60, candidates=60).ids.tolist() == turned
        assert earlier.verify().ok
    index.restore(plain + 1)
    assert index.search(asked, ef=60, candidates=60).ids.tolist() == turned
    index.add([9_000], many[:1], {"third": [0]})
    assert index.verify().ok


def test_plans_are_measured_with_the_rotation(make_index: Make, many: np.ndarray, asked: np.ndarray) -> None:
    index = one_graph(make_index, many)
    index.rebuild_coarse(rotation="pca")
    queries = trailing(80, stream=2)
    calibration = index.calibrate(queries, (10,), seconds=1)
    walked = [one for one in calibration.walked if one.prefix_dim == WIDTH and one.ef >= 64]
    assert max(max(one.recall[10]) for one in walked) > 0.95
    assert index.verify().ok
    assert len(asked) == 40


def test_rows_that_lie_across_all_directions_are_kept(make_index: Make) -> None:
    """They are refused when they come in, but stay where they came before the rotation."""
    vectors = np.zeros((60, DIM), np.float32)
    vectors[:50, :8] = np.random.default_rng(0).normal(size=(50, 8))
    vectors[50:, 40:50] = np.eye(10)
    index = make_index(prefix_dim=DIM)
    index.add(range(60), vectors)
    index.rebuild_coarse(8, rotation="pca")
    assert index.search(vectors[:50], k=1, candidates=10).ids[:, 0].tolist() == list(range(50))
    assert index.search(vectors[50:], k=1, exact=True).ids[:, 0].tolist() == list(range(50, 60))
    assert index.verify().ok
    index.delete(range(10))
    index.optimize()
    assert (len(index), index.verify().ok) == (50, True)
    turned = np.zeros((8, DIM), np.float32)
    turned[:, :8] = np.eye(8)
    prepared = prepared_again(vectors, index.config, turned)
    assert not prepared.prefixes[50:].any()
    np.testing.assert_allclose(np.linalg.norm(prepared.prefixes[:50], axis=1), 1.0, rtol=1e-6)
    with pytest.raises(ti.ZeroVectorError, match=r"first 8 dimensions, after the rotation, .*row 52"):
        prepare_vectors(vectors[50:51], index.config, 52, turned)


@pytest.mark.parametrize("rows", [0, WIDTH - 1])
def test_too_few_rows_to_fit_to(make_index: Make, many: np.ndarray, rows: int) -> None:
    index = make_index(prefix_dim=WIDTH)
    index.add(range(rows), many[:rows])
    generation = index.stats().generation
    with pytest.raises(ti.ParameterError, match=f"at least as many rows to fit as prefix_dim=16, not {rows}"):
        index.rebuild_coarse(rotation="pca")
    assert (index.stats().generation, index.config.rotation) == (generation, "none")
    index.rebuild_coarse(8)


def test_too_many_dimensions_to_rotate(tmp_path: Path) -> None:
    with ti.open(tmp_path / "wide.tidx", dim=8_200, prefix_dim=8) as index:
        index.add(range(8), np.eye(8, 8_200) + 1)
        with pytest.raises(ti.ParameterError, match="at most 8192 dimensions, not 8200"):
            index.rebuild_coarse(rotation="pca")


# Ingestion


def source_of(kind: str, many: np.ndarray, folder: Path) -> Any:
    if kind == "array":
        return many
    table = pa.table({"id": np.arange(len(many)), "vector": list(many)})
    if kind == "parquet":
        for part in range(2):
            half = len(many) // 2
            pq.write_table(table.slice(part * half, half), folder / f"{part}.parquet", row_group_size=700)
        return folder / "*.parquet"
    if kind == "npy":
        np.save(folder / "v.npy", many)
        return folder / "v.npy"
    return pa.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=333))


@pytest.mark.parametrize("kind", ["array", "npy", "parquet", "stream"])
def test_ingestion_fits_to_what_comes(
    tmp_path: Path, many: np.ndarray, asked: np.ndarray, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["tiered_index.ingest"], "ROTATION_ROWS", 1_000)
    source = source_of(kind, many, tmp_path)
    numbered = {"id_column": None} if kind in ("array", "npy") else {}
    report = ti.ingest(source, tmp_path / "i.tidx", prefix_dim=WIDTH, rotation="pca", **numbered)
    assert report.rows == ROWS
    truth, _ = exact_top_k(many, asked, 10)
    with ti.open(tmp_path / "i.tidx", mode="r") as index:
        assert (index.config.rotation, index.config.prefix_dim) == ("pca", WIDTH)
        assert index.get(where={}, include_vectors=True)["id"].to_pylist() == list(range(ROWS))
        found = index.search(asked, ef=60, candidates=60)
        assert found.plan.strategy == "graph"
        assert recall_at_k(found.ids, truth) > 0.95
        assert index.verify().ok
        sample = many[:1_000] if kind == "stream" else many[np.floor(np.arange(1_000) * 4.4).astype(int)]
        expected = fit_rotation(sample / np.linalg.norm(sample, axis=1, keepdims=True))[:, :WIDTH].T
        np.testing.assert_allclose(np.abs(index._current.get().directions), np.abs(expected), atol=1e-3)


def test_ingestion_that_keeps_fewer_dimensions_fits_to_those(tmp_path: Path, many: np.ndarray) -> None:
    path = tmp_path / "i.tidx"
    ti.ingest(
        many[:500], path, id_column=None, store_dim=40, prefix_dim=WIDTH, dtype="float16", rotation="pca"
    )
    with ti.open(path, mode="r") as index:
        assert index._current.get().directions.shape == (WIDTH, 40)
        found = index.search(many[:20], k=3, candidates=60)
        kept = many[:500, :40].astype(np.float16).astype(np.float32)
        truth, _ = exact_top_k(kept, many[:20, :40], 3)
        assert found.plan.strategy == "scan"
        assert recall_at_k(found.ids, truth) > 0.95
        assert index.verify().ok


def test_ingestion_into_an_index_without_rows_or_with_the_rotation(tmp_path: Path, many: np.ndarray) -> None:
    with ti.open(tmp_path / "i.tidx", dim=DIM, prefix_dim=WIDTH) as index:
        with pytest.raises(ti.DimensionError, match="60 dimensions, the index 64"):
            ti.ingest(many[:100, :60], index, id_column=None, rotation="pca")
        assert index.stats().generation == 1
        ti.ingest(many[:100], index, id_column=None, rotation="pca")
        (first,) = index.path.glob("rotation-*")
    for rotation in ("pca", None):
        report = ti.ingest(
            many[:200], tmp_path / "i.tidx", id_column=None, rotation=rotation, skip_existing=True
        )
        assert report.rows == (100 if rotation else 0)
    with ti.open(tmp_path / "i.tidx", mode="r") as index:
        assert list(index.path.glob("rotation-*")) == [first]
        assert index.verify().ok


def test_ingestion_does_not_turn_rows_that_are_there(tmp_path: Path, many: np.ndarray) -> None:
    path = tmp_path / "i.tidx"
    ti.ingest(many[:100], path, id_column=None, prefix_dim=WIDTH)
    with pytest.raises(ti.ConfigMismatchError, match=r"rotation is 'none', not 'pca'; rebuild_coarse\(\)"):
        ti.ingest(many, path, id_column=None, rotation="pca", skip_existing=True)
    with ti.open(path) as index:
        assert len(index) == 100
        index.rebuild_coarse(rotation="pca")
    with pytest.raises(ti.ConfigMismatchError, match="rotation is 'pca', not 'none'"):
        ti.ingest(many, path, id_column=None, rotation="none", skip_existing=True)


@pytest.mark.parametrize("bad", ["few", "unknown", "nan"])
def test_ingestion_that_cannot_fit_makes_no_index(tmp_path: Path, many: np.ndarray, bad: str) -> None:
    vectors = many.copy()
    vectors[4_321, 3] = np.nan
    source, rotation, error, named = {
        "few": (many[:15], "pca", ti.ParameterError, "prefix_dim=16, not 15"),
        "unknown": (many, "opq", ti.ParameterError, "rotation must be one of 'none', 'pca', not 'opq'"),
        "nan": (vectors, "pca", ti.NonFiniteVectorError, "row 4321"),
    }[bad]
    with pytest.raises(error, match=named):
        ti.ingest(source, tmp_path / "i.tidx", id_column=None, prefix_dim=WIDTH, rotation=rotation)
    assert not (tmp_path / "i.tidx").exists()


# The file


def test_a_damaged_or_missing_rotation_is_named(make_index: Make, many: np.ndarray) -> None:
    index = filled(make_index, many)
    index.rebuild_coarse(rotation="pca")
    (file,) = index.path.glob("rotation-*.npy")
    sound = file.read_bytes()
    for data in (sound[:-1], sound + b"x", sound[:-9] + b"\0" + sound[-8:]):
        file.write_bytes(data)
        report = index.verify()
        assert [file.name in problem for problem in report.problems] == [True]
        with pytest.raises(ti.CorruptIndexError, match=file.name):
            ti.open(index.path)
    file.unlink()
    assert "missing" in index.verify().problems[0]
    with pytest.raises(ti.CorruptIndexError, match=f"{file.name}: missing"):
        ti.open(index.path)
    file.write_bytes(sound)
    assert index.verify().ok


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_codes_of_another_rotation_are_noticed(make_index: Make, many: np.ndarray, metric: Any) -> None:
    """As if the manifest named, with its digest, the wrong file."""
    index = filled(make_index, many, metric=metric)
    index.rebuild_coarse(rotation="pca")
    snapshot = index._current.get()
    right = np.load(index.path / snapshot.manifest.rotation.file)
    turned = right.copy()
    angle = 0.05
    turned[:, 0] = np.cos(angle) * right[:, 0] + np.sin(angle) * right[:, 1]
    turned[:, 1] = np.cos(angle) * right[:, 1] - np.sin(angle) * right[:, 0]
    named = write_rotation(Files(), index.path, turned, [])
    snapshot.manifest = msgspec.structs.replace(snapshot.manifest, rotation=named)
    problems = index.verify().problems
    assert problems
    assert all("codes of rows" in problem for problem in problems)


def test_earlier_versions_read_what_is_plain_and_refuse_what_is_not(
    make_index: Make, many: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(_faiss, "MAX_BYTES_LOSS", 0.0)
        index = filled(make_index, many)

        def newest() -> dict[str, Any]:
            return json.loads(max((index.path / "manifests").glob("*.json")).read_bytes())

        of_2 = newest()
        assert of_2["format"] == 2
        assert not {"rotation", "rebuilt"} & {*of_2, *of_2["config"], *of_2["segments"][0]}
        assert not {"coarse", "code"} & {*of_2["segments"][0]}
        for rotation in ("pca", "none"):
            index.rebuild_coarse(rotation=rotation)
            assert newest()["format"] == 3
            assert "code" not in newest()["segments"][0]
            check_refused(index, 3, monkeypatch)
    index.optimize()
    assert (newest()["format"], newest()["segments"][0]["code"]) == (4, "sq8")
    check_refused(index, 4, monkeypatch)


def check_refused(index: ti.Index, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(manifests, "FORMAT_VERSION", version - 1)
        with pytest.raises(ti.CorruptIndexError, match=f"format {version}, written by a newer version"):
            ti.open(index.path)


@given(
    dim=st.integers(2, 40),
    rows=st.integers(1, 12),
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([1e-12, 1.0, 1e12]),
    unit=st.booleans(),
    data=st.data(),
)
@settings(max_examples=60)
def test_prefixes_are_components_along_the_first_directions(
    dim: int, rows: int, seed: int, scale: float, unit: bool, data: st.DataObject
) -> None:
    random = np.random.default_rng(seed)
    rotation = np.linalg.qr(random.normal(size=(dim, dim)))[0].astype(np.float32)
    width = data.draw(st.integers(1, dim))
    cut = data.draw(st.integers(1, width))
    queries = (random.normal(size=(rows, dim)) * scale).astype(np.float32)
    expected = (queries.astype(np.float64) @ rotation.astype(np.float64))[:, :cut]
    if unit:
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    turned = directions(rotation, width)
    together = prefixes_of(queries, cut, unit=unit, directions=turned)
    alone = [prefixes_of(query[None], cut, unit=unit, directions=turned)[0] for query in queries]
    assert together.dtype == np.float32
    assert together.flags.c_contiguous
    lengths = np.linalg.norm(queries, axis=1) if not unit else 1.0 / np.abs(expected).max(axis=1)
    for found in (together, np.array(alone)):
        wrong = np.abs(found - expected).max(axis=1)
        tolerance = 1e-5 if not unit else 1e-3
        assert (wrong <= tolerance * np.maximum(lengths, 1e-30)).all()
