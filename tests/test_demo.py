"""The demo, on a fraction of its documents, so that it takes seconds."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

import tiered_index as ti
from tiered_index.cli import app
from tiered_index.demo import collect as collecting
from tiered_index.demo import run, train
from tiered_index.demo.plot import plot


@pytest.fixture(scope="module")
def documents() -> pa.Table:
    """Docstrings of a few packages of the standard library."""
    found = [
        document
        for path, module in collecting._source_files()
        if module.partition(".")[0]
        in ("asyncio", "concurrent", "email", "http", "json", "logging", "unittest", "urllib")
        for document in collecting._documents(path, module)
    ]
    unique = list({document.id: document for document in found}.values())
    return pa.Table.from_pydict(
        {name: [getattr(d, name) for d in unique] for name in collecting.SCHEMA.names},
        schema=collecting.SCHEMA,
    )


def test_documents_are_docstrings_of_this_python(documents: pa.Table) -> None:
    by_id = {row["id"]: row for row in documents.to_pylist()}
    document = by_id["json.dumps"]
    assert document["title"].startswith("dumps(obj, skipkeys, ensure_ascii")
    assert "Serialize ``obj`` to a JSON formatted ``str``" in document["title"]
    assert (document["package"], document["module"], document["kind"]) == ("json", "json", "function")
    assert document["length"] == len(document["text"])


def test_files_that_are_not_python_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def broken(:")
    assert collecting._documents(str(tmp_path / "bad.py"), "bad") == []
    assert collecting._documents(str(tmp_path / "none.py"), "none") == []


def test_the_demo_from_end_to_end(
    documents: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "collect", lambda: documents)
    monkeypatch.setattr(train, "_EPOCHS", 3)
    monkeypatch.setattr(train, "_BATCH", 128)
    monkeypatch.setattr(train, "_VOCABULARY", 3_000)
    monkeypatch.setattr(train, "HELD_OUT_EVERY", 20)
    said: list[str] = []
    demo = run.Demo(tmp_path / "demo", said.append)
    demo.build()
    answer = demo.ask("dumps: serialize obj to a JSON formatted str", k=5)
    assert any(hit["package"] == "json" for hit in answer.hits)
    assert answer.plan.strategy == "scan"  # too few documents for a graph
    table = demo.measure()
    assert [row.prefix_dim for row in table] == [64, 128, 192, 256, 768]
    assert table[-1].recall == 1.0
    assert table[3].recall >= 0.95
    assert all(row.recall >= row.recall_prefix for row in table)
    plot(table, documents.num_rows, demo.plot_path)
    assert demo.plot_path.read_bytes().startswith(b"\x89PNG")
    lines = len(said)
    run.Demo(tmp_path / "demo", said.append).build()  # nothing has changed: nothing is built
    assert len(said) == lines


def test_a_file_is_no_folder_for_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("important")
    for place in (tmp_path / "file", tmp_path / "file" / "demo"):
        result = CliRunner().invoke(app, ["demo", "--dir", str(place)])
        assert result.exit_code == 1
        assert result.stderr.startswith(f"StorageError: {place}: the demo cannot keep its data there")
    assert (tmp_path / "file").read_text() == "important"


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("important")
    with pytest.raises(ti.NotAnIndexError, match=r"thesis\.tex"):
        run.Demo(tmp_path, print).build()
    assert (tmp_path / "thesis.tex").read_text() == "important"
