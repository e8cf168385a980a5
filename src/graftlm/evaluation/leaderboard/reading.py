"""Files that the leaderboard takes: results of `graft eval` and lm-evaluation-harness, told apart by their content."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from graftlm.core.errors import DataError
from graftlm.core.files import read_json
from graftlm.evaluation.leaderboard.entries import Entry, entry_of
from graftlm.evaluation.leaderboard.lm_eval import read_lm_eval
from graftlm.evaluation.results import EvaluationResult


def read_result(file: Path, model: str | None = None) -> Entry:
    """One file as an entry.

    Args:
        model: the name to list it under, if not the one in the file.

    Raises:
        GraftError: no such file, not JSON, or neither kind of result.
    """
    content = read_json(file)
    if isinstance(content, dict) and isinstance(content.get("results"), dict):
        return read_lm_eval(content, file, model)
    if not isinstance(content, dict) or "tasks" not in content:
        fix = "give a file of `graft eval`, a results_*.json of lm-evaluation-harness, or a run folder"
        raise DataError("no result of an evaluation", where=file, fix=fix)
    if not content["tasks"]:
        raise DataError("the evaluation holds no task", where=file, fix="evaluate again")
    try:
        return entry_of(EvaluationResult.model_validate(content), model)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        fix = "evaluate again with this version of graft"
        raise DataError(f"{key}: {first['msg']}", where=file, fix=fix) from None


def result_files(folder: Path) -> list[Path]:
    """The files of a folder that may be results, at any depth: lm-eval's `results_*.json`, else every JSON file.

    Raises:
        DataError: none.
    """
    found = sorted(folder.rglob("results_*.json")) or sorted(folder.rglob("*.json"))
    if not found:
        raise DataError("no result in the folder", where=folder, fix="give a file, or a run folder with recipe.yaml")
    return found
