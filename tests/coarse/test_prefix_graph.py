"""The coarse tier: one ordinary FAISS file, every prefix dimension, mapped and not copied."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest

import tiered_index as ti
from tiered_index.coarse import _faiss, content, prefix_graph
from tiered_index.coarse._faiss import LINE_BYTES, MAX_BYTES_LOSS
from tiered_index.coarse.prefix_graph import GRAPH_MIN_ROWS, SCAN_ROWS_PER_EF, CoarseBuilder, CoarseTier
from tiered_index.testing import exact_top_k, matryoshka_vectors, recall_at_k

WIDTH = 48
ROWS = 5_000


def build(path: Path, prefixes: np.ndarray) -> bool:
    builder = CoarseBuilder(prefixes.shape[1], 16, 60)
    for start in range(0, len(prefixes), 700):
        builder.add(prefixes[start : start + 700])
    with path.open("wb") as sink:
        return builder.write(sink.write).has_graph


@pytest.fixture(scope="module")
def prefixes() -> np.ndarray:
    return matryoshka_vectors(ROWS, WIDTH, seed=4)


@pytest.fixture(scope="module")
def asked() -> np.ndarray:
    return matryoshka_vectors(60, WIDTH, seed=4, stream=1)


@pytest.fixture(scope="module")
def path(prefixes: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("coarse") / "coarse.faiss"
    assert build(file, prefixes)
    return file


@pytest.mark.parametrize("dim", [8, 16, 40, WIDTH])
def test_a_scan_scores_the_prefixes_of_the_codes(
    path: Path, prefixes: np.ndarray, asked: np.ndarray, dim: int
) -> None:
    tier = CoarseTier.open(str(path), WIDTH, ROWS)
    query = np.ascontiguousarray(asked[:, :dim])
    found = tier.search(query, 20, 20, scan=True)
    assert found.scanned
    stood_for = tier.decode(tier.codes())
    assert np.all(np.abs(stood_for - prefixes) <= tier.tolerance(prefixes))
    truth, scores = exact_top_k(stood_for[:, :dim], query, 20, "dot")
    assert recall_at_k(found.rows, truth) >= 0.99  # rounding of ties in the last bit
    np.testing.assert_allclose(found.scores, scores, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dim", [16, WIDTH])
def test_a_walk_finds_what_a_scan_finds(path: Path, asked: np.ndarray, dim: int) -> None:
    tier = CoarseTier.open(str(path), WIDTH, ROWS)
    query = np.ascontiguousarray(asked[:, :dim])
    walked = tier.search(query, 100, 10)
    assert not walked.scanned
    assert recall_at_k(walked.rows, tier.search(query, 100, 10, scan=True).rows) >= 0.95


def test_faiss_itself_reads_the_file(path: Path, asked: np.ndarray) -> None:
    theirs = faiss.read_index(str(path))
    _, rows = theirs.search(asked, 10, params=faiss.SearchParametersHNSW(efSearch=100))
    tier = CoarseTier.open(str(path), WIDTH, ROWS)
    assert rows.tolist() == tier.search(asked, 100, 10).rows.tolist()


@pytest.mark.parametrize(("largest", "rows"), [(1.0, ROWS), (40.0, ROWS), (1.0, 900), (1.0, 0)])
def test_codes_and_links_are_found_as_faiss_finds_them(
    tmp_path: Path, prefixes: np.ndarray, largest: float, rows: int
) -> None:
    """Of a graph over bytes, of one over bf16 codes, and of codes alone."""
    given = prefixes[:rows].copy()
    given[77:78] *= largest
    file = tmp_path / "coarse.faiss"
    build(file, given)
    with file.open("rb") as opened:
        found = content.read_content(opened.fileno())
        index = _faiss.read_mapped(str(file), opened.fileno())
    theirs = _faiss.content_of(index)
    assert found is not None
    assert found.dim == theirs.dim == WIDTH
    assert found.rows == theirs.rows == rows
    np.testing.assert_array_equal(found.codes, theirs.codes)
    assert (found.ranges is None) == (theirs.ranges is None) == (largest > 1.0 or rows < ROWS)
    if found.ranges is not None:
        np.testing.assert_array_equal(found.ranges, theirs.ranges)
    assert (found.graph is None) == (theirs.graph is None) == (rows < ROWS)
    if found.graph is not None and theirs.graph is not None:
        np.testing.assert_array_equal(found.graph.offsets, theirs.graph.offsets)
        np.testing.assert_array_equal(found.graph.links, theirs.graph.links)
        assert found.graph[2:] == theirs.graph[2:]
        assert found.graph.degrees == (32, 16)


def places_of(file: Path) -> dict[str, int]:
    """Return where in a file some of what is checked lies."""
    data = file.read_bytes()
    graph = data.index(b"IHNs") + 37
    ends = graph + 8 + 8 * int.from_bytes(data[graph : graph + 8], "little")
    levels = ends + 8 + 4 * int.from_bytes(data[ends : ends + 8], "little")
    offsets = levels + 8 + 4 * ROWS
    links = offsets + 8 + 8 * (ROWS + 1)
    last = links + 8 + 4 * int.from_bytes(data[links : links + 8], "little")
    return {
        "name": 0,
        "transforms": 37,
        "rows": graph - 29,
        "metric": graph - 4,
        "ends": ends + 8,
        "levels": levels,
        "level": levels + 8 + 4 * 70,
        "offsets": offsets,
        "offset": offsets + 8 + 8 * (ROWS // 2),
        "last offset": links - 8,
        "links": links,
        "entry": last + 3,
        "codes": last + 20,
        "kind": last + 20 + 37,
        "end": len(data) - ROWS * WIDTH - 8,
    }


def test_a_file_that_is_not_as_expected_is_left_to_faiss(path: Path, tmp_path: Path) -> None:
    for what, place in places_of(path).items():
        file = tmp_path / "other.faiss"
        data = bytearray(path.read_bytes())
        data[place] ^= 0x41
        file.write_bytes(data)
        with file.open("rb") as opened:
            assert content.read_content(opened.fileno()) is None, what
    for cut in (0, 3, 100, 5_000, len(data) - 1):
        file.write_bytes(path.read_bytes()[:cut])
        with file.open("rb") as opened:
            assert content.read_content(opened.fileno()) is None, cut
        with pytest.raises(ti.CorruptIndexError, match=r"other\.faiss"):
            CoarseTier.open(str(file), WIDTH, ROWS)


@pytest.mark.parametrize("count", [1, 60])
def test_what_faiss_reads_is_searched_alike(
    path: Path, asked: np.ndarray, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    tier = CoarseTier.open(str(path), WIDTH, ROWS)
    monkeypatch.setattr(prefix_graph, "read_content", lambda _: None)
    theirs = CoarseTier.open(str(path), WIDTH, ROWS)
    assert theirs.memory_bytes() == tier.memory_bytes()
    assert (theirs.code, theirs.has_graph) == (tier.code, tier.has_graph)
    for scan in (False, True):
        found, other = (one.search(asked[:count], 50, 10, scan=scan) for one in (tier, theirs))
        assert found.rows.tolist() == other.rows.tolist()
        assert found.scanned == other.scanned == scan
        assert found.distances == other.distances


def test_faiss_opens_a_file_later_though_it_was_removed(
    path: Path, asked: np.ndarray, tmp_path: Path
) -> None:
    file = tmp_path / "coarse.faiss"
    file.write_bytes(path.read_bytes())
    tier = CoarseTier.open(str(file), WIDTH, ROWS)
    file.unlink()
    found = tier.search(asked, 50, 10, scan=True)
    assert (
        found.rows.tolist()
        == CoarseTier.open(str(path), WIDTH, ROWS).search(asked, 50, 10, scan=True).rows.tolist()
    )


def test_codes_and_links_are_views_of_the_file(path: Path, asked: np.ndarray) -> None:
    tier = CoarseTier.open(str(path), WIDTH, ROWS)
    for dim in (8, 16, 40, WIDTH):
        tier.search(np.ascontiguousarray(asked[:1, :dim]), 20, 10)
    for flat, graph in tier._views.values():
        assert not flat.codes.is_owned
        assert not graph.hnsw.neighbors.is_owned


@pytest.mark.parametrize("rows", range(GRAPH_MIN_ROWS, GRAPH_MIN_ROWS + 6))
def test_codes_of_a_graph_begin_with_a_cache_line(tmp_path: Path, prefixes: np.ndarray, rows: int) -> None:
    file = tmp_path / "coarse.faiss"
    build(file, prefixes[:rows])
    tier = CoarseTier.open(str(file), WIDTH, rows)
    assert tier.codes().ctypes.data % LINE_BYTES == 0
    np.testing.assert_array_equal(tier.codes(), tier.encode(prefixes[:rows]))


@pytest.mark.parametrize(("largest", "code"), [(1.0, "sq8"), (40.0, "bf16")])
def test_codes_become_bytes_unless_that_loses_much(
    tmp_path: Path, prefixes: np.ndarray, asked: np.ndarray, largest: float, code: str
) -> None:
    """One row that is many times as long as the others makes the steps of all of them coarse."""
    given = prefixes.copy()
    given[77] *= largest
    file = tmp_path / "coarse.faiss"
    build(file, given)
    tier = CoarseTier.open(str(file), WIDTH, ROWS)
    assert tier.code == code
    assert tier.codes().shape == (ROWS, WIDTH * (2 if code == "bf16" else 1))
    lost = np.linalg.norm(tier.decode(tier.codes()) - given) / np.linalg.norm(given)
    assert lost < MAX_BYTES_LOSS
    truth, _ = exact_top_k(given, asked, 10, "dot")
    assert recall_at_k(tier.search(asked, 30, 30, scan=True).rows, truth) >= 0.99
    walked = tier.search(asked, 100, 30)
    assert not walked.scanned
    assert recall_at_k(walked.rows, truth) >= 0.95


def test_numbers_that_never_differ_are_kept(tmp_path: Path, prefixes: np.ndarray) -> None:
    given = prefixes.copy()
    given[:, 5], given[:, 9] = 0.25, 0.0
    file = tmp_path / "coarse.faiss"
    build(file, given)
    tier = CoarseTier.open(str(file), WIDTH, ROWS)
    assert tier.code == "sq8"
    np.testing.assert_array_equal(tier.decode(tier.codes())[:, [5, 9]], given[:, [5, 9]])


def test_few_rows_get_no_graph(tmp_path: Path, prefixes: np.ndarray, asked: np.ndarray) -> None:
    file = tmp_path / "flat.faiss"
    assert not build(file, prefixes[: GRAPH_MIN_ROWS - 1])
    tier = CoarseTier.open(str(file), WIDTH, GRAPH_MIN_ROWS - 1)
    assert not tier.has_graph
    assert tier.search(asked, 10, 10).scanned


def test_a_walk_that_would_see_every_row_is_a_scan(path: Path, asked: np.ndarray) -> None:
    tier = CoarseTier.open(str(path), WIDTH, ROWS)
    assert not tier.search(asked, ROWS // SCAN_ROWS_PER_EF - 1, 10).scanned
    everything = tier.search(asked[:1], ROWS // SCAN_ROWS_PER_EF + 1, ROWS)
    assert everything.scanned
    assert sorted(everything.rows[0].tolist()) == list(range(ROWS))


def test_parts_that_a_walk_cannot_reach_are_scanned(tmp_path: Path) -> None:
    """Two far clouds of many equal points: the graph of one is an island to the other."""
    draw = np.random.default_rng(0)
    cloud = np.repeat(np.eye(2, 16, dtype=np.float32), GRAPH_MIN_ROWS, axis=0)
    cloud += draw.normal(scale=1e-4, size=cloud.shape).astype(np.float32)
    file = tmp_path / "islands.faiss"
    build(file, cloud)
    tier = CoarseTier.open(str(file), 16, len(cloud))
    found = tier.search(cloud[:40], 150, 150)
    assert found.rows.min() >= 0


def test_another_shape_is_corrupt(path: Path, tmp_path: Path) -> None:
    for width, rows in ((WIDTH, ROWS - 1), (WIDTH + 8, ROWS)):
        with pytest.raises(ti.CorruptIndexError, match=r"coarse\.faiss"):
            CoarseTier.open(str(path), width, rows)
    other = tmp_path / "other.faiss"
    faiss.write_index(faiss.IndexScalarQuantizer(8, faiss.ScalarQuantizer.QT_fp16), str(other))
    with pytest.raises(ti.CorruptIndexError, match="not bf16"):
        CoarseTier.open(str(other), 8, 0)
    other.write_bytes(b"nonsense" * 10)
    with pytest.raises(ti.CorruptIndexError, match=r"other\.faiss"):
        CoarseTier.open(str(other), 8, 0)


def test_an_error_while_writing_is_raised(prefixes: np.ndarray) -> None:
    builder = CoarseBuilder(WIDTH, 16, 40)
    builder.add(prefixes)

    def full(data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        builder.write(full)
