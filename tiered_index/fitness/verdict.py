"""From figures to a verdict: which prefix to take, and what to tell a person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tiered_index.fitness.intervals import Estimate
from tiered_index.fitness.report import Choice, Found, Keep, Kind, Prefix
from tiered_index.fitness.sample import QuerySource

CLEAR = 0.03
"""How much more of the true neighbours leading dimensions must find, at the interval's lower end. The mean
advantage was 0.07 for a model trained at 64 to 1,024 dimensions, and within 0.01 of nothing for one that was
not, and for the first with its dimensions shuffled."""

BLIND = 0.1
"""An interval that reaches further to each side could have missed what Matryoshka training does."""

HELPS = 0.01
"""What a rotation must add to recall, at the interval's lower end, to be worth its trouble."""

ORDERED = 0.9
"""Prefixes that hold this share of the energy that any could hold are ordered by energy."""


class Case(NamedTuple):
    """What is judged; names as in :class:`tiered_index.fitness.report.Fitness`."""

    advantage: Estimate
    prefixes: Sequence[Prefix]
    query_source: QuerySource
    share: float
    within: int
    keep: Keep
    k: int
    prefix_dim: int | None


class Verdict(NamedTuple):
    """What follows; names as in :class:`tiered_index.fitness.report.Fitness`."""

    kind: Kind
    sentences: tuple[str, ...]
    smallest: Choice
    smallest_rotated: Choice
    rotation_helps: bool


def judge(case: Case) -> Verdict:
    """Judge prefixes."""
    kind = kind_of(case.advantage)
    chosen, plain, turned = _smallest(case, case.keep), _smallest(case, "recall"), _smallest(case, None)
    helps = turned.prefix_dim < plain.prefix_dim and _found(case, turned).rotation_gain.low > HELPS
    sentences = [_headline(kind, case), _about_order(case), _about_size(chosen, case)]
    if case.prefix_dim is not None and case.prefix_dim != chosen.prefix_dim:
        sentences.append(_about_own(case.prefix_dim, case))
    if case.keep == "recall" and case.prefixes[-1].alone.ndcg is not None:
        sentences.append(_about_judgements(_smallest(case, "ndcg"), case))
    sentences.append(_about_rotation(plain, turned if helps else None, case))
    return Verdict(kind, tuple(sentences), chosen, turned, helps)


def kind_of(advantage: Estimate) -> Kind:
    """Say whether leading dimensions carry more than others."""
    if advantage.low > CLEAR:
        return "matryoshka"
    if advantage.low > 0:
        return "slightly"
    return "unclear" if advantage.high - advantage.value > BLIND else "no"


def _smallest(case: Case, keep: Keep | None) -> Choice:
    """Return the smallest prefix that keeps the share, and the fewest candidates for it.

    Where `keep` is None, of rotated vectors' recall. All dimensions keep everything.
    """
    for prefix in case.prefixes:
        for found in prefix.rescored:
            if found.candidates <= case.within and _kept(found, keep).low >= case.share:
                return Choice(prefix.dim, found.candidates)
    return Choice(case.prefixes[-1].dim, case.prefixes[-1].rescored[0].candidates)


def _kept(found: Found, keep: Keep | None) -> Estimate:
    if keep is None:
        return found.rotated_recall
    return found.ndcg_share if keep == "ndcg" and found.ndcg_share is not None else found.recall


def _prefix(case: Case, dim: int) -> Prefix:
    return next(prefix for prefix in case.prefixes if prefix.dim == dim)


def _found(case: Case, choice: Choice) -> Found:
    return _prefix(case, choice.prefix_dim).after(choice.candidates)


def _headline(kind: Kind, case: Case) -> str:
    if kind == "matryoshka":
        compared = [p for p in case.prefixes if p.advantage is not None]
        held = np.mean([p.energy / p.rotated_energy for p in compared])
        if held >= ORDERED:
            return (
                "Matryoshka, or ordered by variance as by a PCA: leading dimensions carry more than others."
            )
        return "Matryoshka: leading dimensions carry more than others."
    if kind == "slightly":
        return "Hardly Matryoshka: leading dimensions carry little more than others."
    if kind == "no":
        less = "less" if case.advantage.high < 0 else "no more"
        return f"Not Matryoshka: leading dimensions carry {less} than others."
    return "Matryoshka or not, it cannot be told: give more rows or queries."


def _about_order(case: Case) -> str:
    advantage = case.advantage
    compared = [p for p in case.prefixes if p.advantage is not None]
    more = sum(p.advantage is not None and p.advantage.low > 0 for p in compared)
    return (
        f"Leading dimensions alone find {100 * abs(advantage.value):.1f} points "
        f"{'more' if advantage.value >= 0 else 'less'} of the true top {case.k} than as many drawn at random "
        f"({100 * advantage.low:+.1f} to {100 * advantage.high:+.1f}), clearly more at {more} of the "
        f"{len(compared)} prefixes up to half of all."
    )


def _about_size(chosen: Choice, case: Case) -> str:
    what = f"{'nDCG' if case.keep == 'ndcg' else 'recall'}@{case.k}"
    full = case.prefixes[-1]
    if chosen.prefix_dim == full.dim:
        return f"No prefix below {full.dim} keeps {case.share:.0%} of {what} within {case.within} candidates."
    prefix = _prefix(case, chosen.prefix_dim)
    return (
        f"Take prefix_dim={chosen.prefix_dim} and {chosen.candidates} candidates: "
        f"{_kept(_found(case, chosen), case.keep)} of {what} is kept, and a million rows take "
        f"{prefix.coarse_bytes / 1e6:,.0f} MB of memory instead of {full.coarse_bytes / 1e6:,.0f}. Of the "
        f"prefixes measured it is the smallest that surely keeps {case.share:.0%} within {case.within}."
    )


def _about_judgements(choice: Choice, case: Case) -> str:
    found, full = _found(case, choice), case.prefixes[-1].alone
    return (
        f"By the judgements {choice.prefix_dim} dimensions and {choice.candidates} candidates are enough for "
        f"{_kept(found, 'ndcg')} of nDCG@{case.k}, which is {full.ndcg} by full vectors."
    )


def _about_own(prefix_dim: int, case: Case) -> str:
    prefix = _prefix(case, prefix_dim)
    return (
        f"prefix_dim={prefix_dim} finds {prefix.alone.recall} of the true top {case.k} alone, and "
        f"{prefix.after(case.within).recall} after rescoring {case.within} candidates."
    )


def _about_rotation(plain: Choice, turned: Choice | None, case: Case) -> str:
    shown = turned or plain
    if turned is None and plain.prefix_dim == case.prefixes[-1].dim:  # there, no rotation changes anything
        shown = Choice(case.prefixes[-2].dim, case.within)
    found = _found(case, shown)
    gain = found.rotation_gain
    figures = (
        f"at {shown.prefix_dim} dimensions and {shown.candidates} candidates recall@{case.k} goes from "
        f"{found.recall.value:.3f} to {found.rotated_recall.value:.3f} ({gain.low:+.3f} to {gain.high:+.3f})"
    )
    if turned is None:
        return f"A PCA rotation {'makes it worse' if gain.high < 0 else 'does not clearly help'}: {figures}."
    if case.query_source == "held out":
        return (
            f"A PCA rotation helps, on stored vectors: {figures}. Measure with real queries before using it."
        )
    return f'A PCA rotation helps, rotation="pca": {figures}.'
