"""A function of your own as an encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tiered_index.config import MIN_DIM, in_range
from tiered_index.encoding import EncoderIdentity
from tiered_index.errors import EncoderError, ParameterError

_PROBE = "How long are the vectors?"


class CallableEncoder:
    """One function for documents and queries, or one for each.

    Parameters
    ----------
    documents : callable
        Takes a list of str and returns an array of shape (n, dim).
    queries : callable, optional
        The same for queries; `documents` by default.
    name : str, optional
        What is kept with the index; the function's name by default.
    dim : int, optional
        Length of the vectors. Without it the function is asked once, with a short text.

    Raises
    ------
    ParameterError
        Something is not callable, or `dim` is out of range.
    EncoderError
        The function fails, or returns no matrix.
    """

    KIND = "callable"

    def __init__(
        self,
        documents: Callable[[list[str]], Any],
        queries: Callable[[list[str]], Any] | None = None,
        *,
        name: str | None = None,
        dim: int | None = None,
    ) -> None:
        for what in (documents, queries):
            if what is not None and not callable(what):
                raise ParameterError(f"an encoder's function must be callable, not {what!r}")
        self._documents = documents
        self._queries = documents if queries is None else queries
        self.name = name or str(getattr(documents, "__qualname__", type(documents).__name__))
        self.dim = self._ask() if dim is None else in_range("dim", dim, MIN_DIM)

    def encode_documents(self, texts: Sequence[str]) -> Any:
        """Return what the function returns."""
        return self._documents(list(texts))

    def encode_queries(self, texts: Sequence[str]) -> Any:
        """Return what the function for queries returns."""
        return self._queries(list(texts))

    def identity(self) -> EncoderIdentity:
        """Return the function's name and dimension."""
        return EncoderIdentity(kind=self.KIND, name=self.name, dim=self.dim)

    def _ask(self) -> int:
        try:
            shape = np.shape(self._documents([_PROBE]))
        except Exception as error:
            raise EncoderError(
                f"the encoder {self.name!r} failed for {_PROBE!r}, which tells how many dimensions it has: "
                f"{type(error).__name__}: {error}; give dim= to leave that out"
            ) from error
        if len(shape) != 2 or shape[0] != 1:
            raise EncoderError(
                f"the encoder {self.name!r} must return an array of shape (1, dim) for one text, not {shape}"
            )
        return int(shape[1])
