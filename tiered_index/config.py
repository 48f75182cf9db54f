"""The settings an index is made with; those of its coarse tier can be changed by a rebuild."""

from __future__ import annotations

import math
import sys
from typing import Any, Literal, get_args

import msgspec
import numpy as np

from tiered_index.errors import ConfigMismatchError, ParameterError

Metric = Literal["cosine", "dot"]
Dtype = Literal["float32", "float16"]
IdKind = Literal["str", "int64"]
CodeKind = Literal["bf16", "sq8"]
Rotation = Literal["none", "pca"]

MIN_DIM = 2
MAX_DIM = 32_768
"""One Parquet page holds the vectors of a row group and must stay below 2 GiB."""

DEFAULT_PREFIX_DIM = 256
PREFIX_DIM_STEP = 8
"""Prefix dimensions are multiples of this, or the whole coarse width."""

MAX_ROTATED_DIM = 8_192
"""A rotation has so many rows and columns: 256 MiB on disk, and some eight times that while it is fitted."""

SKETCH_BITS = (0, 1, 2, 4)
"""Of each dimension after the prefix. On 250,000 sentences (256 of 1,024 dimensions, beams of 96 and 256)
recall@10 of .95 and .98 took 63 and 111 rows read in the order of prefixes, 23 and 29 with one bit, 15 and 16
with two, 11 and 12 with four. A row of the sketch takes 104, 200 or 392 bytes."""

MIN_GRAPH_DEGREE = 4
DEFAULT_GRAPH_DEGREE = 24
MAX_GRAPH_DEGREE = 128
"""M of HNSW: links a node on the upper levels, half of those on the lowest one."""

MIN_EF_CONSTRUCTION = 8
DEFAULT_EF_CONSTRUCTION = 100
MAX_EF_CONSTRUCTION = 2_000


COARSE_SETTINGS = ("prefix_dim", "graph_degree", "ef_construction", "rotation", "tail_sketch")
"""Settings of the coarse tier alone."""


class IndexConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an index is made with.

    Parameters
    ----------
    dim : int
        Length of the vectors and queries that are given to the index.
    store_dim : int
        How many leading dimensions the full tier keeps and ranks by; ``dim`` keeps all.
    prefix_dim : int
        Width of the coarse tier: the leading dimensions held in memory.
    metric : {"cosine", "dot"}
        Higher is better under both.
    dtype : {"float32", "float16"}
        The type of the stored full vectors.
    graph_degree : int
        M of the HNSW graph.
    ef_construction : int
        Beam width while the graph is built.
    rotation : {"none", "pca"}
        Whether vectors are rotated, to the directions that carry most, before prefixes are cut.
    tail_sketch : {0, 1, 2, 4}
        Bits of each dimension after the prefix that are held in memory to order candidates by; 0 for none.
    """

    dim: int
    store_dim: int
    prefix_dim: int
    metric: Metric = "cosine"
    dtype: Dtype = "float32"
    graph_degree: int = DEFAULT_GRAPH_DEGREE
    ef_construction: int = DEFAULT_EF_CONSTRUCTION
    rotation: Rotation = "none"
    tail_sketch: int = 0

    def check_same(self, **asked: Any) -> None:
        """Raise unless every setting that is asked for (not None) is this index's.

        Raises
        ------
        ConfigMismatchError
            Names each setting that differs, with both values.
        """
        wrong = [
            f"{name} is {getattr(self, name)!r}, not {value!r}"
            for name, value in asked.items()
            if value is not None and getattr(self, name) != value
        ]
        if wrong:
            rebuilt = any(asked.get(name) not in (None, getattr(self, name)) for name in COARSE_SETTINGS)
            hint = "; rebuild_coarse() changes those of the coarse tier" if rebuilt else ""
            raise ConfigMismatchError("the index exists with other settings: " + "; ".join(wrong) + hint)


def make_config(
    dim: int,
    *,
    store_dim: int | None = None,
    prefix_dim: int | None = None,
    metric: Metric | None = None,
    dtype: Dtype | None = None,
    graph_degree: int | None = None,
    ef_construction: int | None = None,
    tail_sketch: bool | int | None = None,
) -> IndexConfig:
    """Fill in the defaults and check every range.

    Raises
    ------
    ParameterError
        Names the setting and its value.
    """
    dim = in_range("dim", dim, MIN_DIM, MAX_DIM)
    store_dim = in_range("store_dim", dim if store_dim is None else store_dim, MIN_DIM, dim)
    if prefix_dim is None:
        prefix_dim = min(DEFAULT_PREFIX_DIM, store_dim)
    prefix_dim = check_prefix_dim(prefix_dim, store_dim)
    return IndexConfig(
        dim=dim,
        store_dim=store_dim,
        prefix_dim=prefix_dim,
        metric=one_of("metric", "cosine" if metric is None else metric, get_args(Metric)),
        dtype=one_of("dtype", "float32" if dtype is None else dtype, get_args(Dtype)),
        graph_degree=in_range(
            "graph_degree",
            DEFAULT_GRAPH_DEGREE if graph_degree is None else graph_degree,
            MIN_GRAPH_DEGREE,
            MAX_GRAPH_DEGREE,
        ),
        ef_construction=in_range(
            "ef_construction",
            DEFAULT_EF_CONSTRUCTION if ef_construction is None else ef_construction,
            MIN_EF_CONSTRUCTION,
            MAX_EF_CONSTRUCTION,
        ),
        tail_sketch=_check_sketch(0 if tail_sketch is None else tail_sketch, prefix_dim, store_dim),
    )


def _check_sketch(bits: Any, prefix_dim: int, width: int) -> int:
    if isinstance(bits, (bool, int, np.integer)) and int(bits) in SKETCH_BITS:
        if bits and prefix_dim == width:
            raise ParameterError(
                f"tail_sketch is of the dimensions after the prefix, and prefix_dim={prefix_dim} leaves "
                "none: choose a shorter prefix or tail_sketch=False"
            )
        return int(bits)
    raise ParameterError(f"tail_sketch must be True, False, 1, 2 or 4 bits, not {bits!r}")


def check_prefix_dim(prefix_dim: int, width: int) -> int:
    """Return `prefix_dim` if it is all of `width` or a smaller multiple of 8, or raise ParameterError."""
    prefix_dim = in_range("prefix_dim", prefix_dim, MIN_DIM, width)
    if prefix_dim != width and prefix_dim % PREFIX_DIM_STEP:
        raise ParameterError(
            f"prefix_dim must be {width} or a smaller multiple of {PREFIX_DIM_STEP}, not {prefix_dim}"
        )
    return prefix_dim


def in_range(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Return `value` as an int between `low` and `high`, both included, or raise ParameterError."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ParameterError(f"{name} must be a whole number, not {value!r}")
    number = int(value.__index__())
    if number < low or (high is not None and number > high):
        bounds = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ParameterError(f"{name} must be {bounds}, not {number}")
    return number


def one_of(name: str, value: Any, allowed: tuple[str, ...]) -> Any:
    """Return `value` if it is one of the `allowed` strings, or raise ParameterError."""
    if value not in allowed:
        raise ParameterError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}")
    return value


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """What a search may take, or must reach.

    Parameters
    ----------
    latency_ms : float, optional
        Wall time of the whole ``search`` call, in milliseconds, above 0.
    min_recall : float, optional
        Floor of the mean recall@k, above 0 and at most 1; 1 scores every vector.

    Raises
    ------
    ParameterError
        A number out of range.
    """

    latency_ms: float | None = None
    min_recall: float | None = None

    def __post_init__(self) -> None:
        if self.latency_ms is not None:
            _positive("latency_ms", self.latency_ms, math.inf)
        if self.min_recall is not None:
            _positive("min_recall", self.min_recall, 1.0)

    @property
    def asks(self) -> bool:
        """Whether anything is asked."""
        return self.latency_ms is not None or self.min_recall is not None


def _positive(name: str, value: Any, high: float) -> None:
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if isinstance(value, np.floating):
        value = float(value)  # the largest float64 is none of a narrower type
    if not number or not 0.0 < value <= min(high, sys.float_info.max):
        bounds = "above 0" if math.isinf(high) else f"above 0 and at most {high:g}"
        raise ParameterError(f"{name} must be a number {bounds}, not {value!r}")
