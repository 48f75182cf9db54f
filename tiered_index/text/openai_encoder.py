"""Services that speak OpenAI's embeddings API, through the `openai` package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiered_index.config import MIN_DIM, in_range
from tiered_index.encoding import EncoderIdentity
from tiered_index.errors import EncoderError, MissingDependencyError, ParameterError
from tiered_index.text.sentence_transformer import ROLES

MAX_BATCH_SIZE = 2_048
DEFAULT_BATCH_SIZE = 512
"""Texts a request; the API takes 2,048."""

MAX_REQUEST_BYTES = 300_000
"""UTF-8 bytes a request; the API takes 300,000 tokens, and a token is a byte at least. See
https://platform.openai.com/docs/api-reference/embeddings/create"""

DEFAULT_MAX_RETRIES = 6
"""The client waits as long as Retry-After says, else twice as long each time, up to 8 seconds."""


_OPENAI_HOST = "api.openai.com"


class OpenAIEncoder:
    """OpenAI, or any service that speaks its embeddings API.

    Parameters
    ----------
    model : str
        Name of the model, e.g. "text-embedding-3-large".
    dimensions : int, optional
        Length of the vectors, which the service shortens; by default the model's own, and the service is
        asked once for a short text.
    client : openai.OpenAI, optional
        Yours, with its own settings; by default one that reads ``OPENAI_API_KEY``.
    base_url, api_key : str, optional
        Of the client that is made if none is given.
    max_retries : int, default 6
        Of that client: how often it asks again after 408, 409, 429, a 5xx or a lost connection.
    timeout : float, optional
        Of that client: seconds a request may take.
    batch_size : int, default 512
        Texts a request, up to 2,048; fewer where they are long.
    prompts : mapping of str to str, optional
        What to put before a "query" and a "document", for models that want it.

    Raises
    ------
    MissingDependencyError
        openai is not installed.
    EncoderError
        The service fails, or answers something else than was asked.
    ParameterError
        A number out of range, or a prompt for something else.
    """

    KIND = "openai"

    def __init__(
        self,
        model: str,
        *,
        dimensions: int | None = None,
        client: Any = None,
        base_url: str | None = None,
        api_key: str | None = None,
        max_retries: int = DEFAULT_MAX_RETRIES,
        timeout: float | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        prompts: Mapping[str, str] | None = None,
    ) -> None:
        self._batch_size = in_range("batch_size", batch_size, 1, MAX_BATCH_SIZE)
        unknown = sorted(set(prompts or ()) - set(ROLES))
        if unknown:
            raise ParameterError(f"prompts are for {', '.join(map(repr, ROLES))}, not {unknown[0]!r}")
        self._prompts = dict(prompts or {})
        self.name = model
        self._client = client or _client(base_url, api_key, in_range("max_retries", max_retries, 0), timeout)
        # what went to another service before must not go to OpenAI because only the name was kept
        self._by_name = client is None and self._client.base_url.host == _OPENAI_HOST
        self._dimensions = None if dimensions is None else in_range("dimensions", dimensions, MIN_DIM)
        self.dim = self._dimensions or len(self._ask(["How long are the vectors?"], 0)[0])

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of documents, shape (n, dim)."""
        return self._encode(texts, self._prompts.get("document", ""))

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of queries, shape (n, dim)."""
        return self._encode(texts, self._prompts.get("query", ""))

    def identity(self) -> EncoderIdentity:
        """Return the model's name, its dimension and the prompts."""
        prompts = {role: prompt for role, prompt in self._prompts.items() if prompt}
        return EncoderIdentity(
            kind=self.KIND, name=self.name, dim=self.dim, prompts=prompts, by_name=self._by_name
        )

    def _encode(self, texts: Sequence[str], prompt: str) -> NDArray[np.float32]:
        empty = [row for row, text in enumerate(texts) if not text]
        if empty:
            raise EncoderError(f"the service takes no empty text for {self.name!r}", empty)
        vectors = np.empty((len(texts), self.dim), np.float32)
        for start, part in _requests([prompt + text for text in texts], self._batch_size):
            for row, vector in enumerate(self._ask(part, start), start):
                if len(vector) != self.dim:
                    hint = ""
                    if self._dimensions is not None:
                        hint = "; it may not know the parameter `dimensions`"
                    raise EncoderError(
                        f"the service answered {len(vector)} dimensions for {self.name!r}, not "
                        f"{self.dim}{hint}",
                        [row],
                    )
                vectors[row] = vector
        return vectors

    def _ask(self, texts: list[str], first_row: int) -> list[NDArray[np.float32]]:
        """Return a vector a text, in their order; the API may answer in another."""
        asked: dict[str, Any] = {} if self._dimensions is None else {"dimensions": self._dimensions}
        rows = range(first_row, first_row + len(texts))
        try:
            answer = self._client.embeddings.create(model=self.name, input=texts, **asked)
            answered = [item.index for item in answer.data]
            vectors = [np.array(list(item.embedding), np.float32) for item in answer.data]
        except Exception as error:  # openai's own, and ValueError or TypeError for what it cannot read
            raise EncoderError(
                f"the service failed for {self.name!r}: {type(error).__name__}: {error}", rows
            ) from error
        if sorted(answered) != list(range(len(texts))):
            raise EncoderError(
                f"the service answered {len(texts)} texts with {len(answered)} vectors, of the numbers "
                f"{answered[:8]}",
                rows,
            )
        return [vectors[place] for place in np.argsort(answered)]


def _requests(texts: list[str], batch_size: int) -> Iterator[tuple[int, list[str]]]:
    """Yield where each request begins and its texts; a text that is too long goes alone."""
    start = size = 0
    for row, text in enumerate(texts):
        length = len(text.encode())
        if row > start and (row - start == batch_size or size + length > MAX_REQUEST_BYTES):
            yield start, texts[start:row]
            start, size = row, 0
        size += length
    yield start, texts[start:]


def _client(base_url: str | None, api_key: str | None, max_retries: int, timeout: float | None) -> Any:
    try:
        import openai
    except ModuleNotFoundError as error:
        if error.name != "openai":
            raise
        raise MissingDependencyError(
            "OpenAIEncoder needs the openai package: pip install 'tiered-index[openai]'"
        ) from error
    try:
        return openai.OpenAI(
            base_url=base_url,
            api_key=api_key,
            max_retries=max_retries,
            timeout=openai.NOT_GIVEN if timeout is None else timeout,
        )
    except openai.OpenAIError as error:  # no key
        raise EncoderError(f"the service's client cannot be made: {error}") from error
