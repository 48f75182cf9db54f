"""The command line, as a person and as a script would use it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import tiered_index as ti
from tiered_index.cli import app
from tiered_index.testing import exact_top_k

from .conftest import DIM, ROWS


def run(*arguments: object, code: int = 0, stdin: str | None = None) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)
    assert result.exit_code == code, result.output
    return result.stderr if code else result.stdout


@pytest.fixture(scope="module")
def folder(vectors: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Parquet file, queries, and an index that the command line made of them."""
    folder = tmp_path_factory.mktemp("cli")
    table = {"id": [f"d{i}" for i in range(ROWS)], "embedding": list(vectors), "year": np.arange(ROWS) % 9}
    pq.write_table(pa.table(table), folder / "v.parquet")
    np.save(folder / "q.npy", vectors[:3])
    done = run("ingest", folder / "v.parquet", folder / "i.tidx", "--prefix-dim", 32, "--json")
    assert json.loads(done)["rows"] == ROWS
    return folder


def test_search_by_file_id_and_stdin_agree(folder: Path, vectors: np.ndarray) -> None:
    truth, _ = exact_top_k(vectors, vectors[2:3], 5)
    wanted = [f"d{i}" for i in truth[0]]
    forms = [
        (["--vector", folder / "q.npy", "--row", 2], None),
        (["--like", "d2"], None),
        (["--vector", "-"], json.dumps(vectors[2].tolist())),
    ]
    for form, stdin in forms:
        answer = json.loads(run("search", folder / "i.tidx", *form, "-k", 5, "--json", stdin=stdin))
        assert [hit["id"] for hit in answer["hits"]] == wanted
        assert answer["hits"][0]["year"] == 2
        assert answer["plan"]["strategy"] == "scan"
        assert answer["stats"]["queries"] == 1


def test_search_for_people(folder: Path) -> None:
    shown = run("search", folder / "i.tidx", "--like", "d2", "-k", 2, "--candidates", 20)
    assert "d2" in shown
    assert "20 candidates rescored" in shown
    assert "exact" in run("search", folder / "i.tidx", "--like", "d2", "--exact")


def test_info(folder: Path) -> None:
    stats = json.loads(run("info", folder / "i.tidx", "--json"))
    assert (stats["rows"], stats["config"]["dim"], stats["id_kind"]) == (ROWS, DIM, "str")
    assert stats["coarse_codes_bytes"] == ROWS * 32 * 2
    shown = run("info", folder / "i.tidx")
    assert "1,000 rows" in shown
    assert "would take" in shown


def test_names_and_values_are_shown_as_they_are(folder: Path, vectors: np.ndarray) -> None:
    names = ["a[/b]", "price[usd]"]
    with ti.open(folder / "names.tidx", dim=DIM) as index:
        index.add(["d:100:1"], vectors[:1], {names[0]: ["[red]x[/]"], names[1]: ["y\\"]})
    shown = [
        run(*what) for what in (("search", index.path, "--like", "d:100:1"), ("get", index.path, "d:100:1"))
    ]
    assert all(word in one for one in shown for word in (*names, "d:100:1", "[red]x[/]", "y\\"))
    assert f"columns: {names[0]} (string), {names[1]} (string)" in run("info", index.path)


def test_long_texts_leave_room_for_what_tells_rows_apart(folder: Path, vectors: np.ndarray) -> None:
    ids = ["a-rather-long-id-1", "https://example.com/" + "x" * 90]
    texts = {name: [f"{name} " + "word " * 60] * 2 for name in ("title", "text")} | {"year": [1999, 2001]}
    with ti.open(folder / "long.tidx", dim=DIM) as index:
        index.add(ids, vectors[:2], texts)
    hits = run("search", index.path, "--like", ids[0], "-k", 1)
    heads, best = hits.splitlines()[:2]
    assert heads.split()[:3] == ["rank", "score", "id"]
    assert best.split()[:3] == ["1", "1.0000", ids[0]]
    assert all(word in best for word in ("title word", "text word", "1999"))
    rows = run("get", index.path, *ids)
    assert rows.splitlines()[1].startswith(ids[0])
    assert ids[1] in "".join(line.split()[0] for line in rows.splitlines() if line.strip())
    for shown in (hits, rows):
        assert max(map(len, shown.splitlines())) <= 80


def test_ingest_again_is_refused_and_resumed(folder: Path) -> None:
    assert "DuplicateIdError" in run("ingest", folder / "v.parquet", folder / "i.tidx", code=1)
    again = json.loads(run("ingest", folder / "v.parquet", folder / "i.tidx", "--skip-existing", "--json"))
    assert (again["rows"], again["skipped"]) == (0, ROWS)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["info", "nowhere.tidx"], "IndexNotFoundError"),
        (["search", "INDEX"], "ParameterError"),
        (["search", "INDEX", "--like", "nobody"], "IdError"),
        (["search", "INDEX", "--like", "d1", "-k", "0"], "ParameterError"),
        (["search", "INDEX", "--vector", "none.npy"], "SourceError"),
        (["ingest", "none.parquet", "x.tidx"], "SourceError"),
        (["count", "INDEX", "--where", "{year: 3}"], "FilterError"),
        (["count", "INDEX", "--where", "3"], "FilterError"),
        (["count", "INDEX", "--where", '{"month": 3}'], "FilterError"),
        (["get", "INDEX", "d1", "--limit", "-1"], "ParameterError"),
        (["get", "INDEX"], "ParameterError"),
        (["delete", "INDEX"], "ParameterError"),
        (["delete", "INDEX", "d1", "--where", "{}"], "ParameterError"),
        (["count", "INDEX", "--where", "[" * 100_000], "FilterError"),
    ],
)
def test_errors_are_one_line(folder: Path, arguments: list[str], error: str) -> None:
    shown = run(*(str(folder / "i.tidx") if a == "INDEX" else a for a in arguments), code=1)
    assert shown.startswith(error)
    assert shown.count("\n") == 1
    assert not Path("x.tidx").exists()


@pytest.mark.parametrize("command", [["search", "--vector"], ["calibrate", "--queries"]])
def test_files_that_hold_no_array_are_one_line(folder: Path, vectors: np.ndarray, command: list[str]) -> None:
    np.savez(folder / "q.npz", q=vectors[:3])
    (folder / "empty.npy").write_bytes(b"")
    (folder / "cut.npz").write_bytes(b"PK\x03\x04")
    for name in ("q.npz", "empty.npy", "cut.npz"):
        shown = run(command[0], folder / "i.tidx", command[1], folder / name, code=1)
        assert shown.startswith(f"SourceError: {folder / name}")
        assert shown.count("\n") == 1


@pytest.mark.parametrize("given", ['{"a": 1}', "[{}]", f"[{'9' * 400}]", "[" * 100_000, ""])
def test_input_that_is_no_vector_is_one_line(folder: Path, given: str) -> None:
    shown = run("search", folder / "i.tidx", "--vector", "-", code=1, stdin=given)
    assert shown.startswith("DimensionError: standard input holds no JSON array of numbers")
    assert shown.count("\n") == 1


def test_numbers_that_do_not_fit_are_one_line(folder: Path) -> None:
    shown = run("search", folder / "i.tidx", "--vector", "-", code=1, stdin=json.dumps([1e300] * DIM))
    assert shown == "VectorRangeError: a number does not fit float32 (row 0)\n"


def test_without_its_libraries_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError('No module named typer', name='typer')")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import tiered_index.__main__ as m; sys.exit(m.main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "tiered-index[cli]" in done.stderr


def test_version_is_the_package_s() -> None:
    assert run("--version").strip() == ti.__version__


def test_count_get_and_delete_rows(folder: Path) -> None:
    index = folder / "rows.tidx"
    run("ingest", folder / "v.parquet", index, "--quiet")
    where = json.dumps({"year": {"$in": [0, 1]}})
    wanted = [f"d{i}" for i in range(ROWS) if i % 9 < 2]
    assert run("count", index) == "1,000\n"
    assert json.loads(run("count", index, "--where", where, "--json")) == {"rows": len(wanted)}
    rows = json.loads(run("get", index, "--where", where, "--limit", 2, "--json"))
    assert rows == [{"id": "d0", "year": 0}, {"id": "d1", "year": 1}]
    assert json.loads(run("get", index, "d9", "d8", "d0", "--where", where, "--json")) == [
        {"id": "d9", "year": 0},
        {"id": "d0", "year": 0},
    ]
    shown = run("get", index, "d8")
    assert "d8" in shown
    assert "1 row" in shown
    assert json.loads(run("delete", index, "--where", where, "--json")) == {"deleted": len(wanted)}
    assert run("delete", index, "d2", "d0") == "1 row deleted\n"
    assert run("count", index) == f"{ROWS - len(wanted) - 1}\n"


def test_ids_of_an_index_of_numbers(folder: Path, vectors: np.ndarray) -> None:
    with ti.open(folder / "numbers.tidx", dim=DIM) as index:
        index.add([7, 8], vectors[:2])
    assert json.loads(run("get", folder / "numbers.tidx", 8, "--json")) == [{"id": 8}]
    assert "holds int64 ids, not 'eight'" in run("get", folder / "numbers.tidx", "8", "eight", code=1)
