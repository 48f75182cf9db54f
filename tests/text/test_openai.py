"""The encoder that asks a service, against a real server that speaks the API and goes wrong as they do."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

import tiered_index as ti
from tiered_index.text import openai_encoder
from tiered_index.text.encoder import encoder_again

from .embeddings_server import EmbeddingsServer
from .words import DIM, encode

TEXTS = [f"word{i} and other{i % 3}" for i in range(10)]


@pytest.fixture
def server() -> Iterator[EmbeddingsServer]:
    opened = EmbeddingsServer()
    yield opened
    opened.close()


def of(server: EmbeddingsServer, **options: Any) -> ti.OpenAIEncoder:
    settings = {"base_url": server.url, "api_key": "a-key", "max_retries": 2, "dimensions": 16}
    return ti.OpenAIEncoder("a-model", **{**settings, **options})


def test_it_asks_as_the_api_wants_and_returns_what_it_answers(server: EmbeddingsServer) -> None:
    encoder = of(server, batch_size=4)
    assert (encoder.name, encoder.dim, server.requests) == ("a-model", 16, [])
    np.testing.assert_array_equal(encoder.encode_documents(TEXTS), encode(TEXTS)[:, :16])
    assert [request["input"] for request in server.requests] == [TEXTS[:4], TEXTS[4:8], TEXTS[8:]]
    for request in server.requests:
        assert (request["model"], request["dimensions"]) == ("a-model", 16)
        assert request["encoding_format"] == "base64"
    assert server.headers[0]["authorization"] == "Bearer a-key"


def test_without_dimensions_the_service_is_asked_once(server: EmbeddingsServer) -> None:
    encoder = of(server, dimensions=None)
    assert (encoder.dim, len(server.requests)) == (DIM, 1)
    assert encoder.encode_queries(TEXTS).shape == (10, DIM)
    assert all("dimensions" not in request for request in server.requests)


def test_lists_of_numbers_do_as_well_as_base64(server: EmbeddingsServer) -> None:
    server.faults = [lambda _: server.answer({**server.requests[-1], "encoding_format": "float"})]
    np.testing.assert_array_equal(of(server).encode_documents(TEXTS), encode(TEXTS)[:, :16])


def test_answers_in_another_order_are_put_in_theirs(server: EmbeddingsServer) -> None:
    order = np.random.default_rng(0).permutation(10)
    server.faults = [lambda answer: {**answer, "data": [answer["data"][i] for i in order]}]
    np.testing.assert_array_equal(of(server).encode_documents(TEXTS), encode(TEXTS)[:, :16])


def test_prompts(server: EmbeddingsServer, tmp_path: Path) -> None:
    encoder = of(server, prompts={"query": "query: ", "document": ""})
    with ti.TextIndex.open(tmp_path / "t", encoder) as texts:
        texts.add_texts([1], ["one"])
        texts.search("two", k=1)
        assert [request["input"] for request in server.requests] == [["one"], ["query: two"]]
        assert texts.index.text.encoder.prompts == {"query": "query: "}
    with pytest.raises(ti.EncoderMismatchError, match="query prompt 'query: '"):
        ti.TextIndex.open(tmp_path / "t", of(server))
    with pytest.raises(ti.ParameterError, match="'passage'"):
        of(server, prompts={"passage": ""})


def test_it_waits_and_asks_again(server: EmbeddingsServer) -> None:
    server.faults = [(429, {"Retry-After": "0.02"}), (500, {"retry-after-ms": "20"})]
    np.testing.assert_array_equal(of(server).encode_documents(TEXTS), encode(TEXTS)[:, :16])
    assert [head["x-stainless-retry-count"] for head in server.headers] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("status", "kind", "asked"),
    [
        (429, openai.RateLimitError, 3),
        (500, openai.InternalServerError, 3),
        (401, openai.AuthenticationError, 1),
        (400, openai.BadRequestError, 1),
    ],
)
def test_a_service_that_fails_is_a_typed_error(
    server: EmbeddingsServer, tmp_path: Path, status: int, kind: type[Exception], asked: int
) -> None:
    with ti.TextIndex.open(tmp_path / "t", of(server, batch_size=4)) as texts:
        server.faults = [None, *[(status, {"retry-after-ms": "10"})] * 3]
        with pytest.raises(ti.EncoderError, match=f"told to answer {status}.*rows 4, 5, 6, 7") as raised:
            texts.add_texts(range(10), TEXTS)
        assert isinstance(raised.value.__cause__, kind)
        assert len(server.requests) == 1 + asked
        assert len(texts) == 0
        server.faults.clear()
        texts.add_texts(range(10), TEXTS)
        assert len(texts) == 10


def test_a_service_that_is_not_there(server: EmbeddingsServer) -> None:
    encoder = of(server, max_retries=0)
    server.close()
    with pytest.raises(ti.EncoderError, match="APIConnectionError"):
        encoder.encode_queries(["a"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda answer: {**answer, "data": answer["data"][:-1]}, r"answered 10 texts with 9 vectors"),
        (lambda answer: {**answer, "data": answer["data"] * 2}, r"answered 10 texts with 20 vectors"),
        (
            lambda answer: {**answer, "data": [{**item, "index": 0} for item in answer["data"]]},
            r"of the numbers \[0, 0, ",
        ),
        (lambda answer: {**answer, "data": []}, "the service failed"),
        (lambda answer: {"object": "list"}, "the service failed"),
        (lambda answer: {**answer, "data": [{"index": i} for i in range(10)]}, "the service failed"),
        (lambda answer: b"<html>busy</html>", "the service failed"),
        (lambda answer: _with_embedding(answer, "AAAA"), "the service failed"),  # no whole numbers
        (
            lambda answer: _with_embedding(answer, [1.0] * 15),
            r"15 dimensions for 'a-model', not 16.*\(row 3\)",
        ),
        (lambda answer: _with_embedding(answer, None), "the service failed"),
    ],
    ids=["few", "many", "numbers", "none", "no data", "no vector", "no JSON", "base64", "short", "null"],
)
def test_an_answer_that_was_not_asked_for_is_a_typed_error(
    server: EmbeddingsServer, change: Any, said: str
) -> None:
    server.faults = [change]
    with pytest.raises(ti.EncoderError, match=said):
        of(server).encode_documents(TEXTS)


def _with_embedding(answer: Any, embedding: Any) -> Any:
    data = [{**item, "embedding": embedding} if item["index"] == 3 else item for item in answer["data"]]
    return {**answer, "data": data}


def test_a_service_that_does_not_shorten_is_found_out(server: EmbeddingsServer) -> None:
    server.knows_dimensions = False
    with pytest.raises(ti.EncoderError, match=r"answered 32 dimensions .* not 16; .*`dimensions`"):
        of(server).encode_documents(TEXTS)


def test_a_number_that_is_not_finite_is_named(server: EmbeddingsServer, tmp_path: Path) -> None:
    def spoiled(answer: Any) -> Any:
        return _with_embedding(answer, base64.b64encode(np.full(16, np.nan, "<f4")).decode())

    with ti.TextIndex.open(tmp_path / "t", of(server)) as texts:
        server.faults = [spoiled]
        with pytest.raises(ti.EncoderError, match=r"NaN or infinity \(row 3\)"):
            texts.add_texts(range(10), TEXTS)


def test_long_texts_take_more_requests_and_empty_ones_none(
    server: EmbeddingsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_encoder, "MAX_REQUEST_BYTES", 10)
    given = ["éé", "aaaaaa", "b", "a" * 30, "c", "d"]
    np.testing.assert_array_equal(of(server).encode_documents(given), encode(given)[:, :16])
    assert [request["input"] for request in server.requests] == [
        ["éé", "aaaaaa"],
        ["b"],
        ["a" * 30],
        ["c", "d"],
    ]
    with pytest.raises(ti.EncoderError, match=r"no empty text for 'a-model' \(row 1\)"):
        of(server).encode_documents(["a", "", "b"])


def test_what_went_to_another_service_does_not_go_to_openai_by_itself(
    server: EmbeddingsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    own = openai.OpenAI(base_url=server.url)
    for encoder in (of(server), ti.OpenAIEncoder("a-model", dimensions=16, client=own)):
        assert not encoder.identity().by_name
    with ti.TextIndex.open(tmp_path / "t", of(server)) as texts:
        texts.add_texts([1], ["one"])
    with pytest.raises(ti.ParameterError, match=r"from 'a-model' \(openai, 16 dimensions\).*pass encoder="):
        ti.TextIndex.open(tmp_path / "t")
    identity = ti.OpenAIEncoder("a-model", dimensions=16, prompts={"query": "q "}).identity()
    assert identity.by_name
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    again = encoder_again(identity)
    assert again.identity().same_as(identity)
    again.encode_queries(["x"])
    assert server.requests[-1]["input"] == ["q x"]
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ti.EncoderError, match="OPENAI_API_KEY"):
        encoder_again(identity)


def test_without_the_package_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['openai'] = None\nimport tiered_index as ti\n"
        "try: ti.OpenAIEncoder('m')\nexcept ti.MissingDependencyError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "tiered-index[openai]" in done.stdout
