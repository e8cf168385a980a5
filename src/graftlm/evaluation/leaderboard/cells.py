"""One column of the leaderboard: which scores compare with each other, and the places that each may hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from graftlm.evaluation.leaderboard.entries import Entry, GroupScore, TaskScore
from graftlm.evaluation.leaderboard.ranking import Contender, place_ranges


@dataclass(frozen=True)
class Cell:
    """A model's score in a column, in points of 100 unless the metric is no share.

    Attributes:
        low, high: None where there is no interval.
        places: the ranks it may hold; None where it was got by other rules than the rest of the column.
        remark: what differs from the rest, or what is missing.
    """

    value: float
    low: float | None
    high: float | None
    places: tuple[int, int] | None = None
    remark: str = ""


@dataclass(frozen=True)
class Column:
    """A group or task.

    Attributes:
        detail: metric and shots of a task, or how a group is made.
        coverage: what of the test was run; "" for all.
        points: whether it is in points of 100.
    """

    name: str
    detail: str
    higher_is_better: bool
    points: bool
    coverage: str = ""


Found = tuple[Entry, TaskScore | GroupScore]
"""A score and the entry it stands in."""
TOOLS = ("graft", "lm-eval")
"""Each numbers the versions of its tasks for itself."""
TOLD = ("metric", "shots", "version", "rule")
"""What of a basis is short enough to be told."""
Basis = tuple[tuple[str, ...], ...]
"""What must be equal for two scores to compare: (what, which …) each."""


def fill_column(name: str, scores: Mapping[int, Found]) -> tuple[Column, dict[int, Cell]]:
    """The column and its cells, by the same keys as the scores."""
    bases = {key: _basis(entry, score) for key, (entry, score) in scores.items()}
    reference = _reference(scores, bases)
    first = next(score for key, (_, score) in scores.items() if bases[key] == reference)
    points = all(isinstance(score, GroupScore) or score.is_share for _, score in scores.values())
    higher = isinstance(first, GroupScore) or first.higher_is_better
    ranked = [key for key in scores if not _differs(bases[key], reference)]
    places = dict(zip(ranked, place_ranges([_contender(*scores[key], higher) for key in ranked]), strict=True))
    remarks = {key: _missing(score) or _differs(bases[key], reference) for key, (_, score) in scores.items()}
    cells = {key: _cell(score, points, places.get(key), remarks[key]) for key, (_, score) in scores.items()}
    coverage = first.coverage if isinstance(first, TaskScore) else ""
    return Column(name, _detail(first), higher, points, coverage), cells


def _cell(score: TaskScore | GroupScore, points: bool, places: tuple[int, int] | None, remark: str) -> Cell:
    scale = 100 if points and isinstance(score, TaskScore) else 1
    low, high = (None if bound is None else scale * bound for bound in (score.low, score.high))
    return Cell(scale * score.value, low, high, places, remark)


def _basis(entry: Entry, score: TaskScore | GroupScore) -> Basis:
    if isinstance(score, GroupScore):
        members = ("members", str(len(score.members)), *score.missing)
        return (("rule", score.how), members, *_coverage(entry, score))
    return (
        ("metric", score.metric),
        ("shots", "" if score.shots is None else str(score.shots)),
        *(("version", score.version if entry.source.startswith(tool) else "") for tool in TOOLS),
        ("coverage", score.coverage or "the whole test"),
        ("items", str(score.n) if score.n else ""),
        ("items", score.items_hash),
    )


def _coverage(entry: Entry, group: GroupScore) -> Iterator[tuple[str, ...]]:
    """A mean over parts of tests is not one over the tests."""
    for task in entry.tasks:
        if task.name in group.members and task.coverage:
            yield ("coverage", task.name, task.coverage)


def _differs(one: Basis, other: Basis) -> str:
    """The first thing that two bases disagree on; what one does not know is no disagreement."""
    for mine, its in zip(one, other, strict=False):
        if mine != its and "" not in (*mine, *its):
            return f"{mine[0]}: {mine[1]}" if mine[0] in TOLD else f"other {mine[0]}"
    return "" if len(one) == len(other) else "other coverage"


def _reference(scores: Mapping[int, Found], bases: Mapping[int, Basis]) -> Basis:
    """The basis that most scores share; complete groups count before incomplete ones, full tests before parts."""
    counts = Counter(bases.values())
    complete = {bases[n] for n, (_, s) in scores.items() if not (isinstance(s, GroupScore) and s.missing)}

    def fitting(basis: Basis) -> tuple[bool, int, int]:
        known = sum("" not in part for part in basis)
        return basis in complete, sum(count for other, count in counts.items() if not _differs(other, basis)), known

    return max(counts, key=fitting)


def _missing(score: TaskScore | GroupScore) -> str:
    if isinstance(score, TaskScore) or not score.missing:
        return ""
    total = len({*score.members, *score.missing})
    return f"{total - len(score.missing)} of {total} members"


def _contender(entry: Entry, score: TaskScore | GroupScore, higher: bool) -> Contender:
    sign = 1 if higher else -1
    low, high = (score.low, score.high) if higher else (score.high, score.low)
    return Contender(
        sign * score.value,
        None if low is None else sign * low,
        None if high is None else sign * high,
        tuple(
            (sign * share, task.items_hash, task.scores)
            for share, task in _parts(entry, score)
            if task.scores is not None
        ),
    )


def _parts(entry: Entry, score: TaskScore | GroupScore) -> list[tuple[float, TaskScore]]:
    """The tasks whose plain mean a score is, with shares; none where it is made otherwise, or items are not known."""
    if isinstance(score, TaskScore):
        return [(1.0, score)] if score.scores is not None and score.items_hash else []
    tasks = {task.name: task for task in entry.tasks}
    members = [tasks[name] for name in score.members if name in tasks]
    if len(members) < len(score.members) or any(t.scores is None or not t.items_hash for t in members) or not members:
        return []
    mean = 100 * sum(task.value for task in members) / len(members)
    return [(100 / len(members), task) for task in members] if abs(mean - score.value) < 1e-6 else []


def _detail(score: TaskScore | GroupScore) -> str:
    if isinstance(score, GroupScore):
        return score.how
    shots = f", {score.shots}-shot" if score.shots else ""
    return f"{score.metric}{shots}"
