"""The models of a run as entries of the leaderboard: the base and every stage that was evaluated."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from graftlm.core.errors import RecipeError
from graftlm.core.hashing import hash_value
from graftlm.evaluation.leaderboard.entries import Entry, GroupScore, task_score
from graftlm.evaluation.results import TaskResult
from graftlm.evaluation.statistics import paired_means
from graftlm.recipes.loading import load_recipe
from graftlm.recipes.schema import Recipe
from graftlm.recipes.summary import StageRecord, read_scores, read_stages


def run_entries(folder: Path) -> list[Entry]:
    """One entry a model; its means over the domain tasks and over the general tasks stand beside the tasks.

    Raises:
        RecipeError: no recipe, or nothing was evaluated.
    """
    recipe = load_recipe(folder / "recipe.yaml")
    stages = {stage.name: stage for stage in read_stages(folder, recipe)}
    scores = read_scores(folder, recipe)
    if not scores:
        reason, fix = "no model of the run was evaluated", "give the recipe an evaluation, and run it again"
        raise RecipeError(reason, where=folder, fix=fix)
    places = ["base", *recipe.stages]
    return [
        _entry(folder / f"{places.index(model):02d}-{model}", recipe, model, results, stages.get(model))
        for model, results in scores.items()
    ]


def _entry(folder: Path, recipe: Recipe, model: str, results: list[TaskResult], stage: StageRecord | None) -> Entry:
    receipt = stage.receipt if stage else None
    name = f"{recipe.name}/{model}"
    written = datetime.fromtimestamp((folder / "scores.json").stat().st_mtime, UTC)
    sides = {side: [r for r in results if r.side == side and r.higher_is_better] for side in ("domain", "general")}
    return Entry(
        hash=hash_value([name, [result.model_dump(mode="json") for result in results]]),
        model=name,
        model_hash=receipt.key if receipt else "",
        parameters=receipt.parameters.get("all") if receipt else None,
        precision="",
        started=written.isoformat(timespec="seconds"),
        seconds=sum(result.seconds for result in results),
        machine="",
        settings={"template": recipe.template},
        versions=receipt.versions if receipt else {},
        source="graft run",
        tasks=tuple(task_score(result) for result in results),
        groups=tuple(_mean(f"{recipe.name}: {side}", tasks) for side, tasks in sides.items() if tasks),
    )


def _mean(name: str, tasks: list[TaskResult]) -> GroupScore:
    """In points, items resampled inside each task."""
    mean, _ = paired_means([(task.headline_scores(), task.headline_scores()) for task in tasks])
    low, high = np.nanquantile(mean.samples, [0.025, 0.975])
    members = tuple(task.name for task in tasks)
    return GroupScore(name, 100 * mean.value, 100 * float(low), 100 * float(high), "mean of the tasks", members)
