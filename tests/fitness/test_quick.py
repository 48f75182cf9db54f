"""What an ingestion says of its prefix, of vectors of which the truth is known."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import tiered_index as ti
from tiered_index.cli import app
from tiered_index.fitness import quick
from tiered_index.fitness.quick import doubt
from tiered_index.testing import matryoshka_vectors

ROWS = 3_000
DIM = 128


@pytest.fixture(autouse=True)
def _small_collections_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "MIN_ROWS", ROWS)


def ingest(
    decay: float, folder: Path, rows: int = ROWS, prefix_dim: int = 32, **settings: bool
) -> ti.IngestReport:
    vectors = matryoshka_vectors(rows, DIM, decay=decay, seed=2)
    settings |= {"calibrate_seconds": 0}
    return ti.ingest(vectors, folder / "i.tidx", id_column=None, prefix_dim=prefix_dim, **settings)


def test_vectors_that_are_not_matryoshka_are_doubted(tmp_path: Path) -> None:
    with pytest.warns(ti.PrefixWarning, match="do not look Matryoshka") as warned:
        report = ingest(0.0, tmp_path)
    assert report.rows == ROWS
    assert report.doubt == str(warned[0].message)
    assert warned[0].filename == __file__
    assert str(tmp_path) in report.doubt
    with ti.open(tmp_path / "i.tidx", mode="r") as index:
        assert doubt(index) == report.doubt


def test_a_prefix_that_is_too_short_is_doubted(tmp_path: Path) -> None:
    with pytest.warns(ti.PrefixWarning, match=r"A prefix of 8 of 128 dimensions is short.*hold [1-7]\d%"):
        ingest(0.2, tmp_path, prefix_dim=8)


@pytest.mark.parametrize(
    ("decay", "rows", "prefix_dim", "settings"),
    [
        (0.4, ROWS, 32, {}),  # Matryoshka
        (0.0, ROWS, DIM - 8, {}),  # not, but its prefix holds enough
        (0.0, ROWS, DIM, {}),  # nothing is cut
        (0.0, ROWS - 1, 32, {}),  # too few to say
        (0.0, ROWS, 32, {"check_prefix": False}),
    ],
)
def test_nothing_is_said_without_cause(
    decay: float, rows: int, prefix_dim: int, settings: dict[str, bool], tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ingest(decay, tmp_path, rows, prefix_dim, **settings).doubt is None


def test_nothing_new_is_not_judged(tmp_path: Path) -> None:
    with pytest.warns(ti.PrefixWarning):
        ingest(0.0, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ingest(0.0, tmp_path, skip_existing=True).doubt is None


def test_the_command_line_says_it(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", matryoshka_vectors(ROWS, DIM, decay=0.0, seed=2))
    source = [str(tmp_path / "v.npy"), "--id-column", "", "--prefix-dim", "32", "--calibrate-seconds", "0"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shown = CliRunner().invoke(app, ["ingest", *source, str(tmp_path / "a.tidx")])
        assert shown.exit_code == 0
        assert "do not look Matryoshka" in shown.stderr
        assert "do not look Matryoshka" not in shown.stdout
        shown = CliRunner().invoke(app, ["ingest", *source, str(tmp_path / "b.tidx"), "--json"])
        assert "do not look Matryoshka" in json.loads(shown.stdout)["doubt"]
        shown = CliRunner().invoke(app, ["ingest", *source, str(tmp_path / "c.tidx"), "--no-check-prefix"])
        assert "Matryoshka" not in shown.stderr
