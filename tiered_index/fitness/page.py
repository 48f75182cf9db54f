"""One HTML page about a model's prefixes that needs nothing besides itself."""

from __future__ import annotations

from html import escape
from importlib.resources import files

from tiered_index.fitness.charts import draw
from tiered_index.fitness.intervals import Estimate
from tiered_index.fitness.report import Choice, Fitness, Found, Prefix

_TITLE = "The truth about your embeddings"


def page(fitness: Fitness) -> str:
    """Return the page.

    Raises
    ------
    MissingDependencyError
        matplotlib is not installed.
    """
    style = files("tiered_index.fitness").joinpath("page.css").read_text()
    captions = _captions(fitness)
    plots = "".join(
        f"<figure><h2>{captions[name][0]}</h2>{svg}<figcaption>{captions[name][1]}</figcaption></figure>"
        for name, svg in draw(fitness).items()
    )
    said = "".join(f"<p>{escape(sentence)}</p>" for sentence in fitness.verdict[1:])
    cautions = "".join(f"<p>{escape(sentence)}</p>" for sentence in fitness.cautions)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{_TITLE}</title>\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n<main>\n<h1>{_TITLE}</h1>\n"
        f"<p class=about>{_about(fitness)}</p>\n"
        f'<div class="verdict {fitness.kind}"><b>{escape(fitness.verdict[0])}</b>{said}</div>\n'
        f"<div class=cautions>{cautions}</div>\n<div class=plots>{plots}</div>\n{_tables(fitness)}"
        "</main>\n</body>\n</html>\n"
    )


def _about(fitness: Fitness) -> str:
    judged = f", {fitness.judged_queries:,} of them judged" if fitness.judged_queries else ""
    return (
        f"{fitness.rows:,} of {fitness.total_rows:,} vectors of {fitness.dim:,} dimensions, "
        f"{fitness.metric}; {fitness.queries:,} queries ({fitness.query_source}){judged}."
    )


def _captions(fitness: Fitness) -> dict[str, tuple[str, str]]:
    k = fitness.k
    full, disk = f"{fitness.full_hnsw_bytes / 1e6:,.0f}", f"{fitness.full_bytes / 1e6:,.0f}"
    return {
        "order": (
            "Do leading dimensions matter?",
            (
                f"How many of the true {k} nearest rows a ranking by so many dimensions alone finds. "
                "Where the leading ones lie on those drawn at random, their order means nothing. "
                "The band is that of the draws; bars are 95 % intervals."
            ),
        ),
        "rescored": (
            "What rescoring mends",
            (
                "The prefix chooses candidates, full vectors rank them. "
                f"The dashed line is the {fitness.share:.0%} that was asked for."
            ),
        ),
        "memory": (
            "What recall costs in memory",
            (
                "Each point is a prefix; the number is its dimensions, the recommended one is bold. "
                f"Up and to the left is better. Full float32 vectors under a graph would take {full} MB; "
                f"on disk full vectors take {disk} MB."
            ),
        ),
        "gap": (
            "How far neighbours stand out",
            (
                "Mean cosine of queries and their true neighbours less that of random pairs, "
                "in standard deviations of the latter."
            ),
        ),
        "quality": (
            "What judges say",
            f"nDCG@{k} by the judgements that were given; the dashed line is what full vectors reach.",
        ),
    }


def _tables(fitness: Fitness) -> str:
    steps = [found.candidates for found in fitness.prefixes[0].rescored]
    after = [f"after {count}" for count in steps]
    k = fitness.k
    heads = [
        "dims",
        f"recall@{k} alone",
        "at random",
        "more than random",
        *after,
        "gap",
        "energy",
        "MB a million",
    ]
    if fitness.price_gb_month is not None:
        heads.append("$ a month")
    found = _table(heads, [(p, _plain(p)) for p in fitness.prefixes], fitness.smallest)
    heads = ["dims", f"recall@{k} alone", *after, "energy"]
    rotated = _table(heads, [(p, _rotated(p)) for p in fitness.prefixes], fitness.smallest_rotated)
    parts = [
        _section("As they are", "Under each figure its 95 % interval, or the range of the draws.", found),
        _section(
            "After a PCA rotation",
            "The same queries and rows; under each figure what the rotation adds or takes at that prefix.",
            rotated,
        ),
    ]
    if fitness.judged_queries:
        heads = ["dims", *(f"{measure}@{k} {n}" for n in ("alone", *after) for measure in ("nDCG", "MRR"))]
        judged = _table(heads, [(p, _judged(p)) for p in fitness.prefixes], fitness.smallest)
        parts.append(_section("By the judgements", "Under each figure its 95 % interval.", judged))
    return "".join(parts)


def _section(heading: str, about: str, table: str) -> str:
    return f"<section><h2>{heading}</h2><p class=about>{about}</p>{table}</section>"


def _table(heads: list[str], rows: list[tuple[Prefix, list[str]]], best: Choice) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
    body = ""
    for prefix, cells in rows:
        chosen = " class=chosen" if prefix.dim == best.prefix_dim else ""
        body += f"<tr{chosen}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    return f"<div class=wide><table><tr>{head}</tr>{body}</table></div>"


def _plain(prefix: Prefix) -> list[str]:
    drawn = prefix.shuffled_recall
    cells = [
        f"{prefix.dim}",
        _with_interval(prefix.alone.recall),
        f"{sum(drawn) / len(drawn):.3f}<small>{min(drawn):.3f} to {max(drawn):.3f}</small>" if drawn else "",
        _with_interval(prefix.advantage, "+") if prefix.advantage is not None else "",
        *(_with_interval(found.recall) for found in prefix.rescored),
        f"{prefix.gap:.2f}" + (f"<small>judged {prefix.judged_gap:.2f}</small>" if prefix.judged_gap else ""),
        f"{prefix.energy:.1%}",
        f"{prefix.coarse_bytes / 1e6:,.0f}",
    ]
    if prefix.dollars is not None:
        cells.append(f"{prefix.dollars:,.2f}")
    return cells


def _rotated(prefix: Prefix) -> list[str]:
    cells = [f"{prefix.dim}"]
    for found in (prefix.alone, *prefix.rescored):
        gain = found.rotation_gain
        cells.append(f"{found.rotated_recall.value:.3f}<small>{gain.low:+.3f} to {gain.high:+.3f}</small>")
    return [*cells, f"{prefix.rotated_energy:.1%}"]


def _judged(prefix: Prefix) -> list[str]:
    cells = [f"{prefix.dim}"]
    for found in (prefix.alone, *prefix.rescored):
        cells += _of_judges(found)
    return cells


def _of_judges(found: Found) -> list[str]:
    return [_with_interval(value) for value in (found.ndcg, found.mrr) if value is not None]


def _with_interval(value: Estimate, sign: str = "") -> str:
    numbers = f"{value.low:{sign}.3f} to {value.high:{sign}.3f}"
    return f"{value.value:{sign}.3f}<small>{numbers}</small>"
