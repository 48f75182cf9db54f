"""Texts of sources of any length: resumed without encoding anything twice, errors by the source's rows."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import tiered_index as ti
from tiered_index.cli import app
from tiered_index.text.feed import ENCODE_ROWS

from .test_sentence_transformer import folder, model  # noqa: F401 - fixtures
from .words import DIM, encode

os.environ.setdefault("HF_HUB_OFFLINE", "1")
COUNT = 2 * ENCODE_ROWS + 100


@pytest.fixture
def table() -> pa.Table:
    return pa.table(
        {
            "id": [f"d{i}" for i in range(COUNT)],
            "body": [f"word{i % 50} text{i}" for i in range(COUNT)],
            "n": np.arange(COUNT) % 9,
        }
    )


class Counting:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, texts: list[str]) -> np.ndarray:
        self.seen += texts
        return encode(texts)


def test_it_gives_what_add_texts_gives(table: pa.Table, tmp_path: Path) -> None:
    pq.write_table(table, tmp_path / "t.parquet")
    sources = [tmp_path / "t.parquet", table, table.to_reader(max_chunksize=700), table.to_pandas()]
    with ti.TextIndex.open(tmp_path / "added", encode) as added:
        added.add_texts(table["id"], table["body"], table.select(["n"]))
        wanted = added.index.get(where={}, include_vectors=True)
        for number, source in enumerate(sources):
            with ti.TextIndex.open(tmp_path / f"i{number}", encode) as texts:
                report = texts.ingest(source, text_column="body", calibrate_seconds=0, commit_rows=1_500)
                assert report.rows == COUNT
                assert texts.index.get(table["id"], include_vectors=True) == wanted
                assert texts.index.text == added.index.text
                assert len(texts.index.generations()) == 3  # two commits


def test_an_interrupted_one_goes_on_and_encodes_nothing_twice(table: pa.Table, tmp_path: Path) -> None:
    counting = Counting()
    encoder = ti.CallableEncoder(counting, dim=DIM)
    with ti.TextIndex.open(tmp_path / "t", encoder) as texts:
        texts.add_texts(["d0", "d3", "d1500"], ["a", "b", "c"], {"n": [0, 0, 0]})
        counting.seen.clear()
        report = texts.ingest(table, text_column="body", skip_existing=True, calibrate_seconds=0)
        assert (report.rows, report.skipped) == (COUNT - 3, 3)
        assert counting.seen == [f"word{i % 50} text{i}" for i in range(COUNT) if i not in (0, 3, 1500)]
        counting.seen.clear()
        again = texts.ingest(table, text_column="body", skip_existing=True, calibrate_seconds=1)
        assert (again.rows, again.skipped, counting.seen) == (0, COUNT, [])
        with pytest.raises(ti.DuplicateIdError):
            texts.ingest(table, text_column="body")


def test_one_in_a_batch_knows_what_the_batch_did(table: pa.Table, tmp_path: Path) -> None:
    some = table.slice(0, 6)
    counting = Counting()
    with ti.TextIndex.open(tmp_path / "t", ti.CallableEncoder(counting, dim=DIM)) as texts:
        texts.add_texts(["d0", "d1"], ["a", "b"], {"n": [0, 0]})
        with texts.index.batch():
            texts.index.delete(["d0"])
            texts.add_texts(["d2"], ["c"], {"n": [0]})
            counting.seen.clear()
            report = texts.ingest(some, text_column="body", skip_existing=True, calibrate_seconds=0)
            assert (report.rows, report.skipped) == (4, 2)
            assert counting.seen == [some["body"][row].as_py() for row in (0, 3, 4, 5)]
            with pytest.raises(ti.DuplicateIdError):
                texts.add_texts(["d3"], ["d"], {"n": [0]})
        assert len(texts) == 6


def test_numbered_rows_and_rows_of_errors(tmp_path: Path) -> None:
    bodies = [f"t{i}" for i in range(COUNT)]

    def zero(texts: list[str]) -> np.ndarray:
        return encode(texts) * np.array([text != "t1500" for text in texts])[:, None]

    with ti.TextIndex.open(tmp_path / "t", ti.CallableEncoder(zero, dim=DIM)) as texts:
        with pytest.raises(ti.ZeroVectorError) as raised:
            texts.ingest(pa.table({"text": bodies}), id_column=None)
        assert raised.value.rows == (1500,)
        assert len(texts) == 0
        texts.add_texts([1490], ["x"])
        with pytest.raises(ti.ZeroVectorError) as raised:
            texts.ingest(pa.table({"text": bodies}), id_column=None, skip_existing=True)
        assert raised.value.rows == (1500,)
        bodies[1500] = None  # type: ignore[call-overload]
        with pytest.raises(ti.TextError, match=r"not None \(row 1500\)"):
            texts.ingest(pa.table({"text": bodies}), id_column=None, skip_existing=True)
        assert len(texts) == 1


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (pa.table({"id": [1], "n": [1]}), "no column 'text' to take texts from"),
        (pa.table({"id": [1], "text": [1]}), "texts must be strings, not int64"),
        (np.ones((3, DIM)), "must be"),
        ("a.npy", "holds no texts"),
        (pa.table({"id": pa.array([], pa.int64()), "text": pa.array([], pa.string())}), "no rows"),
    ],
)
def test_sources_without_texts(source: object, said: str, tmp_path: Path) -> None:
    with (
        ti.TextIndex.open(tmp_path / "t", encode) as texts,
        pytest.raises(ti.SourceError, match=said),
    ):
        texts.ingest(source)


def test_a_second_column_of_the_texts_name(tmp_path: Path) -> None:
    source = pa.table({"id": [1], "body": ["a"], "text": ["b"]})
    with ti.TextIndex.open(tmp_path / "t", encode) as texts:
        with pytest.raises(ti.MetadataError, match="a column 'text', where the index keeps the texts"):
            texts.ingest(source, text_column="body")
        assert texts.ingest(source, text_column="body", columns=[], calibrate_seconds=0).rows == 1


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.stderr if code else result.stdout


def test_the_command_line(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    table = pa.table({"id": [1, 2, 3], "text": ["red fox runs", "green owl", "owl sleeps"], "n": [1, 2, 3]})
    pq.write_table(table, tmp_path / "t.parquet")
    pq.write_table(table.rename_columns(["id", "body", "n"]).slice(2), tmp_path / "b.parquet")
    index = tmp_path / "t.tidx"
    source = tmp_path / "t.parquet"
    assert (
        json.loads(run("ingest", source, index, "--encoder", folder, "--metric", "dot", "--json"))["rows"]
        == 3
    )
    again = ("ingest", tmp_path / "b.parquet", index, "--text-column", "body", "--skip-existing")
    assert "0 rows added, 1 skipped" in run(*again)  # with the encoder that is kept
    with ti.TextIndex.open(index, mode="r") as texts:
        assert texts.index.config.metric == "dot"
        wanted = texts.search("owl", k=2, where={"n": {"$gt": 1}}).to_arrow().to_pylist()
    found = json.loads(
        run("search", index, "--text", "owl", "-k", 2, "--where", '{"n": {"$gt": 1}}', "--json")
    )
    assert found["hits"] == wanted
    assert "owl sleeps" in run("search", index, "--text", "owl")
    assert "took" in run("explain", index, "--text", "owl", "-k", 2)
    stats = json.loads(run("info", index, "--json"))
    assert stats["text"]["encoder"]["name"] == str(folder.resolve())
    shown = run("info", index).replace("\n", "")
    assert f"encoder: '{folder.resolve()}' (sentence-transformers, 48 dimensions, document prompt" in shown
    assert "texts in the column 'text'" in shown
    assert "give one of --text" in run("search", index, "--text", "owl", "--like", 1, code=1)
    assert "not both" in run(*again, "--vector-column", "v", code=1)
    with ti.open(tmp_path / "v.tidx", dim=8) as plain:
        plain.add([1], np.ones((1, 8)))
    assert "knows no encoder for --text; give --like" in run(
        "search", tmp_path / "v.tidx", "--text", "owl", code=1
    )
    assert "encoder" not in run("info", tmp_path / "v.tidx")
    assert "IndexNotFoundError" in run("ingest", source, tmp_path / "new", "--text-column", "text", code=1)


def test_an_encoder_that_fails_names_the_row_where_others_are_passed_over(
    table: pa.Table, tmp_path: Path
) -> None:
    def broken(batch: list[str]) -> np.ndarray:
        vectors = encode(batch)
        vectors[[text.endswith(" text1500") for text in batch]] = np.nan
        return vectors

    encoder = ti.CallableEncoder(broken, dim=DIM, name="broken")
    with ti.TextIndex.open(tmp_path / "t.tidx", encoder, text_column="body") as texts:
        texts.add_texts([f"d{i}" for i in range(1_100, 1_400)], ["a"] * 300, {"n": [0] * 300})
        with pytest.raises(ti.EncoderError) as caught:
            texts.ingest(table, text_column="body", skip_existing=True, progress=False, calibrate_seconds=0)
        assert caught.value.rows == (1_500,)
