"""The lookup file, against a plain dict."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiered_index import CorruptIndexError
from tiered_index.storage.lookup import Lookup, LookupBuilder
from tiered_index.validate.ids import ID_TYPES, id_keys

FEW_KEYS = st.sampled_from([0, 1, 2**63, 2**64 - 1])
STRINGS = st.dictionaries(st.text(max_size=4), FEW_KEYS, max_size=40)
"""Strings with made-up keys, so that many share one."""

INTEGERS = st.integers(-(2**63), 2**63 - 1)
CUTS = st.lists(st.integers(0, 40), max_size=6)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lookup") / "lookup.arrow"


def build(ids: pa.Array, keys: np.ndarray, cuts: list[int], norms: np.ndarray | None = None) -> LookupBuilder:
    """Append the ids in batches that end at `cuts`."""
    builder = LookupBuilder()
    ends = sorted({min(cut, len(ids)) for cut in cuts} | {0, len(ids)})
    for start, stop in pairwise(ends):
        part = None if norms is None else norms[start:stop]
        builder.append(ids.slice(start, stop - start), keys[start:stop], part)
    return builder


def write(builder: LookupBuilder, file: Path, id_type: pa.DataType) -> Lookup:
    file.unlink(missing_ok=True)  # an earlier lookup may have it mapped
    with pa.OSFile(str(file), "wb") as sink:
        sink.write(builder.serialize(id_type))
    return Lookup(str(file), builder.rows)


def check(file: Path, added: dict[Any, int], asked: dict[Any, int], cuts: list[int], kind: Any) -> None:
    """Find what was added and what was not, in the builder and in the file."""
    rows = {value: row for row, value in enumerate(added)}
    ids = pa.array(list(added), ID_TYPES[kind])
    builder = build(ids, np.array(list(added.values()), np.uint64), cuts)
    lookup = write(builder, file, ids.type)
    questions = {**asked, **added}
    question_ids = pa.array(list(questions), ids.type)
    question_keys = np.array(list(questions.values()), np.uint64)
    expected = [rows.get(value, -1) for value in questions]
    assert builder.find(question_ids, question_keys).tolist() == expected
    assert lookup.find(question_ids, question_keys).tolist() == expected
    backwards = np.arange(len(ids))[::-1]
    assert lookup.ids(backwards).to_pylist() == list(added)[::-1]


@given(added=STRINGS, asked=STRINGS, cuts=CUTS)
def test_strings_whose_keys_collide(
    file: Path, added: dict[str, int], asked: dict[str, int], cuts: list[int]
) -> None:
    check(file, added, asked, cuts, "str")


@given(added=st.sets(st.text(max_size=4)), asked=st.sets(st.text(max_size=4)), cuts=CUTS)
def test_strings_with_their_own_keys(file: Path, added: set[str], asked: set[str], cuts: list[int]) -> None:
    added_keys, asked_keys = (
        dict(zip(ids, id_keys(pa.array(list(ids), pa.large_string())).tolist(), strict=True))
        for ids in (added, asked)
    )
    check(file, added_keys, asked_keys, cuts, "str")


@given(added=st.sets(INTEGERS), asked=st.sets(INTEGERS | st.integers(-3, 3)), cuts=CUTS)
def test_integers(file: Path, added: set[int], asked: set[int], cuts: list[int]) -> None:
    check(file, {i: i % 2**64 for i in added}, {i: i % 2**64 for i in asked}, cuts, "int64")


@pytest.mark.parametrize("times", [1, 3])
def test_asking_for_the_same_id_again(file: Path, times: int) -> None:
    ids = pa.array(["a", "b", "c"], pa.large_string())
    lookup = write(build(ids, np.zeros(3, np.uint64), [2]), file, ids.type)
    asked = pa.array(["c", "x"] * times, pa.large_string())
    assert lookup.find(asked, np.zeros(2 * times, np.uint64)).tolist() == [2, -1] * times


@given(cuts=CUTS)
def test_inverse_norms_stay_with_their_rows(file: Path, cuts: list[int]) -> None:
    ids = pa.array(range(40, 0, -1), pa.int64())
    norms = np.linspace(0.5, 2, 40, dtype=np.float32)
    lookup = write(build(ids, id_keys(ids), cuts, norms), file, ids.type)
    assert lookup.inverse_norms is not None
    assert lookup.inverse_norms.tolist() == norms.tolist()


def test_without_norms_there_are_none(file: Path) -> None:
    ids = pa.array([7], pa.int64())
    assert write(build(ids, id_keys(ids), []), file, ids.type).inverse_norms is None


@pytest.mark.parametrize("id_type", ID_TYPES.values())
def test_without_rows_nothing_is_found(file: Path, id_type: pa.DataType) -> None:
    lookup = write(LookupBuilder(), file, id_type)
    asked = pa.array([1, 2]).cast(id_type)
    assert lookup.find(asked, id_keys(asked)).tolist() == [-1, -1]
    assert lookup.ids(np.empty(0, np.int64)).type == id_type


@pytest.mark.parametrize("rows", [1, 3])
def test_another_number_of_rows_than_were_written(file: Path, rows: int) -> None:
    ids = pa.array([7, 8], pa.int64())
    write(build(ids, id_keys(ids), []), file, ids.type)
    with pytest.raises(CorruptIndexError, match=f"2 ids, where {rows} were written"):
        Lookup(str(file), rows)


@pytest.mark.parametrize("damage", ["missing", "empty", "garbage", "half", "other columns"])
def test_a_file_that_is_no_lookup(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "lookup.arrow"
    ids = pa.array(range(1_000), pa.int64())
    write(build(ids, id_keys(ids), []), path, ids.type)
    whole = path.read_bytes()
    path.unlink()
    if damage == "other columns":
        with pa.ipc.new_file(str(path), pa.schema([pa.field("id", pa.int64())])) as writer:
            writer.write_batch(pa.record_batch({"id": ids}))
    elif damage != "missing":
        path.write_bytes(
            {"empty": b"", "garbage": b"\x00\xff" * 500, "half": whole[: len(whole) // 2]}[damage]
        )
    with pytest.raises(CorruptIndexError, match=r"lookup\.arrow"):
        Lookup(str(path), 1_000)
