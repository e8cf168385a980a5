"""What a grader is given and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Mark: TypeAlias = float | tuple[float, float]
"""The score of one item; or what it adds above and below the line, where a metric is sum / sum over items."""


@dataclass(frozen=True)
class Reply:
    """What a model answered to one item.

    Attributes:
        texts: its answers after the metric's filters: one, or as many as the task samples.
        answers: the accepted ones.
        row: the item's fields.
    """

    texts: tuple[str, ...]
    answers: tuple[str, ...]
    row: Mapping[str, Any]

    @property
    def text(self) -> str:
        return self.texts[0]


Grader: TypeAlias = Callable[..., list[Mark]]
"""(replies, **options of the task file) → a mark for each reply. All of a task at once: some grade in parallel."""


def each(judge: Callable[[str, Sequence[str]], float]) -> Grader:
    """A grader that compares the first text of each reply with its accepted answers."""

    def grade(replies: Sequence[Reply]) -> list[Mark]:
        return [judge(reply.text, reply.answers) for reply in replies]

    return grade
