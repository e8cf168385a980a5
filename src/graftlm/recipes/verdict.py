"""The result of a run in words: gain and forgetting in one sentence, in a few words, and what got worse."""

from __future__ import annotations

from graftlm.evaluation.retention import Change, Retention, SideChange
from graftlm.recipes.formatting import rounded


def headline(retention: Retention | None) -> str:
    """The result in one sentence: the first domain task, and what is left of the general side."""
    if retention is None:
        return "No scores to compare yet"
    return f"{_gain(retention.domain)}; {_kept(retention.general)}"


def _gain(side: SideChange) -> str:
    if not side.changes:
        return "domain gain not measured"
    first = next((change for change in side.changes if change.higher_is_better), side.changes[0])
    return f"{first.name} {_from_to(first)}"


def _kept(side: SideChange) -> str:
    if not side.changes:
        return "forgetting not measured"
    shares = [change for change in side.changes if change.higher_is_better]
    what = shares[0].name if len(shares) == 1 else f"general ability ({len(shares)} tasks)"
    if side.retained:
        return f"{what} kept {rounded(side.retained.value)} of before"
    first = side.changes[0]
    return f"{first.name} {_from_to(first)}"


def direction(side: SideChange) -> bool | None:
    """Whether a side as a whole clearly got better (True) or worse (False)."""
    if side.difference:
        return side.difference.value > 0 if side.difference.is_clear else None
    if side.count(False):
        return False
    return True if side.count(True) else None


def verdict_badge(retention: Retention | None) -> tuple[str, str]:
    """The verdict in a few words, and how it is to look."""
    if retention is None:
        return "not measured", "neutral"
    gain, kept = direction(retention.domain), direction(retention.general)
    words = {True: "learnt the domain", False: "lost domain knowledge", None: "no clear domain gain"}[gain]
    if not retention.domain.changes:
        words = "domain not tested"
    if not retention.general.changes:
        return f"{words}, forgetting not tested", "neutral"
    after = {True: "improved elsewhere", False: "forgot some of the rest", None: "no clear forgetting"}[kept]
    look = "bad" if gain is False else "good" if gain and kept is not False else "mixed"
    return f"{words}, {after}", look


def worse(retention: Retention) -> list[str]:
    """Every task that lost, of either side: a good mean must not hide it."""
    changes = [*retention.domain.changes, *retention.general.changes]
    return [f"{c.name} {_from_to(c)}" for c in changes if c.better is False]


def _from_to(change: Change) -> str:
    if change.metric == "bits_per_byte":
        return f"{change.before:.2f} → {change.after:.2f} bits per byte"
    return f"{rounded(change.before)} → {rounded(change.after)}"
