"""Small Matryoshka-like data, and an index of it, for all tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

import tiered_index as ti
from tiered_index.testing import matryoshka_vectors

DIM = 64
ROWS = 1_000

# The same examples every time, so that a commit passes or fails for everyone;
# HYPOTHESIS_PROFILE=explore seeks new ones.
settings.register_profile("default", deadline=None, max_examples=50, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=50)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session")
def vectors() -> np.ndarray:
    return matryoshka_vectors(ROWS, DIM, seed=1)


@pytest.fixture(scope="session")
def queries() -> np.ndarray:
    return matryoshka_vectors(50, DIM, seed=1, stream=1)


@pytest.fixture
def make_index(tmp_path: Path) -> Iterator[Callable[..., ti.Index]]:
    """Make indexes that are closed when the test ends."""
    opened: list[ti.Index] = []

    def make(name: str = "test.tidx", **settings: object) -> ti.Index:
        index = ti.open(tmp_path / name, **{"dim": DIM, "prefix_dim": 32, **settings})
        opened.append(index)
        return index

    yield make
    for index in opened:
        index.close()


@pytest.fixture
def filled(make_index: Callable[..., ti.Index], vectors: np.ndarray) -> ti.Index:
    """An index of all vectors, with their row numbers as ids and a metadata column or two."""
    index = make_index()
    index.add(
        np.arange(ROWS),
        vectors,
        metadata={"title": [f"row {i}" for i in range(ROWS)], "year": [2000 + i % 20 for i in range(ROWS)]},
    )
    return index
