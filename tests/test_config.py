"""Settings: their ranges, and what opening does with them and with the path."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiered_index as ti
from tiered_index.config import IndexConfig, check_prefix_dim, in_range, make_config, one_of

MADE_WITH = {
    "dim": 64,
    "store_dim": 48,
    "prefix_dim": 32,
    "metric": "dot",
    "dtype": "float16",
    "graph_degree": 16,
    "ef_construction": 50,
}

OUT_OF_RANGE = [
    ("dim", {"dim": 1}),
    ("dim", {"dim": 0}),
    ("dim", {"dim": -64}),
    ("dim", {"dim": 32_769}),
    ("dim", {"dim": True}),
    ("dim", {"dim": 64.0}),
    ("dim", {"dim": "64"}),
    ("store_dim", {"store_dim": 1}),
    ("store_dim", {"store_dim": 65}),
    ("store_dim", {"store_dim": 32.0}),
    ("prefix_dim", {"prefix_dim": 0}),
    ("prefix_dim", {"prefix_dim": 12}),
    ("prefix_dim", {"prefix_dim": 72}),
    ("prefix_dim", {"store_dim": 32, "prefix_dim": 40}),
    ("metric", {"metric": "euclidean"}),
    ("metric", {"metric": ""}),
    ("metric", {"metric": ["cosine"]}),
    ("dtype", {"dtype": "float64"}),
    ("dtype", {"dtype": ""}),
    ("graph_degree", {"graph_degree": 3}),
    ("graph_degree", {"graph_degree": 129}),
    ("graph_degree", {"graph_degree": False}),
    ("ef_construction", {"ef_construction": 7}),
    ("ef_construction", {"ef_construction": 2_001}),
]


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """The path of an index that exists, with no setting left at its default."""
    path = tmp_path / "made.tidx"
    ti.open(path, **MADE_WITH).close()
    return path


def test_defaults() -> None:
    assert make_config(1_536) == IndexConfig(
        dim=1_536,
        store_dim=1_536,
        prefix_dim=256,
        metric="cosine",
        dtype="float32",
        graph_degree=24,
        ef_construction=100,
    )


@pytest.mark.parametrize(
    ("settings", "prefix_dim"),
    [({"dim": 100}, 100), ({"dim": 300}, 256), ({"dim": 300, "store_dim": 200}, 200)],
)
def test_the_default_prefix_is_no_wider_than_what_is_stored(
    settings: dict[str, int], prefix_dim: int
) -> None:
    assert make_config(**settings).prefix_dim == prefix_dim


@pytest.mark.parametrize(("name", "settings"), OUT_OF_RANGE)
def test_a_setting_out_of_range_is_named(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ti.ParameterError, match=f"^{name} must be"):
        make_config(**{"dim": 64, **settings})


@pytest.mark.parametrize(
    "settings",
    [
        {"dim": 2},
        {"dim": 32_768},
        {"dim": np.int64(64)},
        {"store_dim": 2},
        {"store_dim": 64},
        {"prefix_dim": 8},
        {"prefix_dim": 64},
        {"dim": 10, "prefix_dim": 10},
        {"store_dim": 30, "prefix_dim": 30},
        {"graph_degree": 4},
        {"graph_degree": 128},
        {"ef_construction": 8},
        {"ef_construction": 2_000},
    ],
)
def test_the_ends_of_every_range_are_allowed(settings: dict[str, Any]) -> None:
    config = make_config(**{"dim": 64, **settings})
    assert {name: getattr(config, name) for name in settings} == settings
    assert all(type(getattr(config, name)) is int for name in settings)


def test_check_prefix_dim_allows_multiples_of_eight_and_all() -> None:
    def allowed(prefix_dim: int) -> bool:
        try:
            return check_prefix_dim(prefix_dim, 30) == prefix_dim
        except ti.ParameterError:
            return False

    assert [d for d in range(-8, 40) if allowed(d)] == [8, 16, 24, 30]


def test_in_range_without_an_upper_end() -> None:
    assert in_range("rows", 10**12, 1) == 10**12
    with pytest.raises(ti.ParameterError, match=r"^rows must be at least 1, not 0$"):
        in_range("rows", 0, 1)


def test_one_of_names_what_is_allowed() -> None:
    assert one_of("mode", "r", ("rw", "r")) == "r"
    with pytest.raises(ti.ParameterError, match=r"^mode must be one of 'rw', 'r', not 'w'$"):
        one_of("mode", "w", ("rw", "r"))


def test_check_same_ignores_what_is_not_asked_for() -> None:
    config = make_config(**MADE_WITH)
    config.check_same()
    config.check_same(**dict.fromkeys(MADE_WITH))
    config.check_same(**MADE_WITH)


def test_check_same_names_every_difference_with_both_values() -> None:
    with pytest.raises(ti.ConfigMismatchError) as caught:
        make_config(**MADE_WITH).check_same(dim=64, prefix_dim=16, metric="cosine")
    message = str(caught.value)
    assert "prefix_dim is 32, not 16" in message
    assert "metric is 'dot', not 'cosine'" in message
    assert " dim is" not in message


@pytest.mark.parametrize(("name", "settings"), OUT_OF_RANGE)
def test_open_with_a_setting_out_of_range_makes_nothing(
    tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    with pytest.raises(ti.ParameterError, match=f"^{name} must be"):
        ti.open(tmp_path / "new.tidx", **{"dim": 64, **settings})
    assert not (tmp_path / "new.tidx").exists()


@pytest.mark.parametrize("settings", [{}, {"dim": 64}, MADE_WITH])
def test_open_again_keeps_the_settings(made: Path, settings: dict[str, Any]) -> None:
    with ti.open(made, **settings) as index:
        assert index.config == make_config(**MADE_WITH)


@pytest.mark.parametrize(
    "other",
    [
        {"dim": 65},
        {"store_dim": 64},
        {"prefix_dim": 16},
        {"metric": "cosine"},
        {"dtype": "float32"},
        {"graph_degree": 24},
        {"ef_construction": 100},
    ],
)
@pytest.mark.parametrize("mode", ["rw", "r"])
def test_open_with_other_settings(made: Path, other: dict[str, Any], mode: ti.index.Mode) -> None:
    (name,) = other
    with pytest.raises(ti.ConfigMismatchError, match=f"{name} is {MADE_WITH[name]!r}, not {other[name]!r}"):
        ti.open(made, **other, mode=mode)
    with ti.open(made) as index:
        assert index.config == make_config(**MADE_WITH)


def test_open_a_path_that_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"something")
    with pytest.raises(ti.NotAnIndexError, match="is a file"):
        ti.open(path, 64)
    assert path.read_bytes() == b"something"


def test_open_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ti.TieredIndexError):
        ti.open(tmp_path / "file" / "new.tidx", 64)


@pytest.mark.parametrize("dim", [64, None])
def test_open_a_folder_of_something_else(tmp_path: Path, dim: int | None) -> None:
    (tmp_path / "letter.txt").touch()
    with pytest.raises(ti.NotAnIndexError, match=r"letter\.txt"):
        ti.open(tmp_path, dim)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("below", ["", "missing/new.tidx"])
def test_open_makes_an_index_in_an_empty_folder_and_below_missing_ones(tmp_path: Path, below: str) -> None:
    with ti.open(str(tmp_path / below), 64) as index:
        assert (index.count(), index.stats().generation, index.path) == (0, 1, tmp_path / below)


@pytest.mark.parametrize("settings", [{}, {"mode": "r"}, {"dim": 64, "mode": "r"}])
def test_open_where_there_is_no_index(tmp_path: Path, settings: dict[str, Any]) -> None:
    path = tmp_path / "missing.tidx"
    with pytest.raises(ti.IndexNotFoundError, match="there is no index here"):
        ti.open(path, **settings)
    assert not path.exists()


def test_open_with_an_unknown_mode(made: Path) -> None:
    with pytest.raises(ti.ParameterError, match=r"^mode must be one of"):
        ti.open(made, mode="w")  # type: ignore[arg-type]


def test_mode_r_searches_but_does_not_write(filled: ti.Index, vectors: np.ndarray, tmp_path: Path) -> None:
    generation = filled.stats().generation
    filled.close()
    before = sorted(tmp_path.rglob("*"))
    with ti.open(filled.path, mode="r") as index:
        assert index.search(vectors[3], k=1).ids.tolist() == [3]
        writes: list[Callable[[], object]] = [
            lambda: index.add([5_000], vectors[:1], {"title": ["new"], "year": [1]}),
            lambda: index.add([], vectors[:0]),
            lambda: ti.ingest(vectors, index),
        ]
        for write in writes:
            with pytest.raises(ti.ReadOnlyError, match="mode='r'"):
                write()
        assert (index.count(), index.stats().generation) == (len(vectors), generation)
    assert sorted(tmp_path.rglob("*")) == before


def test_narrow_numbers_are_budgets_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ti.Budget(latency_ms=np.float32(5)).latency_ms == 5
        assert ti.Budget(min_recall=np.float16(0.5)).min_recall == 0.5
