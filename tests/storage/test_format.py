"""An index that an earlier version wrote is read, changed and merged by this one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import tiered_index as ti
from tiered_index.testing import exact_top_k

from .make_format import DIM, ROWS, content


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_an_index_of_every_format_version_opens(version: int, tmp_path: Path) -> None:
    shutil.copytree(Path(__file__).parent / f"format-{version}", tmp_path / "index")
    ids, vectors, metadata = content(DIM if version > 3 else DIM // 2)
    dead = [1, ROWS]
    left = [i for i in range(len(ids)) if i not in dead]
    with ti.open(tmp_path / "index") as index:
        assert index.verify().ok
        named = None if index.text is None else (index.text.encoder.name, index.text.column)
        assert named == (None if version < 3 else ("rows", None))
        again = [ROWS + 8] if version >= 3 else []  # another coarse tier
        assert [g.rows for g in index.generations()] == [0, ROWS, ROWS + 10, ROWS + 8, *again]
        assert index.config.rotation == ("pca" if version == 3 else "none")
        assert index.config.tail_sketch == (version == 4)
        table = index.get(ids, include_vectors=True)
        assert table["id"].to_pylist() == [ids[i] for i in left]
        assert table["even"].to_pylist() == [metadata["even"][i] for i in left]
        np.testing.assert_array_equal(np.stack(table["vector"].to_numpy(zero_copy_only=False)), vectors[left])
        assert index.get(where={"even": True, "n": {"$lt": 10}})["n"].to_pylist() == [2, 4, 6, 8]
        truth, _ = exact_top_k(vectors[left], vectors[5:6], 3)
        found = index.search(vectors[5], k=3, ef=64, candidates=64)
        assert (found.plan.strategy, found.stats.parts_walked) == ("graph", 1)
        assert found.ids.tolist() == [ids[left[i]] for i in truth[0]]
        index.upsert(["id-1"], vectors[1:2], {"n": [1], "even": [False]})
        index.optimize()
        assert (len(index), index.stats().segments) == (ROWS + 9, 1)
        assert index.verify().ok
