"""Published tests written out, for `graft eval` and for a recipe's `suites`."""

from __future__ import annotations

import os
from pathlib import Path

from graftlm.core.console import warn
from graftlm.core.errors import GraftError, RecipeError
from graftlm.evaluation.benchmarks.items import NoData, Source
from graftlm.evaluation.benchmarks.plan import Plan, make_plan
from graftlm.evaluation.benchmarks.questions import Frame
from graftlm.evaluation.benchmarks.run import Sheet, prepare
from graftlm.recipes.schema import Recipe


def data_root(given: Path | None) -> Path:
    """The given folder, else $GRAFT_EVAL_DATA, else the one that graft was called in.

    Raises:
        GraftError: there is no such folder.
    """
    root = given or Path(os.environ.get("GRAFT_EVAL_DATA") or ".")
    if not root.is_dir():
        raise GraftError("there is no such folder", where=root, fix="give the folder of the tests' data with --data")
    return root


def write_sheets(
    plan: Plan, source: Source, *, limit: int | None = None, seed: int = 0, frame: Frame | None = None
) -> tuple[list[Sheet], dict[str, str]]:
    """Tasks written out, and the reasons for those whose data are not there.

    Raises:
        GraftError: there are no data for any.
    """
    sheets, reasons = [], {}
    for task in plan.tasks:
        try:
            sheets.append(prepare(task, source, limit=limit, seed=seed, frame=frame))
        except NoData as missing:
            reasons[task.name] = missing.reason
            warn(f"{task.name} is left out: {missing.reason}")
    if not sheets:
        fix = "give the folder of the data with --data or $GRAFT_EVAL_DATA; `graft eval --list` says what is there"
        raise GraftError("no data for any of these tasks", where=source.root, fix=fix)
    return sheets, reasons


def recipe_sheets(recipe: Recipe) -> list[Sheet]:
    """The published tests of a recipe; none where it names no suite.

    Raises:
        GraftError: no data, an unknown suite, or a name that a task of `evaluation` has as well.
    """
    settings = recipe.suites
    if settings is None:
        return []
    root = data_root(Path(settings.data) if settings.data is not None else None)
    plan = make_plan(settings.names, shots=settings.shots)
    twice = [task.name for task in plan.tasks if task.name in recipe.evaluation]
    if twice:
        reason = f"`{twice[0]}` is the name of a task of `evaluation` and of a published test"
        raise RecipeError(reason, where="evaluation", fix="rename the task of `evaluation`")
    return write_sheets(plan, Source(root), limit=settings.limit, seed=recipe.seed)[0]
