"""Two models task by task: paired where both were scored on the same items."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from graftlm.core.errors import DataError
from graftlm.evaluation.leaderboard.board import Row
from graftlm.evaluation.leaderboard.entries import TaskScore
from graftlm.evaluation.statistics import Difference, paired_difference, pooled_difference


@dataclass(frozen=True)
class Compared:
    """One task of two models.

    Attributes:
        first, second: in the metric's own unit.
        difference: second minus first in pairs; None where it cannot be told.
        why: the reason if not.
    """

    name: str
    metric: str
    is_share: bool
    higher_is_better: bool
    first: float
    second: float
    difference: Difference | None
    why: str = ""


@dataclass(frozen=True)
class Comparison:
    """The tasks of both.

    Attributes:
        overall: mean over the paired tasks whose metric is a share; None where fewer than two are.
        only_first, only_second: tasks that the other lacks.
    """

    rows: list[Compared]
    overall: Difference | None
    only_first: list[str]
    only_second: list[str]


def compare_rows(first: Row, second: Row) -> Comparison:
    """Second minus first.

    Raises:
        DataError: no task in common.
    """
    ones, others = _tasks(first), _tasks(second)
    shared = [name for name in ones if name in others]
    if not shared:
        fix = "evaluate both on the same suite"
        raise DataError(f"{first.label} and {second.label} have no task in common", where="leaderboard", fix=fix)
    rows = [_compare(ones[name], others[name]) for name in shared]
    paired = [(ones[row.name], others[row.name]) for row in rows if row.difference and row.is_share]
    pairs = [(one.scores, other.scores) for one, other in paired if one.scores is not None and other.scores is not None]
    return Comparison(
        rows=rows,
        overall=pooled_difference(pairs) if len(pairs) > 1 else None,
        only_first=[name for name in ones if name not in others],
        only_second=[name for name in others if name not in ones],
    )


def find_row(rows: Sequence[Row], name: str) -> Row:
    """A model by its name; where several rows have it, by the label that sets them apart.

    Raises:
        DataError: none, or several.
    """
    found = [row for row in rows if name in (row.label, row.model)]
    exact = [row for row in found if row.label == name]
    if len(found) == 1 or len(exact) == 1:
        return (exact or found)[0]
    if found:
        fix = "name one of: " + "; ".join(row.label for row in found)
        raise DataError(f"{len(found)} rows have the name {name!r}", where="leaderboard", fix=fix)
    close = difflib.get_close_matches(name, [row.label for row in rows], n=3, cutoff=0.3)
    fix = f"one of: {'; '.join(close or [row.label for row in rows][:8])}"
    raise DataError(f"no model {name!r}", where="leaderboard", fix=fix)


def _tasks(row: Row) -> dict[str, TaskScore]:
    """Each task's newest score."""
    found: dict[str, TaskScore] = {}
    for entry in row.entries:
        for task in entry.tasks:
            found.setdefault(task.name, task)
    return found


def _compare(one: TaskScore, other: TaskScore) -> Compared:
    why = _why_not(one, other)
    difference = None
    if not why and one.scores is not None and other.scores is not None:
        difference = paired_difference(one.scores, other.scores)
    return Compared(
        one.name, one.metric, one.is_share and other.is_share, one.higher_is_better, one.value, other.value,
        difference, why,
    )  # fmt: skip


def _why_not(one: TaskScore, other: TaskScore) -> str:
    if one.metric != other.metric:
        return f"another metric: {one.metric}, {other.metric}"
    if one.shots is not None and other.shots is not None and one.shots != other.shots:
        return f"another number of shots: {one.shots}, {other.shots}"
    if one.version and other.version and one.version != other.version:
        return f"another version: {one.version}, {other.version}"
    if one.scores is None or other.scores is None:
        return "no scores by item"
    if not one.items_hash or one.items_hash != other.items_hash or len(one.scores) != len(other.scores):
        return "other items"
    return ""
