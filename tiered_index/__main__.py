"""The console command ``tiered-index``; also ``python -m tiered_index``."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; say what to install where its libraries are missing."""
    try:
        from tiered_index.cli import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.stderr.write("tiered-index: the command line needs: pip install 'tiered-index[cli]'\n")
        return 1
    app()
    return 0


if __name__ == "__main__":
    sys.exit(main())
