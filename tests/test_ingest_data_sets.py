"""Hugging Face data sets as sources: in memory, chosen from, on disk and streamed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

import tiered_index as ti
from tiered_index.validate.batch import BATCH_ROWS

from .conftest import DIM

COUNT = 300
FIXED = datasets.List(datasets.Value("float32"), length=DIM)


@pytest.fixture(scope="module")
def rows(vectors: np.ndarray) -> dict[str, Any]:
    return {
        "id": [f"d{i}" for i in range(COUNT)],
        "embedding": vectors[:COUNT],
        "title": [f"title {i}" for i in range(COUNT)],
    }


def streamed(rows: dict[str, Any]) -> datasets.IterableDataset:
    def generate() -> Iterator[dict[str, Any]]:
        for i in range(COUNT):
            yield {name: values[i] for name, values in rows.items()}

    return datasets.IterableDataset.from_generator(generate)


def on_disk(rows: dict[str, Any], folder: Path) -> datasets.Dataset:
    datasets.Dataset.from_dict(rows).save_to_disk(str(folder), num_shards=2)
    return datasets.load_from_disk(str(folder))


FORMS = {
    "memory": lambda rows, folder: datasets.Dataset.from_dict(rows),
    "fixed": lambda rows, folder: datasets.Dataset.from_dict(rows).cast_column("embedding", FIXED),
    "numpy": lambda rows, folder: datasets.Dataset.from_dict(rows).with_format("numpy"),
    "disk": on_disk,
    "generated": lambda rows, folder: streamed(rows),
    "iterable": lambda rows, folder: datasets.Dataset.from_dict(rows).to_iterable_dataset(num_shards=3),
    "mapped": lambda rows, folder: streamed(rows).map(lambda row: {**row, "title": row["title"].upper()}),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_data_set_is_ingested_as_its_columns_are(form: str, rows: dict[str, Any], tmp_path: Path) -> None:
    source = FORMS[form](rows, tmp_path / "data")
    report = ti.ingest(source, tmp_path / "i.tidx", calibrate_seconds=0)
    assert report.rows == COUNT
    with ti.open(tmp_path / "i.tidx") as index:
        kept = index.get(rows["id"], include_vectors=True)
    titles = [title.upper() for title in rows["title"]] if form == "mapped" else rows["title"]
    assert kept["title"].to_pylist() == titles
    np.testing.assert_array_equal(np.stack(kept["vector"].to_numpy(zero_copy_only=False)), rows["embedding"])


def test_chosen_and_shuffled_rows(rows: dict[str, Any], tmp_path: Path) -> None:
    chosen = datasets.Dataset.from_dict(rows).shuffle(seed=1).select([5, 2, 9])
    ti.ingest(chosen, tmp_path / "i.tidx", columns=[], calibrate_seconds=0)
    with ti.open(tmp_path / "i.tidx") as index:
        assert index.get(where={})["id"].to_pylist() == chosen["id"][:]
        assert len(index.schema) == 0


def test_half_precision_is_kept(rows: dict[str, Any], tmp_path: Path) -> None:
    half = datasets.List(datasets.Value("float16"), length=DIM)
    source = datasets.Dataset.from_dict(rows).cast_column("embedding", half)
    ti.ingest(source, tmp_path / "i.tidx", calibrate_seconds=0)
    with ti.open(tmp_path / "i.tidx") as index:
        assert index.config.dtype == "float16"


def test_what_cannot_be_read_is_a_source_error(rows: dict[str, Any], tmp_path: Path) -> None:
    data = datasets.Dataset.from_dict(rows)
    wrong = [
        (datasets.DatasetDict({"train": data, "test": data}), r"take one of \['train', 'test'\]"),
        (data.select([]), "no rows"),
        (data.remove_columns("embedding"), "no column holds"),
        (data.remove_columns("id"), "no column 'id'"),
    ]
    for source, said in wrong:
        with pytest.raises(ti.SourceError, match=said):
            ti.ingest(source, tmp_path / "i.tidx")


@pytest.mark.parametrize("good", [1, BATCH_ROWS])
def test_a_stream_that_goes_wrong_is_a_source_error(good: int, tmp_path: Path) -> None:
    def changing() -> Iterator[dict[str, Any]]:
        yield from ({"id": i, "embedding": [1.0] * DIM} for i in range(good))
        yield {"id": "two", "embedding": [1.0] * DIM}

    def lost() -> Iterator[dict[str, Any]]:
        yield from ({"id": i, "embedding": [1.0] * DIM} for i in range(good))
        raise ConnectionError("lost")

    for generate, said in ((changing, "the data set: "), (lost, "reading failed: lost")):
        with pytest.raises(ti.SourceError, match=said):
            ti.ingest(datasets.IterableDataset.from_generator(generate), tmp_path / generate.__name__)


def test_texts_of_a_data_set(rows: dict[str, Any], vectors: np.ndarray, tmp_path: Path) -> None:
    def encode(texts: list[str]) -> np.ndarray:
        return vectors[[int(text.split()[1]) for text in texts]]

    with ti.TextIndex.open(tmp_path / "t", ti.CallableEncoder(encode, dim=DIM)) as texts:
        source = datasets.Dataset.from_dict(rows).remove_columns("embedding")
        report = texts.ingest(source, text_column="title", calibrate_seconds=0)
        assert (report.rows, report.skipped) == (COUNT, 0)
        hit = texts.search("title 7", k=1)
        assert (hit.ids[0], hit.metadata["text"][0].as_py()) == ("d7", "title 7")
