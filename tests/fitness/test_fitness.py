"""The whole: figures against the oracle, and verdicts on vectors of which the truth is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

import tiered_index as ti
from tiered_index.coarse.prefix_graph import GRAPH_MIN_ROWS
from tiered_index.fitness import Fitness
from tiered_index.fitness.run import default_dims
from tiered_index.rotation import fit_rotation
from tiered_index.testing import exact_top_k, matryoshka_vectors, recall_at_k

DIM = 128


def data(decay: float, rows: int = 2_000, dim: int = DIM) -> tuple[np.ndarray, np.ndarray]:
    return tuple(
        matryoshka_vectors(n, dim, decay=decay, seed=4, stream=stream) for n, stream in ((rows, 0), (150, 1))
    )


@pytest.fixture(scope="module")
def kinds() -> dict[str, Fitness]:
    """Matryoshka-like vectors, others that are not, the first shuffled, and the second rotated."""
    mrl, flat = data(0.3), data(0.0)
    order = np.random.default_rng(9).permutation(DIM)
    rotation = fit_rotation(flat[0])
    return {
        "mrl": ti.fitness(*mrl),
        "flat": ti.fitness(*flat),
        "shuffled": ti.fitness(*(x[:, order] for x in mrl)),
        "rotated": ti.fitness(*(x @ rotation for x in flat)),
    }


@pytest.mark.parametrize(
    ("name", "kind", "headline"),
    [
        ("mrl", "matryoshka", "Matryoshka"),
        ("flat", "no", "Not Matryoshka"),
        ("shuffled", "no", "Not Matryoshka"),
        ("rotated", "matryoshka", "Matryoshka, or ordered by variance"),
    ],
)
def test_verdicts(name: str, kind: str, headline: str, kinds: dict[str, Fitness]) -> None:
    found = kinds[name]
    assert found.kind == kind
    assert found.matryoshka == (kind == "matryoshka")
    assert found.verdict[0].startswith(headline)
    assert headline in str(found)


def test_a_rotation_is_recommended_where_it_helps(kinds: dict[str, Fitness]) -> None:
    for name in ("flat", "shuffled"):
        found = kinds[name]
        assert found.rotation == "pca"
        assert found.smallest_rotated.prefix_dim < found.smallest.prefix_dim
        assert "A PCA rotation helps" in found.verdict[-1]
    again = kinds["rotated"]  # a second rotation adds nothing
    assert again.rotation is None
    assert again.smallest.prefix_dim == again.smallest_rotated.prefix_dim
    assert all(abs(p.alone.rotation_gain.value) < 0.02 for p in again.prefixes)
    # and what the rotation promised is what rotated vectors have
    for one, other in zip(kinds["flat"].prefixes, again.prefixes, strict=True):
        assert one.alone.rotated_recall.value == pytest.approx(other.alone.recall.value, abs=0.01)


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_figures_are_those_of_the_oracle(metric: str) -> None:
    docs, queries = data(0.3, rows=500)
    docs = docs * np.random.default_rng(0).uniform(0.5, 2, (500, 1)).astype("f4")
    found = ti.fitness(docs, queries, dims=[16, 40], candidates=[20, 100], k=5, metric=metric)
    assert [p.dim for p in found.prefixes] == [16, 40, 64, DIM]
    truth, _ = exact_top_k(docs, queries, 5, metric)
    for prefix in found.prefixes:
        rows, _ = exact_top_k(docs[:, : prefix.dim], queries[:, : prefix.dim], 100, metric)
        assert prefix.alone.recall.value == pytest.approx(recall_at_k(rows[:, :5], truth), abs=0.002)
        for candidates in (20, 100):
            after = prefix.after(candidates).recall
            assert after.value == pytest.approx(recall_at_k(rows[:, :candidates], truth), abs=0.002)
            assert after.low <= after.value <= after.high
    assert found.prefixes[-1].alone.recall.value == 1.0
    assert found.prefixes[-1].energy == pytest.approx(1.0)


def test_the_recommended_plan_finds_what_is_promised(make_index: Callable[..., ti.Index]) -> None:
    """In an index with a graph, with the prefix and the candidates that were recommended."""
    docs, queries = data(0.3, rows=GRAPH_MIN_ROWS, dim=64)
    advised = ti.fitness(docs, queries, share=0.9)
    choice = advised.smallest
    assert choice.prefix_dim < 64
    index = make_index("advised", prefix_dim=choice.prefix_dim)
    index.add(range(len(docs)), docs)
    truth, _ = exact_top_k(docs, queries, 10)
    hit = index.search(queries, k=10, ef=400, candidates=choice.candidates)
    assert (hit.plan.prefix_dim, hit.plan.candidates) == (choice.prefix_dim, choice.candidates)
    promised = next(p for p in advised.prefixes if p.dim == choice.prefix_dim).after(choice.candidates).recall
    assert recall_at_k(hit.ids, truth) == pytest.approx(promised.value, abs=0.02)
    assert promised.low >= 0.9


def test_bytes_are_those_of_an_index(make_index: Callable[..., ti.Index]) -> None:
    docs, queries = data(0.3, rows=GRAPH_MIN_ROWS, dim=64)
    index = make_index("sized", prefix_dim=32)
    index.add(range(len(docs)), docs)
    found = ti.fitness(index, queries, price_gb_month=4.0)
    assert found.prefix_dim == 32
    stats = index.stats()
    prefix = next(p for p in found.prefixes if p.dim == 32)
    used = stats.coarse_codes_bytes + stats.coarse_graph_bytes
    assert prefix.coarse_bytes / 1e6 == pytest.approx(used / len(docs), rel=0.02)
    assert found.full_hnsw_bytes / 1e6 == pytest.approx(stats.full_hnsw_bytes / len(docs))
    assert found.full_bytes == 64 * 4 * 1_000_000
    assert prefix.dollars == pytest.approx(prefix.coarse_bytes / 1e9 * 4)


def test_judgements() -> None:
    """Where the true neighbours are what is judged relevant, nDCG follows recall."""
    docs, queries = data(0.3, rows=600)
    truth, _ = exact_top_k(docs, queries, 3)
    qrels = {str(q): {str(d): 1 for d in rows} for q, rows in enumerate(truth.tolist())}
    found = ti.fitness(docs, queries, qrels, keep="ndcg", k=5)
    full = found.prefixes[-1]
    assert full.alone.ndcg.value == pytest.approx(1.0)
    assert full.alone.mrr.value == pytest.approx(1.0)
    assert found.judged_queries == 150
    for prefix in found.prefixes:
        rows, _ = exact_top_k(docs[:, : prefix.dim], queries[:, : prefix.dim], 600)
        first = [
            next(i for i, d in enumerate(r) if d in t)
            for r, t in zip(rows.tolist(), truth.tolist(), strict=True)
        ]
        mrr = np.mean([1 / (i + 1) if i < 5 else 0.0 for i in first])
        assert prefix.alone.mrr.value == pytest.approx(mrr, abs=0.005)
        assert prefix.after(100).ndcg.value >= prefix.alone.ndcg.value
        assert prefix.after(100).ndcg_share.value == pytest.approx(prefix.after(100).ndcg.value)
        assert prefix.judged_gap > prefix.gap - 0.2
    said = ti.fitness(docs, queries, qrels, k=5).verdict  # by recall, and what the judgements say beside
    choice = found.smallest
    assert f"By the judgements {choice.prefix_dim} dimensions and {choice.candidates} candidates" in said[3]
    chosen = next(p for p in found.prefixes if p.dim == choice.prefix_dim)
    assert chosen.after(choice.candidates).ndcg_share.low >= 0.95


def test_held_out_queries_are_called_what_they_are() -> None:
    docs, _ = data(0.0)
    found = ti.fitness(docs)
    assert found.query_source == "held out"
    assert any("too rosy" in caution for caution in found.cautions)
    assert found.kind == "no"
    assert found.smallest_rotated.prefix_dim < found.smallest.prefix_dim
    assert found.rotation is None  # stored vectors are what the rotation was fitted to
    assert "real queries" in found.verdict[-1]


def test_a_prefix_that_was_asked_about() -> None:
    found = ti.fitness(*data(0.3), prefix_dim=40)
    assert found.prefix_dim == 40
    assert any("prefix_dim=40 finds" in sentence for sentence in found.verdict)


def test_few_noisy_queries_are_not_judged() -> None:
    """One dimension outweighs all others: whether a draw has it decides, and eight draws cannot tell."""
    docs, queries = data(0.0, rows=400)
    docs[:, 5] *= 40
    queries[:, 5] *= 40
    found = ti.fitness(docs, queries[:4], dims=[8])
    assert found.kind == "unclear"
    assert "cannot be told" in found.verdict[0]


def test_nothing_keeps_enough() -> None:
    docs = np.random.default_rng(0).normal(size=(1_000, 32))
    found = ti.fitness(docs, docs[:100] + 0.5, share=0.999, within=20)
    assert found.smallest.prefix_dim == 32
    assert "No prefix below 32 keeps 100%" in found.verdict[2]


def test_it_can_be_written_and_read() -> None:
    found = ti.fitness(*data(0.3, rows=300), candidates=[20])
    assert msgspec.json.decode(msgspec.json.encode(found), type=Fitness) == found
    lines = str(found).splitlines()
    assert [line.split()[0] for line in lines if line[:4].strip().isdecimal()] == [
        str(p.dim) for p in found.prefixes
    ]


@pytest.mark.parametrize(
    ("dim", "expected"),
    [
        (16, [8, 16]),
        (64, [8, 16, 24, 32, 48, 64]),
        (384, [16, 24, 32, 48, 64, 96, 128, 192, 256, 384]),
        (1024, [64, 96, 128, 192, 256, 384, 512, 768, 1024]),
        (1000, [32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1000]),
    ],
)
def test_default_dimensions(dim: int, expected: list[int]) -> None:
    assert default_dims(dim) == expected


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"k": 0}, ti.ParameterError, "k must be at least 1"),
        ({"dims": [12]}, ti.ParameterError, "multiple of 8"),
        ({"dims": [256]}, ti.ParameterError, "between"),
        ({"prefix_dim": 13}, ti.ParameterError, "multiple of 8"),
        ({"candidates": 50}, ti.ParameterError, "candidates must be a sequence"),
        ({"dims": "64"}, ti.ParameterError, "dims must be a sequence"),
        ({"within": 9}, ti.ParameterError, "within must be at least 10"),
        ({"candidates": [5]}, ti.ParameterError, "candidates must be at least 10"),
        ({"candidates": [5000]}, ti.ParameterError, "at most 2000, the rows, not 5000"),
        ({"share": 1.5}, ti.ParameterError, "share"),
        ({"share": "a"}, ti.ParameterError, "share"),
        ({"price_gb_month": -1}, ti.ParameterError, "price_gb_month"),
        ({"keep": "all"}, ti.ParameterError, "keep must be one of"),
        ({"keep": "ndcg"}, ti.ParameterError, "needs qrels"),
        ({"metric": "l2"}, ti.ParameterError, "metric must be one of"),
        ({"max_queries": 1}, ti.ParameterError, "max_queries"),
        ({"vectors": np.ones((300, 8)), "queries": None}, ti.DimensionError, "8 dimensions have no prefixes"),
        ({"vectors": np.ones((300, 0)), "queries": None}, ti.DimensionError, "0 dimensions have no prefixes"),
    ],
)
def test_what_is_refused(arguments: dict[str, Any], error: type[Exception], match: str) -> None:
    docs, queries = data(0.3)
    with pytest.raises(error, match=match):
        ti.fitness(**({"vectors": docs, "queries": queries} | arguments))
