"""The report of a run: `receipt.json` for machines, `report.html` for people, both from the run folder alone.

A run that is still going, was killed, or was not evaluated gets a report too; it says what is absent.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2
import numpy as np
from markupsafe import Markup
from pydantic import BaseModel, ConfigDict

from graftlm.core.files import read_json, write_json, write_text
from graftlm.core.receipts import Interval, Receipt
from graftlm.evaluation.results import SampleAnswer, TaskResult
from graftlm.evaluation.retention import Change, Retention, SideChange, compare
from graftlm.evaluation.statistics import Difference, Estimate, paired_means
from graftlm.recipes import charts
from graftlm.recipes.loading import load_recipe
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
LONGEST = 1200
"""Characters of a prompt or answer that the page shows."""


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


def write_report(folder: Path) -> Path:
    """Write `receipt.json` and `report.html` of a run folder; returns the page.

    Raises:
        RecipeError: the folder holds no recipe.yaml.
    """
    recipe = load_recipe(folder / "recipe.yaml")
    scores = read_scores(folder, recipe)
    receipt = gather(folder, recipe, scores)
    write_json(folder / "receipt.json", receipt.model_dump(mode="json"))
    page = folder / "report.html"
    write_text(page, render(receipt, recipe, scores, (folder / "recipe.yaml").read_text(encoding="utf-8")))
    return page


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


def _judgement(retention: Retention | None) -> tuple[str, str]:
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


def _worse(retention: Retention) -> list[str]:
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


def render(receipt: RunReceipt, recipe: Recipe, scores: Scores, recipe_text: str) -> str:
    """The page as HTML; the template lays out, this gathers."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"duration": duration, "count": count, "percent": percent, "short": short}
    environment.filters["quoted"] = shlex.quote
    last = list(receipt.retention)[-1] if receipt.retention else None
    output = recipe.output or f"runs/{recipe.name}"
    judgement, look = _judgement(receipt.retention[last] if last else None)
    return environment.get_template("report.html.j2").render(
        run=receipt,
        judgement=judgement,
        look=look,
        worse=_worse(receipt.retention[last]) if last else [],
        models=list(scores),
        last=last,
        base=recipe.base if isinstance(recipe.base, str) else "new model, trained from nothing",
        hardware=hardware(receipt),
        map=_gain_map(receipt, scores),
        bits=_bits_chart(receipt, list(scores)),
        sides=[(side, _score_table(receipt, scores, last, side)) for side in ("domain", "general")],
        answers=_answers(scores, last),
        behaviour=_behaviour(scores),
        curves={stage.name: _curves(stage) for stage in receipt.stages if stage.receipt},
        done=[stage.receipt for stage in receipt.stages if stage.receipt],
        accounting=_accounting(receipt),
        recipe_text=recipe_text,
        output=output,
        recipe_file=f"{output}/recipe.yaml",
    )


def hardware(receipt: RunReceipt) -> str:
    """As far as the receipts tell: the device's name, or the kind of memory that was measured."""
    if "device" in receipt.versions:
        return receipt.versions["device"]
    memory = next((s.receipt.memory for s in receipt.stages if s.receipt and s.receipt.memory), None)
    if memory is None:
        return "unknown"
    device = "GPU" if memory.what.startswith("GPU") else "CPU"
    return f"{device} ({receipt.versions.get('machine', 'unknown')})"


def _gain_map(receipt: RunReceipt, scores: Scores) -> Markup | None:
    """None where a side has no task scored as a share, or the base scores nothing on the general side."""
    whole = Interval(value=1, low=1, high=1)
    kept = {"base": whole} | {
        model: Interval(value=left.value, low=left.low, high=left.high)
        for model, found in receipt.retention.items()
        if (left := found.general.retained)
    }
    points = {
        model: charts.Point(model, kept[model], score)
        for model, results in scores.items()
        if model in kept and (score := _domain_score(results))
    }
    if len(points) < 2:
        return None
    order = list(points)
    links = [
        (order.index(stage.started_from), order.index(stage.name))
        for stage in receipt.stages
        if stage.name in points and stage.started_from in points
    ]
    return Markup(charts.gain_map(list(points.values()), links))


def _domain_score(results: list[TaskResult]) -> Interval | None:
    """Mean over the domain tasks whose metric is a share, items resampled."""
    shares = [r.headline_scores() for r in results if r.side == "domain" and r.higher_is_better]
    if not shares:
        return None
    mean, _ = paired_means([(scores, scores) for scores in shares])
    low, high = np.nanquantile(mean.samples, [0.025, 0.975])
    return Interval(value=mean.value, low=float(low), high=float(high))


def _bits_chart(receipt: RunReceipt, models: list[str]) -> Markup | None:
    wanted = [row for row in receipt.scores if row.metric == "bits_per_byte"]
    rows = {row.name: [row.models.get(model) for model in models] for row in wanted}
    if not rows:
        return None
    return Markup(charts.interval_lines("Bits per byte of text (lower is better)", models, rows))


def _score_table(receipt: RunReceipt, scores: Scores, last: str | None, side: str) -> list[dict[str, Any]]:
    changes = {
        model: {change.name: change for change in [*found.domain.changes, *found.general.changes]}
        for model, found in receipt.retention.items()
    }
    rows = []
    for row in receipt.scores:
        if row.side != side:
            continue
        rows.append(
            {
                "name": row.name,
                "metric": METRICS.get(row.metric, row.metric.replace("_", " ")),
                "n": row.n,
                "cells": [_score_cell(row, model, changes.get(model, {}).get(row.name)) for model in scores],
                "difference": _difference_cell(changes[last].get(row.name)) if last else None,
                "kinds": _kinds(scores, last, row),
            }
        )
    return rows


def _score_cell(row: ScoreRow, model: str, change: Change | None) -> Cell | None:
    if model not in row.models:
        return None
    found = row.models[model]
    better = change.better if change else None
    return Cell(number(row.metric, found.value), span(row.metric, found), _arrow(change), better)


def _arrow(change: Change | None) -> str:
    if change is None or change.better is None:
        return ""
    return "▲" if change.difference.value > 0 else "▼"


def _difference_cell(change: Change | None) -> Cell | None:
    if change is None:
        return None
    d, share = change.difference, change.metric != "bits_per_byte"
    scale, digits = (100, 1) if share else (1, 3)
    interval = f"{d.low * scale:+.{digits}f} to {d.high * scale:+.{digits}f}"
    text = f"{d.value * scale:+.{digits}f}{' points' if share else ''}"
    return Cell(text.replace("-", "−"), interval.replace("-", "−"), _arrow(change), change.better)


def _kinds(scores: Scores, last: str | None, row: ScoreRow) -> list[dict[str, Any]]:
    """The break-down of a task by kind, base and last."""
    base, after = _by_kind(scores.get("base", []), row.name), _by_kind(scores.get(last or "", []), row.name)
    return [
        {
            "name": kind,
            "n": (base.get(kind) or after[kind]).n,
            "cells": [_estimate_cell(row.metric, found.get(kind)) for found in (base, after)],
        }
        for kind in sorted({*base, *after})
    ]


def _by_kind(results: list[TaskResult], task: str) -> dict[str, Estimate]:
    return next((result.kinds for result in results if result.name == task), {})


def _estimate_cell(metric: str, found: Estimate | None) -> Cell | None:
    return Cell(number(metric, found.value), span(metric, found)) if found else None


def _answers(scores: Scores, last: str | None) -> list[dict[str, Any]]:
    """Answers to the same questions before and after, task by task."""
    results = scores.get(last or "", [])
    after = {(result.name, sample.prompt): sample for result in results for sample in result.samples}
    return [
        {
            "name": result.name,
            "side": result.side,
            "rows": [_answer_row(a, after.get((result.name, a.prompt))) for a in result.samples],
        }
        for result in sorted(scores.get("base", []), key=lambda result: result.side)
        if result.metric != "bits_per_byte" and result.samples
    ]


def _answer_row(before: SampleAnswer, after: SampleAnswer | None) -> dict[str, Any]:
    one_turn = "\nassistant: " not in before.prompt
    prompt = before.prompt.removeprefix("user: ") if one_turn else before.prompt
    return {"prompt": prompt, "reference": before.reference, "before": before, "after": after}


def _behaviour(scores: Scores) -> list[tuple[str, str, list[Cell | None]]]:
    """(task, what, a cell a model) for stopping, abstaining and inventing."""
    rows: dict[tuple[str, str], dict[str, Estimate]] = {}
    for model, results in scores.items():
        for result in results:
            for metric in BEHAVIOUR:
                if metric in result.metrics:
                    rows.setdefault((result.name, metric), {})[model] = result.metrics[metric]
    ordered = sorted(rows.items(), key=lambda row: BEHAVIOUR.index(row[0][1]))
    return [
        (task, METRICS[metric], [_estimate_cell(metric, found.get(model)) for model in scores])
        for (task, metric), found in ordered
    ]


def _curves(stage: StageRecord) -> list[Markup]:
    """The loss; for preferences also accuracy, margin, and how far each answer drifted."""
    assert stage.receipt
    entries, held_out = stage.receipt.losses, stage.receipt.held_out
    per = "pair" if stage.receipt.kind == "dpo" else "target token"
    loss = [charts.Line("training", *_series(entries, "loss"), noisy=True)]
    if held_out:
        loss.append(charts.Line("held-out", *_series(held_out, "loss")))
    wanted: list[tuple[str, list[charts.Line], bool]] = [(f"Loss per {per}", loss, False)]
    extra = {
        "Prefers the chosen answer (%)": (["accuracy"], True),
        "Reward margin, chosen − rejected": (["margin"], False),
        "Log-probability drift from the start": (["chosen_drift", "rejected_drift"], False),
    }
    for title, (names, share) in extra.items():
        lines = [charts.Line(n.removesuffix("_drift"), *_series(entries, n), noisy=True) for n in names]
        wanted.append((title, [line for line in lines if line.x], share))
    return [
        Markup(charts.curves(f"{_identifier(stage.name)}-{place}", title, lines, percent=share))
        for place, (title, lines, share) in enumerate(wanted)
        if any(line.x for line in lines)
    ]


def _series(entries: list[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    found = [(entry["step"], entry[name]) for entry in entries if name in entry]
    return [step for step, _ in found], [value for _, value in found]


def _identifier(name: str) -> str:
    """A name that can stand in an SVG id."""
    return re.sub(r"[^A-Za-z0-9]", lambda letter: f"_{ord(letter[0]):x}", name)


def _accounting(receipt: RunReceipt) -> list[dict[str, Any]]:
    """What became of each block's rows; stages that cut a block alike share a line."""
    lines: list[dict[str, Any]] = []
    blocks = receipt.check.get("blocks", {})
    for stage in receipt.stages:
        for block, counts in (stage.receipt.accounting if stage.receipt else {}).items():
            same = next((line for line in lines if line["block"] == block and line["counts"] == counts), None)
            if same:
                same["stages"].append(stage.name)
                continue
            kept_back = blocks.get(block, {}).get("kept back")
            lines.append({"block": block, "stages": [stage.name], "counts": counts, "kept_back": kept_back})
    return lines


# ---- how numbers are written ----


def number(metric: str, value: float) -> str:
    return f"{value:.3f}" if metric == "bits_per_byte" else f"{value:.1%}"


def rounded(value: float) -> str:
    """Whole percents, but never a 0 % or 100 % that is not one."""
    whole = f"{value:.0%}"
    return f"{value:.1%}" if whole in ("0%", "100%") and value not in (0, 1) else whole


def span(metric: str, found: Interval | Estimate | Difference) -> str:
    return f"{number(metric, found.low)} – {number(metric, found.high)}"


def count(value: float) -> str:
    return f"{value:,.0f}"


def percent(value: float) -> str:
    return f"{value:.1%}"


def duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def short(text: str) -> str:
    """A long text's beginning, with a word on what is left out."""
    left = len(text) - LONGEST
    return text if left <= 0 else f"{text[:LONGEST]} … ({left:,} more characters)"
