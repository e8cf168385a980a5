"""What a run folder says, as plain data: the content of `receipt.json`, and what the report's page shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from graftlm.core.files import read_json
from graftlm.core.receipts import Interval, Receipt
from graftlm.evaluation.results import TaskResult
from graftlm.evaluation.retention import Retention, compare
from graftlm.recipes.schema import Recipe
from graftlm.recipes.stage_settings import ComparedStage
from graftlm.recipes.verdict import headline

Scores = dict[str, list[TaskResult]]
"""Results by model: "base" first, then the stages in order; models that were not evaluated are left out."""


class StageRecord(BaseModel):
    """A stage of the recipe, and its receipt when it is finished."""

    name: str
    started_from: str
    receipt: Receipt | None


class ScoreRow(BaseModel):
    """One task's headline for every model that was tested on it."""

    name: str
    side: Literal["domain", "general"]
    metric: str
    higher_is_better: bool
    n: int
    items_hash: str
    models: dict[str, Interval]


class RunReceipt(BaseModel):
    """What a run did, for machines.

    Attributes:
        judged: the stage that headline and verdict are about: the last that was evaluated.
        branches: the paths of the training, each from the base to a language model that no other stage starts from.
        retention: each evaluated stage against the base, in pairs.
        against_start: each evaluated stage that learnt from preferences or rewards against the model it started from.
    """

    model_config = ConfigDict(extra="forbid")

    format: int = 1
    name: str
    base: str | dict[str, Any]
    seed: int
    started: str | None
    training_seconds: float
    evaluation_seconds: float
    finished: bool
    versions: dict[str, str]
    headline: str
    verdict: str
    verdict_zh: str
    judged: str | None = None
    branches: list[list[str]] = []
    scores: list[ScoreRow]
    retention: dict[str, Retention]
    against_start: dict[str, Retention] = {}
    stages: list[StageRecord]
    check: dict[str, Any]
    absent: list[str]


def gather(folder: Path, recipe: Recipe, scores: Scores) -> RunReceipt:
    """The machine-readable half, from the files of the run."""
    stages = read_stages(folder, recipe)
    done = [stage.receipt for stage in stages if stage.receipt]
    absent = _absent(recipe, stages, scores)
    retention = _retention(scores, absent)
    last = list(retention.values())[-1] if retention else None
    check = folder / "check.json"
    return RunReceipt(
        name=recipe.name,
        base=recipe.base if isinstance(recipe.base, str) else recipe.base.model_dump(mode="json"),
        seed=recipe.seed,
        started=done[0].started if done else None,
        training_seconds=sum(receipt.seconds for receipt in done),
        evaluation_seconds=sum(result.seconds for results in scores.values() for result in results),
        finished=len(done) == len(stages) and all(name in scores for name in language_models(recipe)),
        versions=done[-1].versions if done else {},
        headline=headline(last),
        verdict=last.verdict if last else "Gain and forgetting were not measured.",
        verdict_zh=last.verdict_zh if last else "未测量领域提升与遗忘。",
        judged=list(retention)[-1] if retention else None,
        branches=branches(recipe),
        scores=_score_rows(scores),
        retention=retention,
        against_start=_against_start(recipe, scores),
        stages=stages,
        check=read_json(check) if check.is_file() else {},
        absent=absent,
    )


def language_models(recipe: Recipe) -> list[str]:
    """The stages whose models are evaluated: all but the reward models."""
    return [name for name, stage in recipe.stages.items() if stage.makes_language_model]


def branches(recipe: Recipe) -> list[list[str]]:
    """The paths from the base to each language model that no other stage starts from."""
    models = language_models(recipe)
    inner = {recipe.start_of(name) for name in models}
    return [_path_to(recipe, name) for name in models if name not in inner]


def _path_to(recipe: Recipe, name: str) -> list[str]:
    path = [name]
    while path[0] != "base":
        path.insert(0, recipe.start_of(path[0]))
    return path


def read_stages(folder: Path, recipe: Recipe) -> list[StageRecord]:
    stages = []
    for number, name in enumerate(recipe.stages, 1):
        file = folder / f"{number:02d}-{name}" / "receipt.json"
        receipt = Receipt.model_validate(read_json(file)) if file.is_file() else None
        stages.append(StageRecord(name=name, started_from=recipe.start_of(name), receipt=receipt))
    return stages


def read_scores(folder: Path, recipe: Recipe) -> Scores:
    """Scores of the base and of every finished stage."""
    found: Scores = {}
    for number, name in enumerate(["base", *recipe.stages]):
        place = folder / f"{number:02d}-{name}"
        file = place / "scores.json"
        if file.is_file() and (number == 0 or (place / "receipt.json").is_file()):
            results = [TaskResult.model_validate(result) for result in read_json(file)["results"]]
            found |= {name: results} if results else {}
    return found


def _absent(recipe: Recipe, stages: list[StageRecord], scores: Scores) -> list[str]:
    absent = [f"Stage {stage.name} has not finished." for stage in stages if not stage.receipt]
    absent += [
        f"Stage {stage.name} was run with other settings than the recipe has now; run the recipe again."
        for stage in stages
        if stage.receipt and _settings_changed(recipe, stage.name, stage.receipt)
    ]
    if not recipe.evaluation and recipe.suites is None:
        return [*absent, "The recipe has no evaluation: gain and forgetting were not measured."]
    if "base" not in scores:
        absent.append("The base model was not evaluated: gain and forgetting cannot be told.")
    models = language_models(recipe)
    absent += [
        f"Stage {s.name} was not evaluated." for s in stages if s.receipt and s.name in models and s.name not in scores
    ]
    for side, what in (("domain", "gain"), ("general", "forgetting")):
        published = any(result.side == side for results in scores.values() for result in results)
        if not published and not any(task.side == side for task in recipe.evaluation.values()):
            absent.append(f"The recipe has no {side} task: {what} was not measured.")
    return absent


def _settings_changed(recipe: Recipe, name: str, receipt: Receipt) -> bool:
    """Whether a setting that both know differs: the folder then holds an older run's stage."""
    now = recipe.stages[name].model_dump(mode="json", by_alias=True)
    return any(now[key] != value for key, value in receipt.settings.items() if key in now)


def _retention(scores: Scores, absent: list[str]) -> dict[str, Retention]:
    """Each stage against the base, on the tasks that both were tested on with the same items."""
    base = scores.get("base", [])
    found = {}
    for model, results in scores.items():
        if model == "base" or not base:
            continue
        change, left_out = _compared(base, results)
        if left_out:
            absent.append(f"Stage {model} and the base were not tested alike on: {', '.join(left_out)}.")
        if change:
            found[model] = change
    return found


def _against_start(recipe: Recipe, scores: Scores) -> dict[str, Retention]:
    """Stages that learnt from preferences or rewards: what this step alone did to the scores."""
    found = {}
    for name, stage in recipe.stages.items():
        start = recipe.start_of(name)
        if not isinstance(stage, ComparedStage) or not {name, start} <= scores.keys():
            continue
        change, _ = _compared(scores[start], scores[name])
        if change:
            found[name] = change
    return found


def _compared(before: list[TaskResult], after: list[TaskResult]) -> tuple[Retention | None, list[str]]:
    """(the change on what both were tested on alike, the other tasks)."""
    known = {result.name: result for result in before}
    same = [result for result in after if _same_test(known.get(result.name), result)]
    shared = {result.name for result in same}
    left_out = sorted(({result.name for result in after} | set(known)) - shared)
    return compare([known[result.name] for result in same], same) if same else None, left_out


def _same_test(one: TaskResult | None, other: TaskResult) -> bool:
    tests = [(result.items_hash, result.metric, result.n) for result in (one, other) if result]
    return len(tests) == 2 and tests[0] == tests[1]


def _score_rows(scores: Scores) -> list[ScoreRow]:
    rows: dict[str, ScoreRow] = {}
    for model, results in scores.items():
        for result in results:
            fields = result.model_dump(include=set(ScoreRow.model_fields))
            row = rows.setdefault(result.name, ScoreRow(**fields, models={}))
            if row.metric == result.metric:
                row.models[model] = Interval(value=result.value, low=result.low, high=result.high)
    return sorted(rows.values(), key=lambda row: row.side)
