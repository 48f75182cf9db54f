"""sentence-transformers models as encoders; the package, and torch with it, is imported when one is made."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiered_index.config import MIN_DIM, in_range
from tiered_index.encoding import EncoderIdentity
from tiered_index.errors import EncoderError, MissingDependencyError, ParameterError

DEFAULT_BATCH_SIZE = 32
ROLES = {"query": ("query",), "document": ("document", "passage", "corpus")}
"""Names of prompts that sentence-transformers looks for, in this order."""


class SentenceTransformerEncoder:
    """A sentence-transformers model, with its prompts for queries and documents.

    Parameters
    ----------
    model : str, path or SentenceTransformer
        A name on the Hugging Face hub, a folder, or a loaded model.
    truncate_dim : int, optional
        Keep so many leading dimensions; by default those of the model.
    normalize : bool, optional
        Scale vectors to unit length, after they are truncated. By default yes, but for models that compare
        by inner product.
    batch_size : int, default 32
        Texts that go through the model at a time.
    device : str, optional
        As sentence-transformers takes it.
    prompts : mapping of str to str, optional
        What to put before a "query" and a "document" instead of the model's own prompts.
    name : str, optional
        The name that is kept with the index, and from which the model can be loaded again: for a loaded
        model, or one that moved.

    Raises
    ------
    MissingDependencyError
        sentence-transformers is not installed.
    EncoderError
        The model cannot be loaded.
    ParameterError
        A number out of range, or a prompt for something else.
    """

    KIND = "sentence-transformers"

    def __init__(
        self,
        model: Any,
        *,
        truncate_dim: int | None = None,
        normalize: bool | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        device: str | None = None,
        prompts: Mapping[str, str] | None = None,
        name: str | None = None,
    ) -> None:
        self._batch_size = in_range("batch_size", batch_size, 1)
        unknown = sorted(set(prompts or ()) - set(ROLES))
        if unknown:
            raise ParameterError(f"prompts are for {', '.join(map(repr, ROLES))}, not {unknown[0]!r}")
        named = isinstance(model, str | os.PathLike)
        self._model = _load(os.fspath(model), device) if named else model
        self._by_name = named or name is not None
        self.name = name or (_lasting(os.fspath(model)) if named else _name_of(model))
        self._prompts = {role: _prompt(self._model, role) for role in ROLES} if prompts is None else prompts
        whole = self._model.get_embedding_dimension()
        if whole is None:
            whole = len(self._model.encode(["How long are the vectors?"], show_progress_bar=False)[0])
        self.dim = whole if truncate_dim is None else in_range("truncate_dim", truncate_dim, MIN_DIM, whole)
        self._normalize = self._model.similarity_fn_name != "dot" if normalize is None else normalize

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of documents, shape (n, dim)."""
        return self._encode(self._model.encode_document, texts, "document")

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of queries, shape (n, dim)."""
        return self._encode(self._model.encode_query, texts, "query")

    def identity(self) -> EncoderIdentity:
        """Return the model's name, its dimension and its prompts."""
        return EncoderIdentity(
            kind=self.KIND,
            name=self.name,
            dim=self.dim,
            prompts={role: prompt for role, prompt in self._prompts.items() if prompt},
            normalized=self._normalize,
            by_name=self._by_name,
        )

    def _encode(self, method: Any, texts: Sequence[str], role: str) -> NDArray[np.float32]:
        given = method(
            list(texts),
            prompt=self._prompts.get(role) or "",
            batch_size=self._batch_size,
            truncate_dim=self.dim,
            show_progress_bar=False,
        )
        vectors = np.array(given, np.float32)
        if not self._normalize:
            return vectors
        # here and not by the model: in half precision the length of a short vector may be 0
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        np.divide(vectors, norms, out=vectors, where=norms > 0)
        return vectors


def _load(model: str, device: str | None) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ModuleNotFoundError as error:
        if error.name not in ("sentence_transformers", "torch"):
            raise
        raise MissingDependencyError(
            f"the encoder {model!r} needs sentence-transformers: pip install 'tiered-index[text]'"
        ) from error
    try:
        return SentenceTransformer(model, device=device)
    except Exception as error:  # of the hub, the network, the file format: of no common kind
        said = " ".join(str(error).split())
        raise EncoderError(f"the model {model!r} cannot be loaded: {type(error).__name__}: {said}") from error


def _lasting(model: str) -> str:
    """Return a name that is good in other working folders too."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def _name_of(model: Any) -> str:
    card = getattr(model, "model_card_data", None)
    known = getattr(card, "model_id", None) or getattr(card, "base_model", None)
    return str(known or type(model).__name__)


def _prompt(model: Any, role: str) -> str:
    found = next((name for name in ROLES[role] if name in model.prompts), model.default_prompt_name)
    return "" if found is None else model.prompts.get(found) or ""
