"""The public names, what importing costs, and which module may import which."""

from __future__ import annotations

import ast
import gc
import subprocess
import sys
from pathlib import Path

import pytest

import tiered_index as ti

PACKAGE = Path(ti.__file__).parent

# From the top of the house to its ground: a module may import from its own layer and those after it.
LAYERS = [
    ["__main__", "cli"],
    ["cli_fitness", "cli_rebuild"],
    ["cli_rows", "cli_text", "cli_watch", "demo"],
    ["show"],
    ["integrations"],
    ["__init__"],
    ["text"],
    ["ingest"],
    ["fitness"],
    ["opening", "sampling", "progress"],
    ["sources"],
    ["index", "reader"],
    ["watch"],
    ["ask", "explain", "grouping", "rebuilding", "recalibrate"],
    ["calibration"],
    ["prepared"],
    ["calibrate_filters", "outcome", "planning"],
    ["decision"],
    ["search", "exact", "stats"],
    ["by_road", "rescoring"],
    ["results"],
    ["storage"],
    ["coarse", "full"],
    ["compiled", "filters", "machine", "validate", "planner", "testing"],
    ["sketch"],
    ["blas", "config", "encoding", "forkable", "lazily", "limits", "mapped", "resident", "rotation"],
    ["errors"],
]


def test_public_names_are_pinned() -> None:
    assert ti.__all__ == sorted(ti.__all__)
    assert ti.__all__ == [
        "Budget",
        "BudgetNotMetError",
        "Calibration",
        "CallableEncoder",
        "CommitUncertainError",
        "ConfigMismatchError",
        "CorruptIndexError",
        "DimensionError",
        "DuplicateIdError",
        "Encoder",
        "EncoderError",
        "EncoderIdentity",
        "EncoderMismatchError",
        "Explanation",
        "FilterError",
        "Fitness",
        "Generation",
        "GenerationNotFoundError",
        "IdError",
        "Index",
        "IndexClosedError",
        "IndexConfig",
        "IndexLockedError",
        "IndexNotFoundError",
        "IndexStats",
        "IngestReport",
        "InvalidInputError",
        "LayoutError",
        "MemoryLockWarning",
        "MergePolicy",
        "MetadataError",
        "MissingDependencyError",
        "NoMergePolicy",
        "NonFiniteVectorError",
        "NotAnIndexError",
        "OpenAIEncoder",
        "ParameterError",
        "Plan",
        "PrefixWarning",
        "ReadOnlyError",
        "RecallChange",
        "SearchResult",
        "SearchStats",
        "SentenceTransformerEncoder",
        "SizeTieredPolicy",
        "SourceError",
        "StorageError",
        "StorageFullError",
        "Tally",
        "TextConfig",
        "TextError",
        "TextIndex",
        "TieredIndexError",
        "VectorRangeError",
        "VerifyReport",
        "Watch",
        "WatchReport",
        "ZeroVectorError",
        "fitness",
        "ingest",
        "open",
    ]


def test_every_error_is_in_the_tree_and_public() -> None:
    from tiered_index import errors

    found = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and value.__module__ == errors.__name__
    }
    assert found <= set(ti.__all__)
    assert all(name in errors.__doc__ for name in found)
    assert all(issubclass(getattr(errors, name), ti.TieredIndexError | Warning) for name in found)


def test_importing_is_light() -> None:
    code = "import sys, tiered_index; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {
        "torch",
        "sentence_transformers",
        "pandas",
        "transformers",
        "typer",
        "rich",
        "matplotlib",
        "openai",
        "ir_measures",
    }
    assert heavy & set(loaded.stdout.split()) == set()


def imports(path: Path) -> set[str]:
    found = set()
    gc.disable()  # Python 3.11 may take a collection in the middle of parsing for an error
    tree = ast.parse(path.read_text())
    gc.enable()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def layer_of(parts: tuple[str, ...]) -> int:
    name = parts[0] if parts else "__init__"
    return next(i for i, names in enumerate(LAYERS) if name in names)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    own = layer_of(path.relative_to(PACKAGE).with_suffix("").parts)
    for module in imports(path):
        if module.split(".")[0] == "tiered_index":
            assert layer_of(tuple(module.split(".")[1:])) >= own, f"{path.name} imports {module}"
        if module.split(".")[0] == "faiss":
            assert path.relative_to(PACKAGE).as_posix() == "coarse/_faiss.py"


def test_no_module_is_long() -> None:
    assert {p.name: n for p in PACKAGE.rglob("*.py") if (n := len(p.read_text().splitlines())) > 400} == {}
