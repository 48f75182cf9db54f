"""Trains a small Matryoshka model on the documents' own titles and bodies, in about a minute."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tiered_index.errors import MissingDependencyError

DIM = 768
MATRYOSHKA_DIMS = (768, 512, 256, 192, 128, 64)
HELD_OUT_EVERY = 50
"""Every 50th document is left out of training; the titles of these are the demo's test queries."""

_VOCABULARY = 30_000
_BATCH = 1_024
_EPOCHS = 5
_LEARNING_RATE = 0.04
_SEED = 7
_INSTALL = "the demo trains a model and draws a plot: pip install 'tiered-index[demo]'"


def check_dependencies() -> None:
    """Raise MissingDependencyError unless all that the demo needs is installed."""
    _import_torch()
    if find_spec("matplotlib") is None:
        raise MissingDependencyError(_INSTALL)


def train(documents: pa.Table, folder: Path, report: Any) -> Any:
    """Train a static embedding model with a Matryoshka loss, save it to `folder` and return it.

    Parameters
    ----------
    documents : pyarrow.Table
        With the columns title and text; a title is the query that should find its text.
    folder : Path
        Where the model is saved.
    report : callable
        Called with lines to show.
    """
    sentence_transformers, torch = _import_torch()
    from sentence_transformers.sentence_transformer import losses
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

    torch.manual_seed(_SEED)
    titles, texts = documents["title"].to_pylist(), documents["text"].to_pylist()
    model = sentence_transformers.SentenceTransformer(
        modules=[StaticEmbedding(_tokenizer(titles + texts), embedding_dim=DIM), Normalize()], device="cpu"
    )
    loss = losses.MatryoshkaLoss(
        model, losses.MultipleNegativesRankingLoss(model), matryoshka_dims=list(MATRYOSHKA_DIMS)
    )
    kept = np.flatnonzero(np.arange(len(titles)) % HELD_OUT_EVERY)
    steps = _EPOCHS * (len(kept) // _BATCH or 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=steps)
    draw = np.random.default_rng(_SEED)
    model.train()
    step = 0
    for epoch in range(_EPOCHS):
        order = draw.permutation(kept)
        total = 0.0
        batches = [order[i : i + _BATCH] for i in range(0, max(len(order) - _BATCH, 1), _BATCH)]
        for batch in batches:
            features = [model.preprocess([column[i] for i in batch]) for column in (titles, texts)]
            optimizer.zero_grad(set_to_none=True)
            value = loss(features, torch.empty(0))
            value.backward()
            optimizer.step()
            if step < steps - 1:
                schedule.step()
            step += 1
            total += value.item()
        report(f"  epoch {epoch + 1} of {_EPOCHS}, loss {total / len(batches):.2f}")
    model.eval()
    model.save(str(folder))
    return model


def load(folder: Path) -> Any:
    """Load the model that :func:`train` saved."""
    sentence_transformers, _ = _import_torch()
    return sentence_transformers.SentenceTransformer(str(folder), device="cpu")


def encode(model: Any, texts: list[str]) -> Any:
    """Return unit-length embeddings, shape (len(texts), DIM), float32."""
    return model.encode(texts, batch_size=2_048, show_progress_bar=False, convert_to_numpy=True)


def _tokenizer(texts: list[str]) -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106 - no password
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=_VOCABULARY, min_frequency=3, special_tokens=["[UNK]"], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _import_torch() -> tuple[Any, Any]:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        import sentence_transformers
        import torch
    except ImportError as error:
        raise MissingDependencyError(_INSTALL) from error
    return sentence_transformers, torch
