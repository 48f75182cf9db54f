"""The service example over HTTP: two workers on one index, under load, while a writer commits."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiered_index as ti
from benchmarks.service import Service, body, serve, summary
from tiered_index.testing import exact_top_k, matryoshka_vectors

DIM, ROWS, COMMITS = 32, 500, 12
PROFILES = {"fast": {"latency_ms": 500.0}, "sure": {"min_recall": 1.0}}


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return matryoshka_vectors(ROWS, DIM, seed=3)


@pytest.fixture(scope="module")
def service(vectors: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Path]]:
    path = tmp_path_factory.mktemp("service") / "s.tidx"
    with ti.open(path, DIM, prefix_dim=16) as index:
        index.add(
            np.arange(ROWS), vectors, {"stamp": np.zeros(ROWS, np.int64), "even": np.arange(ROWS) % 2 == 0}
        )
    settings = {"SERVICE_PROFILES": json.dumps(PROFILES), "SERVICE_WATCH_RATE": "1"}
    with serve(path, 2, **settings) as running:
        yield running, path


def ask(service: Service, **asked: Any) -> tuple[int, Any]:
    status, text = service.get("/search", "POST", json.dumps(asked))
    return status, json.loads(text)


def test_answers(service: tuple[Service, Path], vectors: np.ndarray) -> None:
    running, _ = service
    query = vectors[7] + 0.01
    truth = exact_top_k(vectors, query[None], 5)[0][0].tolist()
    packed = base64.b64encode(query.astype("<f4").tobytes()).decode()
    for form in ({"vector": query.tolist()}, {"vector_base64": packed}):
        for asked in ({}, {"profile": "fast"}, {"profile": "sure"}, {"min_recall": 0.9, "tag": "legal"}):
            status, answer = ask(running, k=5, **form, **asked)
            assert (status, answer["ids"], answer["complete"]) == (200, truth, True)
    status, answer = ask(running, vector=query.tolist(), k=3, where={"even": True}, metadata=True)
    assert answer["metadata"] == [{"stamp": 0, "even": True}] * 3
    assert all(i % 2 == 0 for i in answer["ids"])


@pytest.mark.parametrize(
    ("asked", "status", "error"),
    [
        ({}, 422, "DimensionError"),
        ({"vector": [1.0, 2.0]}, 422, "DimensionError"),
        ({"vector_base64": "no"}, 422, "DimensionError"),
        ({"vector": [0.0] * DIM}, 422, "ZeroVectorError"),
        ({"vector": [1.0] * DIM, "profile": "other"}, 422, "ParameterError"),
        ({"vector": [1.0] * DIM, "where": {"other": 1}}, 422, "FilterError"),
        ({"vector": [1.0] * DIM, "latency_budget_ms": 1e-4, "strict": True}, 504, "BudgetNotMetError"),
        ({"vector": [1.0] * DIM, "other": 1}, 422, None),
    ],
)
def test_refusals(
    service: tuple[Service, Path], asked: dict[str, Any], status: int, error: str | None
) -> None:
    found, answer = ask(service[0], **asked)
    assert (found, answer.get("error")) == (status, error)


def test_health_readiness_and_metrics(service: tuple[Service, Path], vectors: np.ndarray) -> None:
    running, _ = service
    workers = set(running.workers())
    assert len(workers) == 2
    assert json.loads(running.get("/health")[1])["pid"] in workers
    ready = json.loads(running.get("/ready")[1])
    assert ready["rows"] == ROWS
    assert ready["trouble"] is None
    for i in range(20):
        ask(running, vector=vectors[i].tolist(), tag="legal")
    watched = 'tiered_index_recall_low{by="tag",index="s.tidx",k="10",name="legal"'
    end = time.monotonic() + 30
    while time.monotonic() < end:  # other workers' numbers come from what they leave every two seconds
        status, text = running.get("/metrics")
        assert status == 200
        if all(f'process="{pid}"' in text for pid in workers) and watched in text:
            break
        time.sleep(0.1)
    assert all(f'process="{pid}"' in text for pid in workers)
    assert watched in text


def test_generations_pass_under_load(service: tuple[Service, Path], vectors: np.ndarray) -> None:
    """Every commit stamps the same rows anew: an answer shows one stamp, and that of its generation."""
    running, path = service
    stamps: dict[int, int] = {}
    first = json.loads(running.get("/ready")[1])["generation"]
    done = threading.Event()
    problems: list[BaseException] = []

    def write() -> None:
        try:
            with ti.open(path) as index:
                stamps[index.stats().generation] = 0
                for stamp in range(1, COMMITS + 1):
                    index.upsert(np.arange(20), vectors[:20], {"stamp": [stamp] * 20, "even": [True] * 20})
                    # a merge after a commit is a generation of its own, with the same rows
                    stamps.update(
                        {g.generation: stamps.get(g.generation, stamp) for g in index.generations()}
                    )
                    time.sleep(0.05)
        except BaseException as error:
            problems.append(error)
        finally:
            done.set()

    stamped = json.dumps(body(vectors[3], k=20, where={"id": {"$lt": 20}}, metadata=True))
    requests = [stamped, json.dumps(body(vectors[40], k=10, tag="t")), json.dumps(body(vectors[50], k=5))]
    writer = threading.Thread(target=write)
    writer.start()
    answers = running.load(requests, 4, 120, until=done.is_set)
    writer.join()
    assert problems == []
    newest = max(stamps)
    running.reload()
    end = time.monotonic() + 30
    while time.monotonic() < end:
        last = running.load([stamped], 4, 0.2)
        answers += last
        if {a.body["generation"] for a in last} == {newest}:
            break
    told = summary(answers)
    assert (told["failed"], told["first_failure"]) == (0, None)
    seen = set()
    for answer in answers:
        if answer.request == stamped:
            shown = {row["stamp"] for row in answer.body["metadata"]}
            assert shown == {stamps[answer.body["generation"]]}
            assert len(answer.body["ids"]) == 20
            seen.add(answer.body["generation"])
    assert {newest, first} <= seen
    assert len(seen) > 2
