"""The systems that are asked with filters beside this index, and what they are asked.

One module each, whose ``Adapter`` is that of :mod:`benchmarks.peers` and is :class:`Filtered` besides. A
filter is a mapping in this package's language, of what all of them can be asked: conjunctions of equality,
``$nin``, ``$gte`` and ``$lt``. Adapters keep its meaning: ``$nin`` holds for nulls too.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import Setting, System, Vectors

Where = Mapping[str, Any]
FilteredSearcher = Callable[[Vectors, Any], Any]

PEERS = {
    "lancedb": System(
        "LanceDB IVF_HNSW_SQ, prefilter, scalar indexes", "LanceDB", "lance", {"index": "HnswSq"}
    ),
    "qdrant": System(
        "Qdrant Edge int8 + rescore, payload indexes",
        "Qdrant Edge",
        "qdrant",
        {"code": "int8", "acorn": False},
    ),
    "qdrant-acorn": System(
        "Qdrant Edge, the same with ACORN", "Qdrant Edge", "qdrant", {"code": "int8", "acorn": True}
    ),
    "zvec": System("Zvec HNSW, inverted indexes", "Zvec", "zvec_hnsw", {"code": "float32"}),
    "zvec-light": System(  # for a million rows, where the defaults (m=50, ef_construction=500) take hours
        "Zvec HNSW of 16 links, inverted indexes",
        "Zvec",
        "zvec_hnsw",
        {"code": "float32", "built_with": {"m": 16, "ef_construction": 200}},
    ),
}


class Condition(NamedTuple):
    """A column, one of ``$eq``, ``$nin``, ``$gte`` and ``$lt``, and a value or a list of them."""

    column: str
    operator: str
    value: Any


def conditions(where: Where) -> list[Condition]:
    """Return what must hold at once for a filter to hold."""
    found = []
    for key, asked in where.items():
        if key == "$and":
            found += [condition for part in asked for condition in conditions(part)]
        elif isinstance(asked, Mapping):
            found += [Condition(key, operator, value) for operator, value in asked.items()]
        else:
            found.append(Condition(key, "$eq", asked))
    return found


class Columns(NamedTuple):
    """The columns that filters name, one value a row.

    Attributes
    ----------
    category : ndarray of int32
        Places in `names`; -1 for null.
    names : ndarray of str
        The categories.
    month, tenant : ndarray of int32
        Years and months, and tenants from 0.
    share : ndarray of float64
        Each of (i + 0.5) / rows once, at random: less than s are a share s of the rows.
    """

    category: NDArray[np.int32]
    names: NDArray[np.str_]
    month: NDArray[np.int32]
    tenant: NDArray[np.int32]
    share: NDArray[np.float64]

    @classmethod
    def load(cls, path: Path) -> Columns:
        """Read what :meth:`save` wrote."""
        with np.load(path) as arrays:
            return cls(**{name: arrays[name] for name in cls._fields})

    def save(self, path: Path) -> None:
        """Write a .npz file, so that a peer's process needs NumPy alone."""
        np.savez(path, **self._asdict())

    def categories(self, first: int, last: int) -> list[str | None]:
        """Return the categories of some rows."""
        names = [*self.names.tolist(), None]  # -1 is the last
        return [names[code] for code in self.category[first:last].tolist()]

    def matches(self, where: Where, rows: Any = slice(None)) -> NDArray[np.bool_]:
        """Return which rows match, of all or of some, without the help of any system."""
        held = np.ones(len(self.share[rows]), bool)
        for column, operator, value in conditions(where):
            values = getattr(self, column)[rows]
            asked = self.asked(column, value)
            if operator == "$eq":
                held &= values == asked
            elif operator == "$nin":
                held &= ~np.isin(values, asked)
            elif operator == "$gte":
                held &= values >= asked
            else:
                held &= values < asked
        return held

    def asked(self, column: str, value: Any) -> NDArray[Any]:
        """Return a value or a list of them as the column holds it."""
        if column != "category":
            return np.asarray(value)
        codes = {name: code for code, name in enumerate(self.names.tolist())}
        return np.array([codes[name] for name in value] if isinstance(value, list) else codes[value])


class Filtered(ABC):
    """What an adapter of :mod:`benchmarks.peers` can besides."""

    INDEXES: ClassVar[Setting]
    """Of the columns, for the record."""

    @abstractmethod
    def build_rows(self, vectors: Vectors, columns: Columns) -> None:
        """Write the index of all rows and columns into the folder, with all cores."""

    @abstractmethod
    def translate(self, where: Where) -> Any:
        """Return a filter as its users write it."""

    @abstractmethod
    def filtered(self, k: int, **setting: Any) -> FilteredSearcher:
        """Return what answers one query among the rows that match a translated filter, or None for all."""


def make_filtered(name: str, folder: Path, dim: int, cores: int) -> Any:
    """Return the adapter of a peer: a Peer and Filtered; importing its library."""
    system = PEERS[name]
    module = importlib.import_module(f"{__name__}.{system.module}")
    return module.Adapter(folder, dim, cores, **system.options)
