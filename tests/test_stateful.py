"""Any sequence of operations against a plain dict, with crashes in between."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import tiered_index as ti
from tiered_index.testing import exact_top_k

DIM = 16
IDS = st.lists(st.integers(0, 12), max_size=6, unique=True)
SEEDS = st.integers(0, 10**6)


class IndexMachine(RuleBasedStateMachine):
    """An index beside the dict of id -> vector that it must equal."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.model: dict[int, np.ndarray] = {}

    @initialize(
        dtype=st.sampled_from(["float32", "float16"]),
        fanout=st.sampled_from([2, 3, 8]),
        sketch=st.sampled_from([0, 1, 2]),
    )
    def create(self, dtype: str, fanout: int, sketch: int) -> None:
        self.options = {"merge_policy": ti.SizeTieredPolicy(fanout=fanout)}
        self.dtype = dtype
        settings: dict[str, Any] = {"prefix_dim": 8, "dtype": dtype, "tail_sketch": sketch}
        self.index = ti.open(self.root / "i", dim=DIM, **settings, **self.options)
        self.reader = ti.open(self.root / "i", mode="r")
        self.seen: dict[int, np.ndarray] = {}

    def draw(self, seed: int, count: int) -> np.ndarray:
        return np.random.default_rng(seed).normal(size=(count, DIM)).astype(self.dtype).astype(np.float32)

    def put(self, model: dict[int, np.ndarray], ids: list[int], seed: int, replace: bool) -> None:
        vectors = self.draw(seed, len(ids))
        thirds = {"third": pa.array([i % 3 for i in ids], pa.int64())}
        known = [i for i in ids if i in model]
        if replace:
            self.index.upsert(ids, vectors, thirds)
        elif known:
            try:
                self.index.add(ids, vectors, thirds)
            except ti.DuplicateIdError:
                return
            raise AssertionError(f"{known} were added twice")
        else:
            self.index.add(ids, vectors, thirds)
        model.update(zip(ids, vectors, strict=True))

    def remove(self, model: dict[int, np.ndarray], ids: list[int], by_filter: bool) -> None:
        if by_filter:  # another set of rows, to be found by two columns
            third = len(ids) % 3
            where = {"third": third, "id": {"$lte": max(ids, default=0)}}
            ids = [i for i in range(max(ids, default=0) + 1) if i % 3 == third]
            deleted = self.index.delete(where=where)
        else:
            deleted = self.index.delete(ids)
        assert deleted == len([i for i in ids if i in model])
        for i in ids:
            model.pop(i, None)

    @rule(ids=IDS, seed=SEEDS, replace=st.booleans())
    def write(self, ids: list[int], seed: int, replace: bool) -> None:
        self.put(self.model, ids, seed, replace)

    @rule(ids=IDS, by_filter=st.booleans())
    def delete(self, ids: list[int], by_filter: bool) -> None:
        self.remove(self.model, ids, by_filter)

    @rule(
        steps=st.lists(
            st.tuples(IDS, SEEDS, st.sampled_from(["add", "upsert", "delete", "delete where"])), max_size=4
        ),
        fails=st.booleans(),
    )
    def batch(self, steps: list[tuple[list[int], int, str]], fails: bool) -> None:
        model = dict(self.model)
        try:
            with self.index.batch():
                for ids, seed, verb in steps:
                    if verb.startswith("delete"):
                        self.remove(model, ids, verb == "delete where")
                    else:
                        self.put(model, ids, seed, verb == "upsert")
                if fails:
                    raise InterruptedError
            self.model = model
        except InterruptedError:
            pass

    @rule()
    def optimize(self) -> None:
        self.index.optimize()
        assert self.index.stats().segments <= 1
        assert self.index.stats().deleted_rows == 0

    @rule(
        rotation=st.sampled_from(["keep", "none", "pca"]),
        prefix_dim=st.sampled_from([None, 8, 16]),
        degree=st.sampled_from([4, 8]),
        sketch=st.sampled_from([None, 0, 2]),
    )
    def rebuild(self, rotation: str, prefix_dim: int | None, degree: int, sketch: int | None) -> None:
        generation, before = self.index.stats().generation, self.index.config
        width = prefix_dim or before.prefix_dim
        bits = before.tail_sketch if sketch is None else sketch
        turned = before.rotation if rotation == "keep" else rotation
        try:
            self.index.rebuild_coarse(prefix_dim, rotation=rotation, graph_degree=degree, tail_sketch=sketch)
        except ti.ParameterError:  # too few rows to fit to, or no tail
            few = rotation == "pca" and len(self.model) < width
            assert few or (bits and (width == DIM or turned == "pca"))
            assert self.index.stats().generation == generation
            return
        config = self.index.config
        assert (config.prefix_dim, config.graph_degree, config.tail_sketch) == (width, degree, bits)
        assert rotation in ("keep", config.rotation)

    @rule()
    def rebuild_and_restore(self) -> None:
        """What was rebuilt comes and goes with its generation; the rows are those of the newest."""
        before = self.index.config
        generation = self.index.stats().generation
        self.index.rebuild_coarse(8 if before.prefix_dim == 16 else 16, tail_sketch=False)
        self.index.restore(generation)
        assert self.index.config == before

    @rule()
    def refresh(self) -> None:
        self.reader.refresh()
        self.seen = dict(self.model)

    @rule()
    def reopen(self) -> None:
        self.index.close()
        self.index = ti.open(self.index.path, **self.options)

    @rule()
    def crash(self) -> None:
        """Another machine continues from a copy of the folder, with what an interrupted write left in it."""
        copy = Path(tempfile.mkdtemp(dir=self.root)) / "i"
        shutil.copytree(self.index.path, copy)
        (copy / "segments" / "ffffffffffffffff").mkdir(exist_ok=True)
        (copy / "segments" / "ffffffffffffffff" / "rows.parquet").write_bytes(b"PAR1")
        self.index.close()
        self.reader.close()
        self.index = ti.open(copy, **self.options)
        self.reader = ti.open(copy, mode="r")
        self.seen = dict(self.model)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def get(self, data: st.DataObject) -> None:
        wanted = data.draw(st.lists(st.sampled_from(range(13)), max_size=8))
        table = self.index.get(wanted, include_vectors=True)
        assert table["id"].to_pylist() == [i for i in wanted if i in self.model]
        for i, vector in zip(table["id"].to_pylist(), table["vector"].to_pylist(), strict=True):
            np.testing.assert_array_equal(np.array(vector, np.float32), self.model[i])

    @rule()
    def verify(self) -> None:
        assert self.index.verify().problems == []

    @invariant()
    def answers_as_the_dict(self) -> None:
        if not hasattr(self, "index"):
            return
        for index, model in ((self.index, self.model), (self.reader, self.seen)):
            query = np.ones(DIM, np.float32)
            result = index.search(query, k=20)
            assert len(index) == len(model)
            assert set(result.ids.tolist()) == set(model)
            assert index.count({"third": 1}) == len([i for i in model if i % 3 == 1])
            assert result.plan.strategy == "scan" or not model
            if model:
                ids = list(model)
                _, scores = exact_top_k(np.stack([model[i] for i in ids]), query[None], 20)
                np.testing.assert_allclose(result.scores, scores[0], rtol=1e-4, atol=1e-6)

    def teardown(self) -> None:
        if hasattr(self, "index"):
            self.index.close()
            self.reader.close()
        shutil.rmtree(self.root)


TestIndexMachine = IndexMachine.TestCase
TestIndexMachine.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
