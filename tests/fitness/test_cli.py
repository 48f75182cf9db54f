"""The command, as a person and as a script would use it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import tiered_index as ti
from tiered_index.cli import app
from tiered_index.fitness.run import default_dims
from tiered_index.testing import exact_top_k, matryoshka_vectors


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["fitness", *(str(a) for a in arguments)])
    assert result.exit_code == code, result.output
    return result.stderr if code else result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fitness")
    docs, queries = (matryoshka_vectors(n, 64, decay=0.4, stream=s) for n, s in ((1_200, 0), (80, 1)))
    np.save(folder / "v.npy", docs)
    np.save(folder / "q.npy", queries)
    truth, _ = exact_top_k(docs, queries, 2)
    lines = [f"{q} 0 {d} 1" for q, rows in enumerate(truth.tolist()) for d in rows]
    (folder / "q.trec").write_text("\n".join(lines) + "\n")
    with ti.open(folder / "i.tidx", dim=64, prefix_dim=24) as index:
        index.add(range(len(docs)), docs)
    return folder


def test_for_people(folder: Path) -> None:
    shown = run(folder / "v.npy", "--queries", folder / "q.npy", "--html", folder / "f.html", "--price", 3)
    assert shown.startswith("Matryoshka")
    assert "prefix_dim=" in shown
    first = [line.split()[0] for line in shown.splitlines() if line.strip()]
    assert [int(word) for word in first if word.isdecimal()] == default_dims(64)
    assert " $ " in shown
    assert "dollars a month" in shown
    assert "<svg" in (folder / "f.html").read_text()


def test_for_scripts(folder: Path) -> None:
    options = ["--queries", folder / "q.npy", "--qrels", folder / "q.trec", "--keep", "ndcg", "-k", 5]
    found = json.loads(run(folder / "v.npy", *options, "--dim", 16, "--dim", 32, "--json"))
    assert found["kind"] == "matryoshka"
    assert [prefix["dim"] for prefix in found["prefixes"]] == [16, 32, 64]
    assert found["prefixes"][-1]["alone"]["ndcg"]["value"] == pytest.approx(1.0)
    assert found["keep"] == "ndcg"
    same = ti.fitness(folder / "v.npy", folder / "q.npy", folder / "q.trec", keep="ndcg", k=5, dims=[16, 32])
    assert tuple(found["verdict"]) == same.verdict


def test_of_an_index(folder: Path) -> None:
    found = json.loads(run(folder / "i.tidx", "--rows", 500, "--max-queries", 50, "--json"))
    assert (found["prefix_dim"], found["rows"], found["queries"]) == (24, 500, 50)
    assert found["query_source"] == "held out"
    assert any("Give real queries" in caution for caution in found["cautions"])


def test_a_page_that_cannot_be_written_is_told_before_measuring(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ti, "fitness", lambda *_, **__: pytest.fail("it was measured"))
        for page in (folder / "none" / "f.html", folder):
            shown = run(folder / "v.npy", "--html", page, code=1)
            assert shown.startswith(f"StorageError: {page}: cannot be written")
            assert shown.count("\n") == 1
    (folder / "old.html").write_text("old")
    for page in ("old.html", "new.html"):
        run(folder / "none.npy", "--html", folder / page, code=1)
    assert (folder / "old.html").read_text() == "old"
    assert not (folder / "new.html").exists()


def test_errors_are_one_line(folder: Path) -> None:
    assert run(folder / "none.npy", code=1).startswith("SourceError")
    assert run(folder / "v.npy", "--keep", "ndcg", code=1) == 'ParameterError: keep="ndcg" needs qrels\n'
    (folder / "bad.trec").write_text("1 0 5000 1\n")
    said = run(folder / "v.npy", "--queries", folder / "q.npy", "--qrels", folder / "bad.trec", code=1)
    assert said == "IdError: qrels: '5000' is not among the vectors (row 0)\n"
