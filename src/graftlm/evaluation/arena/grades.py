"""Grades together: MT-bench's score of a model, and the battles that grades imply."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

from graftlm.core.errors import DataError
from graftlm.evaluation.arena.battles import Battle, Grade, QuestionId, Verdict
from graftlm.evaluation.arena.verdicts import choice_of
from graftlm.evaluation.statistics import Estimate, Scores, estimate

Key = TypeVar("Key", int, str)


@dataclass(frozen=True)
class GradeRow:
    """One model's grades.

    Attributes:
        mean: over all graded answers, with the 95 % interval over questions.
        turns: the mean by turn.
        categories: the mean by category.
        ungraded: answers for which the judge gave no grade; they count nowhere.
    """

    model: str
    mean: Estimate
    turns: dict[int, float]
    categories: dict[str, float]
    ungraded: int


def grade_rows(grades: Sequence[Grade]) -> list[GradeRow]:
    """The models, the best first.

    Raises:
        DataError: a model has no grade at all.
    """
    of_model: dict[str, list[Grade]] = defaultdict(list)
    for grade in grades:
        of_model[grade.model].append(grade)
    return sorted((_row(model, found) for model, found in of_model.items()), key=lambda row: -row.mean.value)


def grade_battles(grades: Sequence[Grade]) -> list[Battle]:
    """Any two models battle over each answer that one judge graded; grades within 0.1 are a tie, as in FastChat."""
    of_answer: dict[tuple[str, int, str], dict[str, Grade]] = defaultdict(dict)
    for grade in grades:
        of_answer[str(grade.question_id), grade.turns, grade.judge][grade.model] = grade
    return [
        Battle(
            question_id=one.question_id, category=one.category, model_a=one.model, model_b=other.model,
            turns=one.turns, verdict=_verdict(one.grade, other.grade), judge=one.judge, order="both",
        )
        for found in of_answer.values()
        for one, other in combinations(sorted(found.values(), key=lambda grade: grade.model), 2)
    ]  # fmt: skip


def _row(model: str, grades: Sequence[Grade]) -> GradeRow:
    by_question: dict[QuestionId, list[float]] = defaultdict(list)
    by_turn: dict[int, list[float]] = defaultdict(list)
    by_category: dict[str, list[float]] = defaultdict(list)
    for one in grades:
        if one.grade is not None:
            by_question[one.question_id].append(one.grade)
            by_turn[one.turns].append(one.grade)
            by_category[one.category].append(one.grade)
    if not by_question:
        raise DataError("the judge gave it no grade", where=model, fix="take a judge that keeps to the form: [[7]]")
    scores = Scores.of([sum(some) for some in by_question.values()], [len(some) for some in by_question.values()])
    ungraded = sum(one.grade is None for one in grades)
    return GradeRow(model, estimate(scores), _means(by_turn), _means(by_category), ungraded)


def _means(grades: dict[Key, list[float]]) -> dict[Key, float]:
    return {key: sum(grades[key]) / len(grades[key]) for key in sorted(grades)}


def _verdict(one: float | None, other: float | None) -> Verdict:
    if one is None or other is None:
        return "unreadable"
    verdicts: dict[str, Verdict] = {"A": "a", "B": "b", "C": "tie"}
    return verdicts[choice_of(one, other)]
