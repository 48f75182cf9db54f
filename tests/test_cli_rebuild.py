"""The command that changes a coarse tier, and ingestion with a rotation, as persons and scripts use them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import tiered_index as ti
from tiered_index.cli import app

from .conftest import DIM, ROWS


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.stderr if code else result.stdout


@pytest.fixture
def path(vectors: np.ndarray, tmp_path: Path) -> Path:
    np.save(tmp_path / "v.npy", vectors)
    run("ingest", tmp_path / "v.npy", tmp_path / "i.tidx", "--id-column", "", "--prefix-dim", 16, "-q")
    return tmp_path / "i.tidx"


def test_rebuild_changes_what_is_given(path: Path) -> None:
    stats = json.loads(run("rebuild", path, "--prefix-dim", 32, "--json"))
    assert (stats["config"]["prefix_dim"], stats["config"]["rotation"]) == (32, "none")
    assert stats["coarse_codes_bytes"] == ROWS * 32 * 2
    shown = run("rebuild", path, "--rotation", "pca")
    assert f"{ROWS:,} rows, 32 of {DIM} dimensions in memory, rotated" in shown
    assert "32-dim rotated prefixes" in run("info", path)
    stats = json.loads(run("rebuild", path, "--rotation", "none", "--graph-degree", 8, "--json"))
    config = ti.IndexConfig(dim=DIM, store_dim=DIM, prefix_dim=32, graph_degree=8)
    with ti.open(path, mode="r") as index:
        assert (index.config, index.stats().generation) == (config, stats["generation"])
    assert "no damage" in run("verify", path)


def test_rebuild_says_what_is_wrong(path: Path) -> None:
    assert "ParameterError: rebuild_coarse takes at least one of prefix_dim" in run("rebuild", path, code=1)
    assert "not 12" in run("rebuild", path, "--prefix-dim", 12, code=1)
    assert "IndexNotFoundError" in run("rebuild", path.with_name("none"), "--prefix-dim", 8, code=1)


def test_ingest_with_a_rotation(path: Path) -> None:
    folder = path.parent
    run("ingest", folder / "v.npy", folder / "r.tidx", "--id-column", "", "--rotation", "pca", "-q")
    assert json.loads(run("info", folder / "r.tidx", "--json"))["config"]["rotation"] == "pca"
    again = ("ingest", folder / "v.npy", path, "--id-column", "", "--skip-existing")
    assert "rotation is 'none', not 'pca'" in run(*again, "--rotation", "pca", code=1)
