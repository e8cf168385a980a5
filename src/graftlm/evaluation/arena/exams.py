"""An exam as an arena (ChatLaw, arXiv:2306.16092): any two models battle on every question, and right beats wrong."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from pydantic import ValidationError

from graftlm.core.errors import DataError
from graftlm.core.files import read_json
from graftlm.evaluation.arena.battles import Battle, Verdict
from graftlm.evaluation.results import EvaluationResult, TaskResult

JUDGE = "exam"


def read_result(path: Path) -> EvaluationResult:
    """A result as `graft eval` writes it.

    Raises:
        GraftError: the file is absent or not JSON.
        DataError: it is another sort of file.
    """
    try:
        return EvaluationResult.model_validate(read_json(path))
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(part) for part in fault["loc"])
        reason = f"no result of `graft eval`: `{key}`: {fault['msg']}"
        raise DataError(reason, where=path, fix="check the path") from None


def exam_battles(
    results: Sequence[EvaluationResult], tasks: Sequence[str] = ()
) -> tuple[list[Battle], dict[str, str]]:
    """The battles of two or more models on the questions of their common tasks; both right or both wrong is a tie.

    Args:
        results: of different models.
        tasks: names of tasks to take; all by default.

    Returns:
        The battles, and why each task that was left out was.

    Raises:
        DataError: fewer than two models, two of one name, a task that none has, or no task that could be taken.
    """
    models = [result.model for result in results]
    if len(models) < 2:
        raise DataError("an exam needs two models or more", fix="name the results of several models")
    if twice := sorted({model for model in models if models.count(model) > 1}):
        raise DataError(f"two results are of one name: {', '.join(twice)}", fix="evaluate under different names")
    found = {result.model: {task.name: task for task in result.tasks} for result in results}
    names = sorted({name for sheets in found.values() for name in sheets})
    if unknown := sorted(set(tasks) - set(names)):
        raise DataError(f"no result has the task {', '.join(unknown)}", fix=f"take some of: {', '.join(names)}")
    battles: list[Battle] = []
    left_out = {}
    for name in sorted(set(tasks) or names):
        sheets = {model: of_model[name] for model, of_model in found.items() if name in of_model}
        if reason := _unfit(sheets, models):
            left_out[name] = reason
        else:
            battles += _task_battles(name, sheets)
    if not battles:
        told = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise DataError(f"no task that all models answered alike ({told})", fix="evaluate all models on the same tasks")
    return battles, left_out


def _unfit(sheets: dict[str, TaskResult], models: Sequence[str]) -> str | None:
    if missing := [model for model in models if model not in sheets]:
        return f"not answered by {', '.join(missing)}"
    if len({sheet.items_hash for sheet in sheets.values()}) > 1:
        return "the models had different questions (items_hash)"
    if len({(sheet.version, sheet.metric, sheet.shots, len(sheet.scores)) for sheet in sheets.values()}) > 1:
        return "the models were scored differently (version, metric, shots or number of answers)"
    sample = next(iter(sheets.values()))
    marks = {mark for sheet in sheets.values() for mark in zip(sheet.scores, sheet.weights, strict=True)}
    if not sample.higher_is_better or not marks <= {(0.0, 1.0), (1.0, 1.0)}:
        return f"its metric {sample.metric} does not say right or wrong"
    return None


def _task_battles(name: str, sheets: dict[str, TaskResult]) -> list[Battle]:
    return [
        Battle(
            question_id=f"{name}/{number}",
            category=name,
            model_a=one,
            model_b=other,
            verdict=_verdict(sheets[one].scores[number], sheets[other].scores[number]),
            judge=JUDGE,
            order="both",
        )
        for one, other in combinations(sheets, 2)
        for number in range(len(sheets[one].scores))
    ]


def _verdict(one: float, other: float) -> Verdict:
    if one == other:
        return "tie" if one else "both_bad"
    return "a" if one > other else "b"
