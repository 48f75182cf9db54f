"""Sketches of tails: what they hold, what they estimate, and how far off that is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiered_index as ti
from tiered_index import sketch as sketches
from tiered_index.compiled import layout
from tiered_index.config import IndexConfig, make_config
from tiered_index.sketch import (
    ROUNDS,
    Form,
    Sketch,
    SketchBuilder,
    block_of,
    records_of,
    rotated,
    signs_of,
)
from tiered_index.testing import matryoshka_vectors

PREFIX_DIM = 8


def config_of(dims: int, bits: int, metric: str = "cosine") -> IndexConfig:
    return make_config(PREFIX_DIM + dims, prefix_dim=PREFIX_DIM, metric=metric, tail_sketch=bits)


def written(path: Path, vectors: np.ndarray, config: IndexConfig, parts: int = 3) -> Sketch:
    builder = SketchBuilder(config, path.parent)
    norms = None
    if config.metric == "cosine":
        norms = (1.0 / np.linalg.norm(vectors.astype(np.float64), axis=1)).astype(np.float32)
    for rows in np.array_split(np.arange(len(vectors)), parts):
        builder.add(vectors[rows], None if norms is None else norms[rows])
    with path.open("wb") as file:
        builder.write(file.write)
    return Sketch(str(path), len(vectors), config)


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def test_many_records_wait_in_a_file_and_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, config = np.random.default_rng(4).normal(size=(3_000, 40)).astype(np.float32), config_of(32, 2)
    written(tmp_path / "in memory", vectors, config)
    monkeypatch.setattr(sketches, "_IN_MEMORY_BYTES", 1_000)
    written(tmp_path / "in a file", vectors, config, parts=40)
    assert (tmp_path / "in a file").read_bytes() == (tmp_path / "in memory").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in a file", "in memory"]


def test_records_that_find_no_room_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sketches, "_IN_MEMORY_BYTES", 1_000)
    vectors = np.random.default_rng(4).normal(size=(300, 40)).astype(np.float32)
    builder = SketchBuilder(config_of(32, 2, metric="dot"), tmp_path / "gone")
    with pytest.raises(ti.StorageError, match="gone: sketches cannot be kept"):
        builder.add(vectors, None)
    builder.close()


@given(dims=st.integers(1, 300), seed=st.integers(0, 10**6))
def test_a_rotation_keeps_inner_products_and_does_not_depend_on_other_rows(dims: int, seed: int) -> None:
    tails = np.random.default_rng(seed).normal(size=(5, dims)).astype(np.float32)
    turned = rotated(tails)
    np.testing.assert_allclose(turned @ turned.T, tails @ tails.T, rtol=1e-4, atol=1e-4 * dims**0.5)
    np.testing.assert_array_equal(rotated(tails[3:4])[0], turned[3])


@pytest.mark.parametrize("dims", [64, 96, 768])
def test_a_rotation_spreads_what_one_dimension_holds(dims: int) -> None:
    turned = rotated(np.eye(dims, dtype=np.float32))
    np.testing.assert_allclose(np.linalg.norm(turned, axis=1), 1.0, rtol=1e-5)
    assert np.abs(turned).max() < 6.0 / dims**0.5
    assert signs_of(dims).shape == (ROUNDS, dims)
    assert block_of(dims) <= dims < 2 * block_of(dims)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_records_hold_the_levels_that_are_nearest_and_two_factors(bits: int, metric: str) -> None:
    dims = 70
    vectors = 3.0 * matryoshka_vectors(40, PREFIX_DIM + dims, seed=2)
    norms = np.full(40, 1.0 / 3.0, np.float32) if metric == "cosine" else None
    form = Form.of(config_of(dims, bits, metric))
    records = records_of(vectors, norms, form)
    assert records.shape == (40, form.record_bytes) == (40, bits * 2 * 8 + 8)
    planes = np.unpackbits(
        records[:, :-8].reshape(40, bits, 16), axis=2, count=dims, bitorder="little"
    ).astype(int)
    levels = (planes << np.arange(bits)[:, None]).sum(axis=1) - (2**bits - 1) / 2
    turned = rotated(vectors[:, PREFIX_DIM:]).astype(np.float64)
    assert (np.sign(levels) == np.where(turned >= 0, 1, -1)).all()
    cosines = (levels * turned).sum(axis=1) / np.linalg.norm(levels, axis=1) / np.linalg.norm(turned, axis=1)
    # of numbers from a normal distribution: the best that any levels of so many bits reach
    assert cosines.mean() == pytest.approx({1: 0.798, 2: 0.939, 4: 0.994}[bits], abs=0.01)
    factors = records[:, -8:].view("<f4")
    lengths = 1.0 if metric == "dot" else 1.0 / 3.0
    share = np.linalg.norm(vectors[:, :PREFIX_DIM], axis=1) / 3.0 if metric == "cosine" else np.ones(40)
    np.testing.assert_allclose(factors[:, 0], share, rtol=1e-5)
    expected = (turned**2).sum(axis=1) / (levels * turned).sum(axis=1) * lengths
    np.testing.assert_allclose(factors[:, 1], expected, rtol=1e-5)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("dims", [120, 256])
@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_estimates_are_unbiased_and_as_far_off_as_theory_says(
    bits: int, dims: int, metric: str, tmp_path: Path
) -> None:
    """Given the rotation of a row, what a query's tail has across it is at random: RaBitQ's theorem 3.2."""
    config = config_of(dims, bits, metric)
    random = np.random.default_rng(5)
    vectors = random.normal(size=(400, config.dim)).astype(np.float32) * random.uniform(0.5, 2.0, (400, 1))
    vectors = vectors.astype(np.float32)
    queries = random.normal(size=(30, config.dim)).astype(np.float32)
    known = unit(vectors) if metric == "cosine" else vectors
    asked = unit(queries) if metric == "cosine" else queries
    sketch = written(tmp_path / "s", vectors, config)
    prefixes = unit(known[:, :PREFIX_DIM]) if metric == "cosine" else known[:, :PREFIX_DIM]
    rows = np.arange(400)
    turned = rotated(known[:, PREFIX_DIM:]).astype(np.float64)
    planes = np.unpackbits(
        sketch.records[:, :-8].reshape(400, bits, -1), axis=2, count=dims, bitorder="little"
    )
    levels = (planes.astype(int) << np.arange(bits)[:, None]).sum(axis=1) - (2**bits - 1) / 2
    lengths = np.linalg.norm(turned, axis=1)
    along = (levels * turned).sum(axis=1) / np.linalg.norm(levels, axis=1) / lengths
    off = []
    for query in asked:
        prefix = query[:PREFIX_DIM]
        scores = prefixes @ (unit(prefix) if metric == "cosine" else prefix)
        found = sketch.estimates(query, PREFIX_DIM, rows, scores)
        exact = known.astype(np.float64) @ query
        tail = np.linalg.norm(query[PREFIX_DIM:])
        off.append((found - exact) / (tail * lengths * np.sqrt((1 / along**2 - 1) / (dims - 1))))
    z = np.concatenate(off)
    assert abs(z.mean()) < 4.0 / len(z) ** 0.5 + 0.01
    assert 0.9 < z.std() < (1.1 if bits < 4 else 1.25)  # the query's own six bits show beside four
    # one query's errors are of one rotation, which may lean: no more than chance allows
    assert np.abs([each.mean() for each in off]).max() < 0.35
    assert (np.abs(z) > 4.0).mean() < 1e-3


@given(
    dims=st.integers(1, 150),
    bits=st.sampled_from([1, 2, 4]),
    metric=st.sampled_from(["cosine", "dot"]),
    narrower=st.booleans(),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=40)
def test_compiled_estimates_are_those_of_numpy(
    dims: int, bits: int, metric: str, narrower: bool, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    compiled = pytest.importorskip("tiered_index.compiled.sketch")
    config = config_of(dims, bits, metric)
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(60, config.dim)).astype(np.float32)
    query = unit(random.normal(size=config.dim).astype(np.float32))
    sketch = written(tmp_path_factory.mktemp("sketch") / "s", vectors, config)
    fields = np.array(sketch.addresses, np.int64)
    width = PREFIX_DIM // 2 if narrower else PREFIX_DIM

    rows = random.permutation(60)[:40]
    scores = np.sort(random.normal(size=40).astype(np.float32))[::-1]
    bits_of = scores.view(np.int32).astype(np.int64)
    keys = np.where(bits_of < 0, bits_of ^ 0x7FFFFFFF, bits_of) << 32
    beam = np.zeros(48, np.int64)
    beam[:40] = keys | (rows << layout.ROW_SHIFT)
    order, sums = np.zeros(100, np.int64), np.zeros(5)
    planes, half_step, total = compiled.planes_of(fields, query)
    share = compiled.share_of(fields, query.ctypes.data, width)
    count = compiled.estimate(fields, planes, half_step, total, share, beam, 40, order, sums)
    assert count == 40
    found = (order[:40] >> 32).astype(np.int32)
    estimates = np.where(found < 0, found ^ 0x7FFFFFFF, found).astype(np.int32).view(np.float32)
    np.testing.assert_array_equal((order[:40] >> layout.ROW_SHIFT) & (layout.MAX_ROWS - 1), rows)
    expected = sketch.estimates(query, width, rows, scores)
    np.testing.assert_allclose(estimates, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(sums[:2], [scores.sum(), expected.sum()], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e18, 1e37])
def test_tiny_huge_and_missing_tails(bits: int, scale: float, tmp_path: Path) -> None:
    config = config_of(40, bits, "dot")
    vectors = np.random.default_rng(1).normal(size=(6, config.dim))
    vectors = (vectors / np.abs(vectors).max() * scale).astype(np.float32)
    vectors[0, PREFIX_DIM:] = 0.0
    sketch = written(tmp_path / "s", vectors, config)
    query = unit(np.random.default_rng(2).normal(size=config.dim))
    rows = np.arange(6)
    scores = (vectors[:, :PREFIX_DIM] @ query[:PREFIX_DIM]).astype(np.float32)
    found = sketch.estimates(query, PREFIX_DIM, rows, scores)
    assert found[0] == pytest.approx(float(scores[0]))
    exact = vectors.astype(np.float64) @ query
    assert np.abs(found - exact).max() < scale * 3.0
    none = query.copy()
    none[PREFIX_DIM:] = 0.0
    np.testing.assert_allclose(sketch.estimates(none, PREFIX_DIM, rows, scores), scores, rtol=1e-6)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_rows_are_told_from_others(bits: int, tmp_path: Path) -> None:
    config = config_of(120, bits, "dot")
    vectors = matryoshka_vectors(50, config.dim, seed=3)
    sketch = written(tmp_path / "s", vectors, config)
    assert sketch.holds(10, vectors[10:30], None)
    other = vectors[10:30].copy()
    other[7] = vectors[40]
    assert not sketch.holds(10, other, None)
    longer = vectors[10:30].copy()
    longer[7, PREFIX_DIM:] *= 1.01
    assert not sketch.holds(10, longer, None)


def test_another_file_is_none(tmp_path: Path) -> None:
    config = config_of(40, 2)
    vectors = matryoshka_vectors(9, config.dim, seed=3)
    sketch = written(tmp_path / "s", vectors, config)
    sketch.close()
    with pytest.raises(ti.IndexClosedError):
        sketch.estimates(vectors[0], PREFIX_DIM, np.arange(2), np.zeros(2, np.float32))
    for rows, other in (
        (8, config),
        (9, config_of(40, 1)),
        (9, config_of(40, 2, "dot")),
        (9, config_of(48, 2)),
    ):
        with pytest.raises(ti.CorruptIndexError, match="not a sketch of"):
            Sketch(str(tmp_path / "s"), rows, other)
    (tmp_path / "empty").touch()
    with pytest.raises(ti.CorruptIndexError, match="not a readable sketch"):
        Sketch(str(tmp_path / "empty"), 9, config)
