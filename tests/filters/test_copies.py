"""What a copy of a filter means when the caller changes the filter."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tiered_index.filters.copies import copied
from tiered_index.filters.parse import parse

SCHEMA = pa.schema({"n": pa.int64(), "raw": pa.binary()})


def test_a_copy_means_what_the_filter_meant() -> None:
    values, held, raw = np.array([1, 2]), {3: "c"}, bytearray(b"ab")
    inner: dict[str, Any] = {"n": {"$not": {"$in": values}}}
    where = MappingProxyType(
        {
            "$and": [inner, {"$not": pc.field("n") > 5}, {"n": {"$nin": held.keys()}}],
            "$or": ({"n": {"$in": pa.array([1])}}, {"n": {"$in": memoryview(b"\x01")}}, {"n": None}),
            "raw": {"$in": [raw, memoryview(raw)]},
        }
    )
    before = parse(where, SCHEMA)
    copy = copied(where)
    assert parse(copy, SCHEMA) == before
    values[0] = 7
    held[4] = "d"
    inner.clear()
    raw[0] = 0
    assert parse(where, SCHEMA) != before
    assert parse(copy, SCHEMA) == before


def test_an_expression_that_cannot_be_copied_stays_itself() -> None:
    expression = pc.is_in(pc.field("n"), value_set=pa.chunked_array([[1], [2]]))
    assert copied({"$and": [{"$not": expression}]})["$and"][0]["$not"] is expression
