"""An index that is given texts does what one that is given their vectors does, and keeps its encoder."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiered_index as ti
from tiered_index.testing import exact_top_k
from tiered_index.text.feed import ENCODE_ROWS

from .words import DIM, encode

TEXTS = [f"word{i % 7} other{i % 11} number{i}" for i in range(300)]


@pytest.fixture
def texts(tmp_path: Path) -> ti.TextIndex:
    with ti.TextIndex.open(tmp_path / "t.tidx", encode) as opened:
        yield opened


rows = st.lists(st.tuples(st.text("ab c\n\x00é🙂", max_size=6), st.integers(0, 3)), min_size=1, max_size=12)


@settings(max_examples=20)
@given(first=rows, second=rows, query=st.text("abc ", max_size=5), k=st.integers(1, 8), strings=st.booleans())
def test_it_gives_what_an_index_of_the_same_vectors_gives(
    tmp_path_factory: pytest.TempPathFactory,
    first: list[tuple[str, int]],
    second: list[tuple[str, int]],
    query: str,
    k: int,
    strings: bool,
) -> None:
    folder = tmp_path_factory.mktemp("p")
    ids = [f"id{i}" if strings else i for i in range(40)]
    with ti.TextIndex.open(folder / "t", encode) as mine, ti.open(folder / "v", dim=DIM) as theirs:
        for start, part, change in ((0, first, "add"), (5, second, "upsert")):
            words, numbers = [text for text, _ in part], [number for _, number in part]
            names = ids[start : start + len(part)]
            getattr(mine, f"{change}_texts")(names, words, {"n": numbers})
            getattr(theirs, change)(names, encode(words), {"n": numbers, "text": words})
        assert mine.index.schema == theirs.schema
        assert mine.index.get(where={}, include_vectors=True) == theirs.get(where={}, include_vectors=True)
        for asked in ({}, {"where": {"n": {"$lt": 2}}}, {"exact": True}, {"prefix_dim": 8, "candidates": 9}):
            vector = encode([query])[0]
            found, wanted = mine.search(query, k, **asked), theirs.search(vector, k, **asked)
            assert found.plan == wanted.plan
            assert found.to_arrow() == wanted.to_arrow()
        both = mine.search([query, "b"], k)
        assert both.to_arrow() == theirs.search(encode([query, "b"]), k).to_arrow()
        grouped = mine.search(query, k, group_by="n")
        assert grouped.to_arrow() == theirs.search(encode([query])[0], k, group_by="n").to_arrow()


def test_search_finds_the_exact_best_and_carries_the_text(texts: ti.TextIndex) -> None:
    texts.add_texts(range(300), TEXTS)
    vectors = encode(TEXTS)
    truth, scores = exact_top_k(vectors, encode(["word3 other5"]), 10)
    hit = texts.search("word3 other5")
    assert hit.plan.strategy in ("graph", "scan")
    assert hit.ids.tolist() == truth[0].tolist()
    np.testing.assert_allclose(hit.scores, scores[0], rtol=1e-5)
    assert hit.metadata["text"].to_pylist() == [TEXTS[i] for i in truth[0]]
    assert texts.search(pd.Series(["word3 other5", "number7"]), k=1).ids.shape == (2, 1)


def test_explain_and_calibrate_take_texts(texts: ti.TextIndex) -> None:
    texts.add_texts(range(300), TEXTS)
    assert texts.calibrate(TEXTS[:40], k=5, seconds=1).queries == 40
    explained = texts.explain("word3", k=5, min_recall=0.9, exact=True)
    assert explained.plan == texts.search("word3", k=5, min_recall=0.9).plan
    assert texts.explain(k=5).plan == texts.index.explain(k=5).plan


def test_a_long_call_is_one_commit_and_holds_few_vectors(texts: ti.TextIndex, capsys: object) -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def watched(given: list[str]) -> np.ndarray:
        nonlocal most
        most = max(most, sum(ref() is not None for ref in alive))
        assert len(given) <= ENCODE_ROWS
        vectors = encode(given)
        alive.append(weakref.ref(vectors))
        return vectors

    watching = ti.TextIndex.over(texts.index, ti.CallableEncoder(watched, name="encode", dim=DIM))
    count = 5 * ENCODE_ROWS + 3
    before = texts.index.generations()[-1].generation
    watching.add_texts(range(count), [f"text {i}" for i in range(count)], progress=True)
    assert texts.index.generations()[-1].generation == before + 1
    assert len(alive) == 6
    assert most <= 2  # the first part's, and the last one's
    assert len(texts) == count
    shown = capsys.readouterr().err  # type: ignore[attr-defined]
    assert f"{count:,} rows" in shown
    assert "rows/s" in shown


@pytest.mark.parametrize(
    ("bad", "error", "rows"),
    [
        (lambda given: (_ for _ in ()).throw(ConnectionError("gone")), ti.EncoderError, ()),
        (lambda given: encode(given)[:-1], ti.EncoderError, ()),
        (lambda given: encode(given)[:, :-1], ti.EncoderError, ()),
        (lambda given: encode(given)[0], ti.EncoderError, ()),
        (lambda given: encode(given).astype(str), ti.EncoderError, ()),
        (lambda given: None, ti.EncoderError, ()),
        (lambda given: [*encode(given)[:-2], np.ones(3), np.ones(DIM)], ti.EncoderError, (ENCODE_ROWS + 8,)),
        (lambda given: np.where(np.arange(10)[:, None] == 4, np.nan, 1.0), ti.EncoderError, None),
        (lambda given: encode(given) * (np.arange(10) != 6)[:, None], ti.ZeroVectorError, (ENCODE_ROWS + 6,)),
    ],
    ids=["raises", "count", "dim", "rank", "type", "none", "ragged", "nan", "zero"],
)
def test_an_encoder_that_goes_wrong_in_the_second_part_changes_nothing(
    texts: ti.TextIndex, bad: object, error: type[ti.TieredIndexError], rows: tuple[int, ...] | None
) -> None:
    if rows is None:
        rows = (ENCODE_ROWS + 4,)
        bad_nan = np.where(np.arange(10)[:, None] == 4, np.nan, np.ones((10, DIM)))

        def bad(given: list[str]) -> np.ndarray:
            return bad_nan

    def worse(given: list[str]) -> object:
        return encode(given) if len(given) > 10 else bad(given)  # type: ignore[operator]

    texts.add_texts([-1], ["before"])
    state = texts.index.generations()
    over = ti.TextIndex.over(texts.index, ti.CallableEncoder(worse, name="encode", dim=DIM))
    count = ENCODE_ROWS + 10
    with pytest.raises(error) as raised:
        over.add_texts(range(count), ["a b"] * count)
    assert raised.value.rows == rows  # type: ignore[attr-defined]
    assert (texts.index.generations(), len(texts)) == (state, 1)
    assert isinstance(raised.value, OSError) is False


def test_an_encoder_that_goes_wrong_with_a_query(texts: ti.TextIndex) -> None:
    texts.add_texts([1], ["a"])

    def wrong(given: list[str]) -> np.ndarray:
        return np.full((len(given), DIM), np.nan)

    over = ti.TextIndex.over(texts.index, ti.CallableEncoder(encode, wrong, name="encode"))
    with pytest.raises(ti.EncoderError, match=r"'encode' returned NaN or infinity \(rows 0, 1\)"):
        over.search(["a", "b"])


@pytest.mark.parametrize(
    ("given", "said", "rows"),
    [
        (["a", None, "b", 3], r"not None \(rows 1, 3\)", (1, 3)),
        (["a", b"b"], r"not bytes b'b' \(row 1\)", (1,)),
        (["a", "\ud800"], r"valid Unicode.*\(row 1\)", (1,)),
        (pa.array(["a", None]), r"not None \(row 1\)", (1,)),
        (pd.Series(["a", float("nan")]), r"not float nan \(row 1\)", (1,)),
        ("one text", "sequence of strings, not one: 'one text'", ()),
        (7, "sequence of strings, not int", ()),
        ({"a", "b"}, "sequence of strings, not a set: it has no order", ()),
    ],
)
def test_what_is_no_text_is_named_and_nothing_is_encoded(
    texts: ti.TextIndex, given: object, said: str, rows: tuple[int, ...]
) -> None:
    def never(given: list[str]) -> np.ndarray:
        raise AssertionError

    over = ti.TextIndex.over(texts.index, ti.CallableEncoder(never, name="encode", dim=DIM))
    with pytest.raises(ti.TextError, match=said) as raised:
        over.add_texts([1, 2], given)
    assert raised.value.rows == rows
    if not isinstance(given, str):
        with pytest.raises(ti.TextError, match=said):
            over.search(given)
    for ids in ([1], [1, 1], [None, 1], [1, 2, 3], {1, 2}):
        with pytest.raises(ti.InvalidInputError):
            over.add_texts(ids, ["a", "b"])
    assert texts.index.generations()[-1].generation == 1


def test_nothing_to_add_and_nothing_to_search_for(texts: ti.TextIndex) -> None:
    texts.add_texts([], [])
    assert texts.index.generations()[-1].generation == 1
    texts.add_texts([1], ["a"])
    with pytest.raises(ti.TextError, match="the list is empty"):
        texts.search([])


def test_a_known_id_is_refused_before_the_rest_is_encoded(texts: ti.TextIndex) -> None:
    count = 3 * ENCODE_ROWS
    texts.add_texts([count - 1], ["here already"])
    asked = []

    def counting(given: list[str]) -> np.ndarray:
        asked.append(len(given))
        return encode(given)

    over = ti.TextIndex.over(texts.index, ti.CallableEncoder(counting, name="encode", dim=DIM))
    with pytest.raises(ti.DuplicateIdError) as raised:
        over.add_texts(range(count), ["a"] * count)
    assert (raised.value.rows, asked) == ((count - 1,), [ENCODE_ROWS])
    with texts.index.batch():  # where the row is gone
        texts.index.delete([count - 1])
        over.add_texts(range(count), ["a"] * count)
    assert len(texts) == count


def test_metadata_of_every_form_beside_the_text(texts: ti.TextIndex) -> None:
    frame = pd.DataFrame({"n": [1, 2]})
    forms = [{"n": [1, 2]}, frame, pa.table(frame), pa.RecordBatch.from_pandas(frame), [{"n": 1}, {"n": 2}]]
    for first, form in enumerate(forms):
        texts.add_texts([2 * first, 2 * first + 1], ["a", "b"], form)
    assert texts.index.schema.names == ["n", "text"]
    assert texts.index.get(where={"text": "a"})["n"].to_pylist() == [1] * len(forms)
    state = texts.index.generations()
    taken = pd.DataFrame({"n": [1], "text": ["x"]})
    for form in ({"n": [1], "text": ["x"]}, taken, pa.table(taken), [{"n": 1, "text": "x"}]):
        with pytest.raises(ti.MetadataError, match="a column 'text', where the index keeps the texts"):
            texts.add_texts([99], ["a"], form)
    with pytest.raises(ti.MetadataError, match=r"missing columns \['n'\]"):
        texts.add_texts([99], ["a"])
    assert texts.index.generations() == state


def test_texts_in_another_column_or_in_none(tmp_path: Path) -> None:
    with ti.TextIndex.open(tmp_path / "body", encode, text_column="body") as opened:
        opened.add_texts([1], ["a"], {"text": ["mine"]})
        assert opened.search("a").to_arrow().to_pylist()[0].items() >= {"text": "mine", "body": "a"}.items()
    with ti.TextIndex.open(tmp_path / "body", encode) as opened:  # as it was made
        opened.upsert_texts([1], ["b"], {"text": ["mine"]})
        assert opened.index.get([1])["body"].to_pylist() == ["b"]
    with pytest.raises(ti.ConfigMismatchError, match="keeps texts in 'body', not in None"):
        ti.TextIndex.open(tmp_path / "body", encode, text_column=None)
    with ti.TextIndex.open(tmp_path / "none", encode, text_column=None) as opened:
        opened.add_texts([1], ["a"])
        assert opened.search("a").metadata.column_names == []


def test_threads_that_add_a_few_encode_at_the_same_time(texts: ti.TextIndex) -> None:
    together = threading.Barrier(3, timeout=20)

    def meeting(given: list[str]) -> np.ndarray:
        together.wait()  # breaks unless all three are encoding
        return encode(given)

    over = ti.TextIndex.over(texts.index, ti.CallableEncoder(meeting, name="encode", dim=DIM))
    threads = [threading.Thread(target=over.add_texts, args=([i], [f"t{i}"])) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(texts.index.get(where={})["text"].to_pylist()) == ["t0", "t1", "t2"]


def test_several_writes_in_a_batch(texts: ti.TextIndex) -> None:
    with texts.index.batch():
        texts.add_texts([1, 2], ["a", "b"], {"n": [1, 2]})
        texts.upsert_texts([2, 3], ["c", "d"], {"n": [None, None]})
        with pytest.raises(ti.TextError):
            texts.add_texts([4], [4])
    assert texts.index.get([1, 2, 3, 4])["text"].to_pylist() == ["a", "c", "d"]
    assert texts.index.generations()[-1].generation == 2


def test_metadata_may_be_a_polars_frame(texts: ti.TextIndex) -> None:
    texts.add_texts([1, 2], ["a", "b"], pl.DataFrame({"n": [3, 4]}))
    assert texts.search("a", 1).metadata["n"].to_pylist() == [3]
    with pytest.raises(ti.MetadataError, match="keeps the texts"):
        texts.add_texts([3], ["c"], pl.DataFrame({"n": [3], "text": ["c"]}))


@pytest.mark.parametrize("column", [3, b"x", "", "id", "vector"])
def test_a_column_that_cannot_keep_texts_is_refused_before_there_is_an_index(
    tmp_path: Path, column: object
) -> None:
    with pytest.raises(ti.ParameterError, match="text_column"):
        ti.TextIndex.open(tmp_path / "t.tidx", encode, text_column=column)
    assert not (tmp_path / "t.tidx").exists()


def test_an_encoder_over_rows_without_columns_keeps_no_texts(tmp_path: Path) -> None:
    with ti.open(tmp_path / "v.tidx", dim=DIM) as index:
        index.add([1], encode(["a"]))
        opened = ti.TextIndex.over(index, encode)
        assert opened.text_column is None
        opened.add_texts([2], ["b"])
        assert len(index) == 2


def test_what_another_encoder_added_meanwhile_is_not_searched(tmp_path: Path) -> None:
    other = ti.CallableEncoder(lambda batch: encode(batch)[:, ::-1], dim=DIM, name="another")
    with ti.open(tmp_path / "v.tidx", dim=DIM) as index:
        mine, theirs = ti.TextIndex.over(index, encode), ti.TextIndex.over(index, other)
        mine.add_texts([1], ["a"])
        with pytest.raises(ti.EncoderMismatchError):
            theirs.search("a")
