"""A small sentence-transformers model, made here, through the encoder: prompts, truncation, length."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiered_index as ti
from tiered_index.testing import exact_top_k

os.environ.setdefault("HF_HUB_OFFLINE", "1")
WORDS = ["query", "passage", ":", "red", "green", "blue", "fox", "hen", "owl", "runs", "sleeps"]
WHOLE = 48
PROMPTS = {"query": "query : ", "document": "passage : "}


def make(**settings: Any) -> Any:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate([*WORDS, "?"])}, unk_token="?"))  # noqa: S106
    tokenizer.pre_tokenizer = Whitespace()
    weights = np.random.default_rng(0).normal(size=(len(WORDS) + 1, WHOLE)).astype(np.float32)
    torch.manual_seed(0)
    layer = StaticEmbedding(tokenizer, embedding_weights=weights)
    return SentenceTransformer(modules=[layer], device="cpu", **settings)


@pytest.fixture(scope="module")
def model() -> Any:
    return make(prompts=PROMPTS)


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "animals"
    model.save(str(folder), create_model_card=False)
    return folder


TEXTS = ["red fox runs", "green owl", "blue hen sleeps", "owl sleeps", "fox"]


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_prompts_truncation_and_length(model: Any) -> None:
    encoder = ti.SentenceTransformerEncoder(model, truncate_dim=16, name="animals")
    for given, role in ((encoder.encode_documents, "document"), (encoder.encode_queries, "query")):
        raw = model.encode([PROMPTS[role] + text for text in TEXTS])
        np.testing.assert_allclose(given(TEXTS), unit(raw[:, :16]), rtol=1e-6)
        assert not np.allclose(given(TEXTS), unit(raw)[:, :16])  # the other order
    assert encoder.identity() == ti.EncoderIdentity(
        kind="sentence-transformers",
        name="animals",
        dim=16,
        prompts=PROMPTS,
        normalized=True,
        by_name=True,
    )
    plain = ti.SentenceTransformerEncoder(model, normalize=False, prompts={}, batch_size=2)
    np.testing.assert_allclose(plain.encode_queries(TEXTS), model.encode(TEXTS), rtol=1e-6)
    assert (plain.dim, plain.identity().prompts, plain.identity().by_name) == (WHOLE, {}, False)


def test_a_model_of_inner_products_is_not_normalized_by_itself() -> None:
    encoder = ti.SentenceTransformerEncoder(make(similarity_fn_name="dot"))
    assert not encoder.identity().normalized
    assert ti.SentenceTransformerEncoder(make(similarity_fn_name="dot"), normalize=True).identity().normalized


@pytest.mark.parametrize(
    "settings",
    [
        {"prompts": PROMPTS},
        {"prompts": {"passage": "red "}},
        {"prompts": {"x": "red "}, "default_prompt_name": "x"},
        {"prompts": {"query": "red "}, "default_prompt_name": "query"},
    ],
)
def test_prompts_are_those_that_the_library_takes(settings: dict[str, Any]) -> None:
    model = make(**settings)
    encoder = ti.SentenceTransformerEncoder(model, normalize=False)
    np.testing.assert_array_equal(encoder.encode_queries(TEXTS), model.encode_query(TEXTS))
    np.testing.assert_array_equal(encoder.encode_documents(TEXTS), model.encode_document(TEXTS))
    said = encoder.identity().prompts
    for role, encoded in (("query", model.encode_query), ("document", model.encode_document)):
        np.testing.assert_array_equal(make().encode([said.get(role, "") + "fox"]), encoded(["fox"]))


def test_half_precision_models_and_the_empty_text(model: Any, tmp_path: Path) -> None:
    half = make().half()
    assert half.encode(["fox"]).dtype == np.float16
    vectors = ti.SentenceTransformerEncoder(half).encode_documents(["red fox", ""])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 0], atol=1e-6)
    with ti.TextIndex.open(tmp_path / "t", half) as texts, pytest.raises(ti.ZeroVectorError) as raised:
        texts.add_texts([1, 2], ["red fox", ""])
    assert raised.value.rows == (1,)


def test_one_line_to_open_one_to_add_one_to_search(folder: Path, model: Any, tmp_path: Path) -> None:
    with ti.TextIndex.open(tmp_path / "t", str(folder)) as texts:
        texts.add_texts(range(5), TEXTS)
        truth, _ = exact_top_k(model.encode_document(TEXTS), model.encode_query(["owl that sleeps"]), 5)
        assert texts.search("owl that sleeps", k=5).ids.tolist() == truth[0].tolist()
    with ti.TextIndex.open(tmp_path / "t") as texts:  # with the encoder that is kept
        assert texts.encoder.name == str(folder.resolve())
        assert texts.search("owl that sleeps", k=5).ids.tolist() == truth[0].tolist()
    with pytest.raises(ti.EncoderMismatchError, match=r"document prompt 'passage : '.*not from .*48 dim"):
        ti.TextIndex.open(tmp_path / "t", ti.SentenceTransformerEncoder(folder, prompts={}))


def test_what_is_kept_is_enough_to_load_it_as_it_was(folder: Path, tmp_path: Path) -> None:
    made = ti.SentenceTransformerEncoder(folder, truncate_dim=24, normalize=False, prompts={"query": "red "})
    with ti.TextIndex.open(tmp_path / "t", made, prefix_dim=8) as texts:
        texts.add_texts(range(5), TEXTS)
        wanted = texts.search("fox").to_arrow()
    with ti.TextIndex.open(tmp_path / "t") as texts:
        assert texts.encoder.identity() == made.identity()
        assert texts.search("fox").to_arrow() == wanted


def test_a_model_that_moved(folder: Path, model: Any, tmp_path: Path) -> None:
    old = tmp_path / "old"
    folder.rename(old)
    try:
        with ti.TextIndex.open(tmp_path / "t", old) as texts:
            texts.add_texts(range(5), TEXTS)
    finally:
        old.rename(folder)
    with pytest.raises(ti.EncoderError, match=r"'.*/old' cannot be loaded"):
        ti.TextIndex.open(tmp_path / "t")
    with pytest.raises(ti.EncoderMismatchError, match="give the encoder name="):
        ti.TextIndex.open(tmp_path / "t", folder)
    with ti.TextIndex.open(tmp_path / "t", ti.SentenceTransformerEncoder(folder, name=str(old))) as texts:
        assert texts.search("fox", k=1).ids.tolist() == [4]


def test_parameters(model: Any) -> None:
    for wrong in ({"truncate_dim": 49}, {"truncate_dim": 1}, {"batch_size": 0}, {"prompts": {"doc": "x"}}):
        with pytest.raises(ti.ParameterError):
            ti.SentenceTransformerEncoder(model, **wrong)


def test_a_name_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(ti.EncoderError, match=r"the model '.*' cannot be loaded"):
        ti.TextIndex.open(tmp_path / "t", str(tmp_path / "no" / "model"))
    assert not (tmp_path / "t").exists()


def test_without_the_package_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['sentence_transformers'] = None\nimport tiered_index as ti\n"
        "try: ti.TextIndex.open('t', 'model')\nexcept ti.MissingDependencyError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "tiered-index[text]" in done.stdout
