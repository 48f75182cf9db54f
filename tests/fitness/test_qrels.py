"""Judgements in every form, what is refused, and measures against their definitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tiered_index as ti
from tiered_index.fitness.qrels import Judge, read_qrels

TABLE = {"query_id": ["q1", "q1", "q2"], "doc_id": ["a", "b", "a"], "relevance": [2, 0, 1]}


def forms(folder: Path) -> list[Any]:
    (folder / "q.trec").write_text("q1 0 a 2\nq1\t0\tb 0\nq2 0 a 1\n")
    pq.write_table(pa.table(TABLE), folder / "q.parquet")
    mapping = {"q1": {"a": 2, "b": 0}, "q2": {"a": np.int64(1)}}
    return [folder / "q.trec", str(folder / "q.parquet"), mapping, pa.table(TABLE), pd.DataFrame(TABLE)]


def test_all_forms_say_the_same(tmp_path: Path) -> None:
    for form in forms(tmp_path):
        assert read_qrels(form) == (TABLE["query_id"], TABLE["doc_id"], TABLE["relevance"])


def table(**changed: list[Any]) -> pa.Table:
    return pa.table({**TABLE, **changed})


@pytest.mark.parametrize(
    ("source", "error", "match"),
    [
        (3, ti.SourceError, "not int"),
        ({"q": 3}, ti.SourceError, "'q' must have a mapping"),
        ({"q": {"a": 0}}, ti.SourceError, "no document is relevant"),
        ({"q": {"a": 1, "b": True}}, ti.SourceError, r"not True \(row 1\)"),
        (table(relevance=[1.0, 2.0, 1.0]), ti.SourceError, r"not 1.0 \(row 0\)"),
        (table(doc_id=["a", None, "b"]), ti.IdError, r"\(row 1\)"),
        (table(query_id=["q2", "q1", "q2"]), ti.DuplicateIdError, r"'q2' and document 'a'.*\(row 2\)"),
        (pa.table(TABLE).drop_columns(["relevance"]), ti.SourceError, r"no columns \['relevance'\]"),
        ("missing.trec", ti.SourceError, "cannot be read as TREC"),
        ("missing.parquet", ti.SourceError, "cannot be read as Parquet"),
    ],
)
def test_what_is_refused(source: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        read_qrels(source)


@pytest.mark.parametrize(
    ("line", "match"), [("q 0 a", "'q 0 a'.*row 1"), ("q 0 b x", "not 'x'.*row 1"), ("", "''.*row 1")]
)
def test_lines_that_are_not_trec(line: str, match: str, tmp_path: Path) -> None:
    (tmp_path / "q").write_text(f"q 0 a 1\n{line}\nq 0 c 1\n")
    with pytest.raises(ti.SourceError, match=match):
        read_qrels(tmp_path / "q")


def test_quality_is_that_of_the_definitions() -> None:
    random = np.random.default_rng(0)
    docs = [f"d{i}" for i in range(30)]
    qrels = {
        f"q{q}": {docs[d]: int(random.integers(0, 3)) for d in random.choice(30, 8, False)} for q in range(12)
    }
    qrels["q0"]["d0"] = 1
    ids = [f"q{q}" for q in range(15)]  # three are not judged
    judge = Judge(read_qrels(qrels), ids, docs, 5)
    found = np.stack([random.permutation(30)[:9] for _ in ids])
    quality = judge.quality(found)
    assert judge.queries.tolist() == list(range(12))
    for row in range(12):
        gains = [qrels[f"q{row}"].get(docs[d], 0) for d in found[row, :5]]
        ideal = sorted(qrels[f"q{row}"].values(), reverse=True)[:5]
        discount = 1 / np.log2(np.arange(5) + 2)
        best = float(ideal @ discount)
        assert quality.ndcg[row] == pytest.approx(float(gains @ discount) / best if best else 0.0)
        first = next((place for place, gain in enumerate(gains) if gain), None)
        assert quality.mrr[row] == pytest.approx(0.0 if first is None else 1 / (first + 1))
    pairs = {(ids[q], docs[d]) for q, d in judge.pairs.T.tolist()}
    assert pairs == {(q, d) for q, judged in qrels.items() for d, rel in judged.items() if rel}
