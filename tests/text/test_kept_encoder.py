"""Which encoder an index's vectors are from is part of the index."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import tiered_index as ti

from ..storage.make_format import content
from .words import DIM, encode

SAME = ti.CallableEncoder(encode, name="words", dim=DIM)


def other(texts: list[str]) -> np.ndarray:
    return -encode(texts)


def test_it_survives_all_that_happens_to_an_index(tmp_path: Path) -> None:
    with ti.TextIndex.open(
        tmp_path / "t", SAME, keep_generations=2, merge_policy=ti.NoMergePolicy()
    ) as texts:
        kept = ti.TextConfig(encoder=SAME.identity(), column="text")
        assert texts.index.text == kept  # before the first text
        for i in range(4):
            texts.add_texts([i], [f"text {i}"])
        generation = texts.index.generations()[-1].generation
        texts.index.delete([0])
        texts.index.restore(generation)
        assert len(texts) == 4
        texts.index.optimize()
        assert texts.index.verify().ok
        assert texts.index.text == texts.index.stats().text == kept
    with ti.open(tmp_path / "t") as index:
        index.add([9], encode(["nine"]), {"text": ["nine"]})
        assert index.text == kept
    with ti.TextIndex.open(tmp_path / "t", SAME, mode="r") as texts:
        assert texts.search("nine", k=1).ids.tolist() == [9]
        with pytest.raises(ti.ReadOnlyError):
            texts.add_texts([10], ["ten"])
    manifest = max((tmp_path / "t" / "manifests").iterdir())
    manifest.write_text(manifest.read_text().replace('"words"', '"wards"'))
    with pytest.raises(ti.CorruptIndexError, match="digest"):
        ti.open(tmp_path / "t")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            other,
            r"from 'words' \(callable, 32 dimensions\), not from 'other' .* give the encoder name='words'",
        ),
        (
            ti.CallableEncoder(lambda t: encode(t)[:, :16], name="words", dim=16),
            r"32 .* not .* 16 dimensions\)$",
        ),
    ],
)
def test_another_encoder_is_refused_and_both_are_named(tmp_path: Path, wrong: object, said: str) -> None:
    with ti.TextIndex.open(tmp_path / "t", SAME) as texts:
        texts.add_texts([1], ["a"])
    with pytest.raises(ti.EncoderMismatchError, match=said) as raised:
        ti.TextIndex.open(tmp_path / "t", wrong)
    assert isinstance(raised.value, ti.ConfigMismatchError)
    with ti.open(tmp_path / "t") as index:  # the refused one holds no lock
        index.delete([1])


def test_without_an_encoder_it_says_what_to_pass(tmp_path: Path) -> None:
    with pytest.raises(ti.IndexNotFoundError, match="encoder="):
        ti.TextIndex.open(tmp_path / "t")
    with pytest.raises(ti.IndexNotFoundError):
        ti.TextIndex.open(tmp_path / "t", encode, mode="r")
    assert not (tmp_path / "t").exists()
    ti.TextIndex.open(tmp_path / "t", SAME).close()
    with pytest.raises(ti.ParameterError, match=r"from 'words' \(callable, .*: pass encoder="):
        ti.TextIndex.open(tmp_path / "t")
    ti.open(tmp_path / "v", dim=DIM).close()
    with pytest.raises(ti.ParameterError, match="knows no encoder; pass encoder="):
        ti.TextIndex.open(tmp_path / "v")
    for wrong in (7, ["a"], ti.CallableEncoder):
        with pytest.raises(ti.ParameterError, match="encoder must be"):
            ti.TextIndex.open(tmp_path / "new", wrong)
    with pytest.raises(ti.ParameterError, match="mode"):
        ti.TextIndex.open(tmp_path / "new", encode, mode="x")  # type: ignore[arg-type]
    with pytest.raises(ti.ParameterError, match="full_reads"):
        ti.TextIndex.open(tmp_path / "new", encode, full_reads="x")  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()


def test_an_index_of_vectors_takes_an_encoder_and_keeps_it_with_the_first_texts(tmp_path: Path) -> None:
    with ti.open(tmp_path / "v", dim=DIM) as index:
        index.add([1, 2], encode(["one", "two"]), {"n": [1, 2]})
        with pytest.raises(ti.EncoderMismatchError, match="have 32 dimensions"):
            ti.TextIndex.over(index, ti.CallableEncoder(lambda t: np.ones((len(t), 8)), dim=8))
        first = ti.TextIndex.over(index, SAME)
        second = ti.TextIndex.over(index, other)
        assert first.search("two", k=1).ids.tolist() == [2]
        assert first.text_column is None  # its rows have none
        assert index.text is None
        first.add_texts([3], ["three"], {"n": [3]})
        assert index.text is not None
        assert index.text.encoder.name == "words"
        state = index.generations()
        with pytest.raises(ti.EncoderMismatchError, match=r"'words'.*'other'"):
            second.add_texts([4], ["four"], {"n": [4]})
        with pytest.raises(ti.EncoderMismatchError), index.batch():
            second.upsert_texts([1], ["four"], {"n": [4]})
        assert index.generations() == state


def test_a_failed_first_write_keeps_no_encoder(tmp_path: Path) -> None:
    with ti.open(tmp_path / "v", dim=DIM) as index:
        with pytest.raises(ti.EncoderError):
            ti.TextIndex.over(index, ti.CallableEncoder(lambda t: None, dim=DIM)).add_texts([1], ["a"])
        with index.batch():
            ti.TextIndex.over(index, other).add_texts([], [])
            index.add([7], encode(["seven"]), {"text": ["seven"]})
        assert index.text is None
        ti.TextIndex.over(index, SAME).add_texts([1], ["a"])
        assert index.schema.names == ["text"]


@pytest.mark.parametrize("version", [1, 2])
def test_an_index_of_an_earlier_format_takes_an_encoder(version: int, tmp_path: Path) -> None:
    shutil.copytree(Path(__file__).parent.parent / "storage" / f"format-{version}", tmp_path / "old")
    _, vectors, _ = content(8)
    eight = ti.CallableEncoder(lambda texts: vectors[[int(text) for text in texts]], name="rows", dim=8)
    with ti.TextIndex.open(tmp_path / "old", eight) as texts:
        assert texts.index.text is None
        assert texts.search("5", k=1).ids.tolist() == ["id-5"]
        texts.add_texts(["new"], ["1"], {"n": [1], "even": [None]})
        assert texts.search("1", k=1).ids.tolist() == ["new"]
    with ti.open(tmp_path / "old", mode="r") as index:
        assert index.text == ti.TextConfig(encoder=eight.identity(), column=None)


class Own:
    """An encoder of one's own."""

    name = "own"
    dim = DIM

    def encode_documents(self, texts: list[str]) -> np.ndarray:
        return encode(texts)

    def encode_queries(self, texts: list[str]) -> np.ndarray:
        return encode([f"query {text}" for text in texts])

    def identity(self) -> ti.EncoderIdentity:
        return ti.EncoderIdentity(kind="own", name=self.name, dim=DIM, prompts={"query": "query "})


def test_an_object_with_the_methods_is_an_encoder(tmp_path: Path) -> None:
    assert isinstance(Own(), ti.Encoder)
    with ti.TextIndex.open(tmp_path / "t", Own()) as texts:
        texts.add_texts([1, 2], ["query", "document"])
        assert texts.search("x", k=1).ids.tolist() == [1]
    with pytest.raises(ti.ParameterError, match=r"'own' \(own, 32 dimensions, query prompt 'query '\)"):
        ti.TextIndex.open(tmp_path / "t")


def test_callables() -> None:
    both = ti.CallableEncoder(encode, other)
    assert (both.name, both.dim) == ("encode", DIM)
    np.testing.assert_array_equal(both.encode_queries(["a"]), -both.encode_documents(["a"]))
    assert ti.CallableEncoder(lambda texts: encode(texts).tolist()).dim == DIM
    with pytest.raises(ti.EncoderError, match=r"shape \(1, dim\) for one text, not \(32,\)"):
        ti.CallableEncoder(lambda texts: encode(texts)[0])
    with pytest.raises(ti.EncoderError, match=r"'How long are .* dimensions.*ZeroDivisionError.*give dim="):
        ti.CallableEncoder(lambda texts: 1 / 0)
    with pytest.raises(ti.ParameterError, match="callable"):
        ti.CallableEncoder(encode, "queries")  # type: ignore[arg-type]
    with pytest.raises(ti.ParameterError, match="dim"):
        ti.CallableEncoder(encode, dim=0)
