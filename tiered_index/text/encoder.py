"""What an encoder is, which one is meant, and whether it returned what it was asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tiered_index.encoding import EncoderIdentity
from tiered_index.errors import EncoderError, ParameterError, TextError, TieredIndexError
from tiered_index.text.callables import CallableEncoder
from tiered_index.text.openai_encoder import OpenAIEncoder
from tiered_index.text.sentence_transformer import SentenceTransformerEncoder
from tiered_index.validate.conversion import is_text


@runtime_checkable
class Encoder(Protocol):
    """Makes vectors of texts. Any object that has these may be an index's encoder.

    Attributes
    ----------
    name : str
        What it is called in errors.
    dim : int
        Length of its vectors.
    """

    @property
    def name(self) -> str:
        """What it is called in errors."""

    @property
    def dim(self) -> int:
        """Length of its vectors."""

    def encode_documents(self, texts: Sequence[str]) -> Any:
        """Return an array of shape (len(texts), dim), of finite numbers."""

    def encode_queries(self, texts: Sequence[str]) -> Any:
        """Return the same for queries, for which many models have another prompt."""

    def identity(self) -> EncoderIdentity:
        """Return what is kept with the index, to tell this encoder from another."""


def as_encoder(given: Any) -> Encoder:
    """Return the encoder that is meant.

    Parameters
    ----------
    given : Encoder, str, path, SentenceTransformer or callable
        A string or path names a SentenceTransformer.

    Raises
    ------
    ParameterError
        It is none of them.
    """
    if isinstance(given, Encoder) and not isinstance(given, type):
        return given
    if isinstance(given, str | os.PathLike):
        return SentenceTransformerEncoder(given)
    if hasattr(given, "encode_query") and hasattr(given, "encode_document"):
        return SentenceTransformerEncoder(given)
    if callable(given) and not isinstance(given, type):
        return CallableEncoder(given)
    raise ParameterError(
        "encoder must be the name of a SentenceTransformer, a loaded one, a callable that takes a list of "
        f"texts, or an object with encode_documents, encode_queries and identity, not {given!r}"
    )


def encoder_again(kept: EncoderIdentity) -> Encoder:
    """Load the encoder that an index keeps.

    Raises
    ------
    ParameterError
        Its name is not enough for that; the message says what to pass.
    EncoderError
        The model cannot be loaded.
    MissingDependencyError
        What it needs is not installed.
    """
    if kept.by_name and kept.kind == SentenceTransformerEncoder.KIND:
        return SentenceTransformerEncoder(
            kept.name, truncate_dim=kept.dim, prompts=kept.prompts, normalize=kept.normalized
        )
    if kept.by_name and kept.kind == OpenAIEncoder.KIND:
        return OpenAIEncoder(kept.name, dimensions=kept.dim, prompts=kept.prompts)
    raise ParameterError(
        f"the index's vectors are from {kept}, which its name is not enough to load: pass encoder="
    )


def encode(
    encoder: Encoder, texts: Sequence[str], dim: int, *, queries: bool = False, first_row: int = 0
) -> NDArray[Any]:
    """Encode texts, and check what comes back.

    Parameters
    ----------
    encoder : Encoder
        Makes the vectors.
    texts : sequence of str
        At least one.
    dim : int
        How long the vectors must be.
    queries : bool
        Whether they are queries, not documents.
    first_row : int
        Added to the rows that errors name.

    Returns
    -------
    ndarray, shape (len(texts), dim)
        Numbers as they came.

    Raises
    ------
    EncoderError
        It raised, or returned something else than one finite vector a text.
    """
    what = encoder.encode_queries if queries else encoder.encode_documents
    try:
        return _encoded(what, encoder.name, texts, dim)
    except EncoderError as error:
        if not (first_row and error.rows):
            raise
        raise EncoderError(error.message, [first_row + row for row in error.rows]) from error


def _encoded(what: Callable[[Sequence[str]], Any], name: str, texts: Sequence[str], dim: int) -> NDArray[Any]:
    try:
        vectors = what(texts)
        rows = vectors if isinstance(vectors, np.ndarray) else _stacked(vectors, name, dim)
    except TieredIndexError:
        raise
    except Exception as error:  # an OSError of the network would pass for the disk's
        raise EncoderError(f"the encoder {name!r} failed: {type(error).__name__}: {error}") from error
    if rows.dtype.kind not in "fiu" or rows.ndim != 2 or len(rows) != len(texts):
        raise EncoderError(
            f"the encoder {name!r} must return numbers of shape ({len(texts)}, {dim}) for {len(texts)} "
            f"texts, not {rows.dtype} of shape {rows.shape}"
        )
    if rows.shape[1] != dim:
        raise EncoderError(f"the encoder {name!r} must return {dim} dimensions, not {rows.shape[1]}")
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise EncoderError(f"the encoder {name!r} returned NaN or infinity", np.flatnonzero(~finite).tolist())
    return rows


def text_array(texts: Any, first_row: int = 0) -> pa.Array:
    """Return texts as an Arrow array of large_string.

    Parameters
    ----------
    texts : sequence of str
        A list, or a column of Arrow, pandas or NumPy.
    first_row : int
        Added to the rows that errors name.

    Raises
    ------
    TextError
        It is one text, no sequence, or holds something that is no string, or none of valid Unicode; the
        rows are named.
    """
    if isinstance(texts, str | bytes):
        raise TextError(f"texts must be a sequence of strings, not one: {texts[:40]!r}")
    if isinstance(texts, set | frozenset):
        raise TextError(f"texts must be a sequence of strings, not a {type(texts).__name__}: it has no order")
    if isinstance(texts, pa.Array | pa.ChunkedArray) and not texts.null_count and is_text(texts.type):
        column = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
        return column.cast(pa.large_string())
    try:
        found = texts.to_pylist() if isinstance(texts, pa.Array | pa.ChunkedArray) else list(texts)
    except TypeError as error:
        raise TextError(f"texts must be a sequence of strings, not {type(texts).__name__}") from error
    wrong = [row for row, text in enumerate(found) if not isinstance(text, str)]
    if wrong:
        what = found[wrong[0]]
        said = "None" if what is None else f"{type(what).__name__} {what!r:.60}"
        raise TextError(f"texts must be strings, not {said}", [first_row + row for row in wrong])
    try:
        return pa.array(found, pa.large_string())
    except UnicodeEncodeError as error:
        row = next(row for row, text in enumerate(found) if not _is_unicode(text))
        raise TextError(f"texts must be valid Unicode: {error}", [first_row + row]) from error


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _stacked(vectors: Any, name: str, dim: int) -> NDArray[Any]:
    """Return rows as a matrix; name the one whose length differs, where NumPy would name none."""
    if isinstance(vectors, list | tuple):
        wrong = [row for row, vector in enumerate(vectors) if np.shape(vector) != (dim,)]
        if wrong:
            shape = np.shape(vectors[wrong[0]])
            raise EncoderError(
                f"the encoder {name!r} must return {dim} dimensions, not a vector of shape {shape}", wrong
            )
    return np.asarray(vectors)
