"""The benchmarks of watching and of the service, at a size that takes a moment."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tiered_index as ti
from benchmarks import watch
from benchmarks.service import BEACON_IDS, BEACONS, _of_one_commit, beacon_vectors
from tiered_index.testing import exact_top_k, matryoshka_vectors

ROWS, DIM = 600, 32


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    vectors = matryoshka_vectors(ROWS, DIM, seed=1)
    queries = matryoshka_vectors(80, DIM, seed=1, stream=1)
    np.save(folder / "vectors.npy", vectors)
    np.save(folder / "queries.npy", queries)
    np.save(folder / "truth.npy", exact_top_k(vectors, queries, 10)[0])
    return folder


def test_watched_recall_and_overhead(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "SENTENCES", 50)
    figures = watch.run(data, tmp_path, repeats=2, turns=2, seconds=0.05)
    watch.show(figures)
    assert json.loads(json.dumps(figures)) == figures
    tags = figures["recalls"]["tags"]
    assert set(tags) == {"titles", "sentences"}
    for tag in tags.values():
        assert len(tag["true"]) == len(tag["watched"]) == 2
        assert all(0.0 <= low <= high <= 1.0 for low, high in zip(tag["low"], tag["high"], strict=True))
    assert figures["overhead"]["ratios"]["with"]["p50"]["median"] > 0
    assert "watching 1 %" in capsys.readouterr().out


def test_beacons_tell_the_commit(tmp_path: Path) -> None:
    scores = []
    with ti.open(tmp_path / "b.tidx", DIM, prefix_dim=16) as index:
        index.add(np.arange(ROWS), matryoshka_vectors(ROWS, DIM))
        ids = np.arange(BEACON_IDS, BEACON_IDS + BEACONS)
        for commit in range(3):
            rows, query = beacon_vectors(commit, DIM)
            index.upsert(ids, rows)
            found = index.search(query, BEACONS, where={"id": {"$gte": BEACON_IDS}})
            assert set(found.ids) == set(ids.tolist())
            assert _of_one_commit(found.scores.tolist())
            scores.append(float(found.scores[0]))
    assert scores == sorted(scores, reverse=True)
    assert not _of_one_commit([*found.scores.tolist()[:-1], scores[0]])
    assert not _of_one_commit(found.scores.tolist()[:-1])
