"""Results kept between runs, by the content of all that they depend on: items, weights, settings, and graft's code."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from graftlm.core.files import cache_folder, read_json, write_json
from graftlm.core.hashing import hash_file, hash_value
from graftlm.evaluation.benchmarks.run import Sheet, TaskRun
from graftlm.evaluation.results import TaskResult
from graftlm.evaluation.statistics import Scores

_PACKAGE = Path(__file__).parents[2]


@cache
def _code() -> str:
    """Of the code that makes scores: a mended grader must not give yesterday's numbers."""
    files = [file for part in ("evaluation", "inference") for file in sorted((_PACKAGE / part).rglob("*.py"))]
    return hash_value([hash_file(file) for file in files])


def result_key(sheet: Sheet, subject: dict[str, Any]) -> str:
    """The name that a result is kept under.

    Args:
        subject: the model's hash, and all settings that change its scores.
    """
    return hash_value([sheet.planned.name, sheet.items_hash, len(sheet.items), subject, _code()])


def kept_run(key: str) -> TaskRun | None:
    file = _file(key)
    if not file.is_file():
        return None
    kept = read_json(file)
    metrics = {name: Scores.of(*parts) for name, parts in kept["metrics"].items()}
    return TaskRun(TaskResult.model_validate(kept["result"]), metrics, kept["subjects"], kept["chance"])


def keep_run(key: str, run: TaskRun) -> None:
    metrics = {name: [scores.numerators.tolist(), scores.denominators.tolist()] for name, scores in run.metrics.items()}
    result = run.result.model_dump(mode="json")
    write_json(_file(key), {"result": result, "metrics": metrics, "subjects": run.subjects, "chance": run.chance})


def _file(key: str) -> Path:
    return cache_folder() / "evaluations" / f"{key}.json"
