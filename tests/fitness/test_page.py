"""The page says what the figures say, in one file, and its plots are well formed."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from html import unescape
from pathlib import Path

import numpy as np
import pytest

import tiered_index as ti
from tiered_index.fitness import Fitness
from tiered_index.testing import exact_top_k, matryoshka_vectors


@pytest.fixture(scope="module")
def found() -> Fitness:
    docs, queries = (matryoshka_vectors(n, 64, decay=0.3, stream=s) for n, s in ((800, 0), (60, 1)))
    truth, _ = exact_top_k(docs, queries, 2)
    qrels = {str(q): {str(d): 1 for d in rows} for q, rows in enumerate(truth.tolist())}
    return ti.fitness(docs, queries, qrels, price_gb_month=5)


def test_it_needs_nothing_else_and_says_the_verdict(found: Fitness, tmp_path: Path) -> None:
    found.save(tmp_path / "f.html")
    page = (tmp_path / "f.html").read_text()
    assert page == found.html()  # the same figures make the same page
    assert not re.search(r"<(script|link|img|iframe)|@import|url\((?!#)", page)
    text = unescape(re.sub(r"<[^>]+>", " ", re.sub(r"<style.*?</style>|<svg.*?</svg>", "", page, flags=re.S)))
    text = re.sub(r"\s+", " ", text)
    for sentence in (*found.verdict, *found.cautions):
        assert sentence in text
    for prefix in found.prefixes:
        assert f" {prefix.alone.recall.value:.3f} " in text
        assert f" {prefix.alone.rotated_recall.value:.3f} " in text
        assert f" {prefix.after(50).mrr.value:.3f} " in text


def test_plots_are_in_the_colours_of_the_page(found: Fitness) -> None:
    page = found.html()
    plots = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(plots) == 5
    known = set(re.findall(r"--([a-z-]+):", page))
    ids = []
    for plot in plots:
        tree = ET.fromstring(plot)  # noqa: S314 - our own
        ids += [e.attrib["id"] for e in tree.iter() if "id" in e.attrib and "clip" in str(e.tag).lower()]
        used = set(re.findall(r"var\(--([a-z]+)\)", plot))
        assert {"ink", "faint"} <= used <= known
        assert not re.search(r"#0[0-9a-f]0[0-9a-f]0[0-9a-f]\b", plot)
    assert len(ids) == len(set(ids))
    for name in ("matryoshka", "slightly", "no", "unclear"):
        assert re.search(rf"\.{name}\b", page)


def test_each_prefix_is_a_point(found: Fitness) -> None:
    """Heights of the curve of leading dimensions are their recalls."""
    plot = re.findall(r"<svg.*?</svg>", found.html(), re.S)[0]
    paths = re.findall(
        r'<path d="([^"]+)"[^>]*style="fill: none; stroke: var\(--lead\)[^"]*stroke-width: 2.2', plot
    )
    points = np.array(
        [[float(x) for x in p] for p in re.findall(r"[ML] ([\d.]+) ([\d.]+)", max(paths, key=len))]
    )
    recalls = [p.alone.recall.value for p in found.prefixes]
    assert len(points) == len(recalls)
    assert np.corrcoef(points[:, 1], recalls)[0, 1] == pytest.approx(-1.0, abs=1e-6)
    assert np.corrcoef(points[:, 0], np.log([p.dim for p in found.prefixes]))[0, 1] == pytest.approx(
        1.0, abs=1e-6
    )


@pytest.mark.parametrize("missing", ["matplotlib", "ir_measures"])
def test_what_to_install_is_said(missing: str, found: Fitness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    judged = (np.ones((9, 16)), np.ones((3, 16)), {"0": {"1": 1}})
    call = found.html if missing == "matplotlib" else lambda: ti.fitness(*judged)
    with pytest.raises(ti.MissingDependencyError, match=r"tiered-index\[fitness\]"):
        call()
