"""What a run folder says, as plain data: the content of `receipt.json`, and what the report's page shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from graftlm.core.files import read_json
from graftlm.core.receipts import Interval, Receipt
from graftlm.evaluation.results import TaskResult
from graftlm.evaluation.retention import Change, Retention, SideChange, compare
from graftlm.recipes.formatting import rounded
from graftlm.recipes.schema import Recipe

Scores = dict[str, list[TaskResult]]
"""Results by model: "base" first, then the stages in order; models that were not evaluated are left out."""

METRICS = {
    "accuracy": "right option chosen",
    "exact_match": "answer exactly right",
    "contains": "answer contains the right one",
    "set_f1": "listed items right (F1)",
    "abstention_rate": "admits that it does not know",
    "hallucination_rate": "invents an answer",
    "false_abstention_rate": "declines though it could know",
    "stop_rate": "ends its answer by itself",
    "bits_per_byte": "bits per byte of text, lower is better",
}
BEHAVIOUR = ("stop_rate", "abstention_rate", "hallucination_rate", "false_abstention_rate")


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
    """What a run did, for machines. `retention` compares each evaluated stage with the base, in pairs."""

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
    scores: list[ScoreRow]
    retention: dict[str, Retention]
    stages: list[StageRecord]
    check: dict[str, Any]
    absent: list[str]


@dataclass(frozen=True)
class Cell:
    """A number of a table: the text, its interval, whether it moved for the better (None: unclear)."""

    text: str
    interval: str = ""
    arrow: str = ""
    better: bool | None = None


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
        finished=len(done) == len(stages) and all(name in scores for name in recipe.stages),
        versions=done[-1].versions if done else {},
        headline=headline(last),
        verdict=last.verdict if last else "Gain and forgetting were not measured.",
        verdict_zh=last.verdict_zh if last else "未测量领域提升与遗忘。",
        scores=_score_rows(scores),
        retention=retention,
        stages=stages,
        check=read_json(check) if check.is_file() else {},
        absent=absent,
    )


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
    if not recipe.evaluation:
        return [*absent, "The recipe has no evaluation: gain and forgetting were not measured."]
    if "base" not in scores:
        absent.append("The base model was not evaluated: gain and forgetting cannot be told.")
    absent += [f"Stage {s.name} was not evaluated." for s in stages if s.receipt and s.name not in scores]
    for side, what in (("domain", "gain"), ("general", "forgetting")):
        if not any(task.side == side for task in recipe.evaluation.values()):
            absent.append(f"The recipe has no {side} task: {what} was not measured.")
    return absent


def _settings_changed(recipe: Recipe, name: str, receipt: Receipt) -> bool:
    """Whether a setting that both know differs: the folder then holds an older run's stage."""
    now = recipe.stages[name].model_dump(mode="json", by_alias=True)
    return any(now[key] != value for key, value in receipt.settings.items() if key in now)


def _retention(scores: Scores, absent: list[str]) -> dict[str, Retention]:
    """Each stage against the base, on the tasks that both were tested on with the same items."""
    before = {result.name: result for result in scores.get("base", [])}
    found = {}
    for model, results in scores.items():
        if model == "base" or not before:
            continue
        same = [result for result in results if _same_test(before.get(result.name), result)]
        shared = {result.name for result in same}
        left_out = sorted(({result.name for result in results} | set(before)) - shared)
        if left_out:
            absent.append(f"Stage {model} and the base were not tested alike on: {', '.join(left_out)}.")
        if same:
            found[model] = compare([before[result.name] for result in same], same)
    return found


def _same_test(one: TaskResult | None, other: TaskResult) -> bool:
    tests = [(result.items_hash, result.metric, result.n) for result in (one, other) if result]
    return len(tests) == 2 and tests[0] == tests[1]


def headline(retention: Retention | None) -> str:
    """The result in one sentence: the first domain task, and what is left of the general side."""
    if retention is None:
        return "No scores to compare yet"
    return f"{_gain(retention.domain)}; {_kept(retention.general)}"


def _gain(side: SideChange) -> str:
    if not side.changes:
        return "domain gain not measured"
    first = next((change for change in side.changes if change.higher_is_better), side.changes[0])
    return f"{first.name} {_from_to(first)}"


def _kept(side: SideChange) -> str:
    if not side.changes:
        return "forgetting not measured"
    shares = [change for change in side.changes if change.higher_is_better]
    what = shares[0].name if len(shares) == 1 else f"general ability ({len(shares)} tasks)"
    if side.retained:
        return f"{what} kept {rounded(side.retained.value)} of before"
    first = side.changes[0]
    return f"{first.name} {_from_to(first)}"


def direction(side: SideChange) -> bool | None:
    """Whether a side as a whole clearly got better (True) or worse (False)."""
    if side.difference:
        return side.difference.value > 0 if side.difference.is_clear else None
    if side.count(False):
        return False
    return True if side.count(True) else None


def verdict_badge(retention: Retention | None) -> tuple[str, str]:
    """The verdict in a few words, and how it is to look."""
    if retention is None:
        return "not measured", "neutral"
    gain, kept = direction(retention.domain), direction(retention.general)
    words = {True: "learnt the domain", False: "lost domain knowledge", None: "no clear domain gain"}[gain]
    if not retention.domain.changes:
        words = "domain not tested"
    if not retention.general.changes:
        return f"{words}, forgetting not tested", "neutral"
    after = {True: "improved elsewhere", False: "forgot some of the rest", None: "no clear forgetting"}[kept]
    look = "bad" if gain is False else "good" if gain and kept is not False else "mixed"
    return f"{words}, {after}", look


def worse(retention: Retention) -> list[str]:
    """Every task that lost, of either side: a good mean must not hide it."""
    changes = [*retention.domain.changes, *retention.general.changes]
    return [f"{c.name} {_from_to(c)}" for c in changes if c.better is False]


def _from_to(change: Change) -> str:
    if change.metric == "bits_per_byte":
        return f"{change.before:.2f} → {change.after:.2f} bits per byte"
    return f"{rounded(change.before)} → {rounded(change.after)}"


def _score_rows(scores: Scores) -> list[ScoreRow]:
    rows: dict[str, ScoreRow] = {}
    for model, results in scores.items():
        for result in results:
            fields = result.model_dump(include=set(ScoreRow.model_fields))
            row = rows.setdefault(result.name, ScoreRow(**fields, models={}))
            if row.metric == result.metric:
                row.models[model] = Interval(value=result.value, low=result.low, high=result.high)
    return sorted(rows.values(), key=lambda row: row.side)


# ---- the page ----
