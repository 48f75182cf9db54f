"""What the command line does with texts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

import tiered_index as ti
from tiered_index.text.index import DEFAULT_TEXT_COLUMN

TextColumn = Annotated[
    str | None, typer.Option(help="Column of texts, which are encoded; 'text' with --encoder.")
]
EncoderName = Annotated[
    str | None, typer.Option(help="A SentenceTransformer's name or folder; by default the index's own.")
]


def ingest_texts(
    source: str,
    index: Path,
    encoder: str | None,
    text_column: str | None,
    vector_column: str | None,
    settings: Mapping[str, Any],
    how: Mapping[str, Any],
) -> ti.IngestReport:
    """Encode and add the texts of a source; `settings` are those of the index, `how` of the ingestion."""
    if vector_column is not None:
        raise ti.ParameterError("give either --vector-column or --text-column, not both")
    with ti.TextIndex.open(index, encoder, **settings) as opened:
        return opened.ingest(source, text_column=text_column or DEFAULT_TEXT_COLUMN, **how)
