"""What the README prints is what a user gets."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


EXAMPLES = list(
    zip(
        re.findall(r"```python\n(.*?)```", README, re.S),
        re.findall(r"```text\n(.*?)```", README, re.S),
        strict=True,
    )
)


@pytest.mark.parametrize(("code", "expected"), EXAMPLES, ids=["first", "text", "watch", "filters"])
def test_the_python_examples_run_as_printed(code: str, expected: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    assert done.stdout == expected
    assert len([line for line in code.splitlines() if line.strip()]) <= 12


def test_the_commands_it_names_exist() -> None:
    from typer.main import get_command

    from tiered_index.cli import app

    commands = get_command(app).commands
    named = re.findall(r"tiered-index (\w+) (.*)", README)
    expected = {
        "calibrate",
        "count",
        "delete",
        "demo",
        "explain",
        "fitness",
        "get",
        "info",
        "ingest",
        "optimize",
        "rebuild",
        "search",
        "verify",
    }
    assert {name for name, _ in named} == expected
    for name, rest in named:
        options = {option for parameter in commands[name].params for option in parameter.opts}
        assert set(re.findall(r"--[\w-]+", rest)) <= options


def test_the_make_targets_it_names_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make (demo|test|lint|types)", README):
        assert re.search(rf"^{target}:", makefile, re.M)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists()
