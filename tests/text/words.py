"""A callable encoder whose vectors are known: those of texts that share words are near each other."""

from __future__ import annotations

import zlib

import numpy as np

DIM = 32


def encode(texts: list[str]) -> np.ndarray:
    """Add up a random vector for each word of a text; the empty text gets one too."""
    rows = [
        np.sum([np.random.default_rng(zlib.crc32(w.encode())).normal(size=DIM) for w in t.split() or [t]], 0)
        for t in texts
    ]
    return np.array(rows, np.float32).reshape(len(texts), DIM)
