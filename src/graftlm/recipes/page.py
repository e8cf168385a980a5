"""The report's page: tables, charts and answers laid out as one self-contained HTML file."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from graftlm.core import page_style
from graftlm.core.receipts import Interval
from graftlm.evaluation.results import SampleAnswer, TaskResult
from graftlm.evaluation.statistics import paired_means
from graftlm.recipes import charts
from graftlm.recipes.alignment_page import alignment, learns_from_judgement
from graftlm.recipes.formatting import count, decimal, decimal_span, duration, percent, short, signed
from graftlm.recipes.gain_map import Point, gain_map
from graftlm.recipes.schema import Recipe
from graftlm.recipes.score_tables import behaviour_table, score_table
from graftlm.recipes.stage_charts import loss_curve
from graftlm.recipes.summary import RunReceipt, Scores
from graftlm.recipes.verdict import headline, verdict_badge, worse


@dataclass(frozen=True)
class Branch:
    """One branch of a recipe that branches: its models, its result, the judgement and how that is to look."""

    path: list[str]
    result: str
    judgement: str
    look: str
    judged: bool


def render(receipt: RunReceipt, recipe: Recipe, scores: Scores, recipe_text: str) -> str:
    """The page as HTML; the template lays out, this gathers."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([Path(__file__).parent, page_style.FOLDER]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"duration": duration, "count": count, "percent": percent, "short": short}
    environment.filters |= {"quoted": shlex.quote, "decimal": decimal, "decimal_span": decimal_span, "signed": signed}
    last = receipt.judged
    output = str(recipe.folder)
    badge, look = verdict_badge(receipt.retention[last] if last else None)
    return environment.get_template("report.html.j2").render(
        run=receipt,
        judgement=badge,
        look=look,
        worse=worse(receipt.retention[last]) if last else [],
        models=list(scores),
        last=last,
        base=recipe.base if isinstance(recipe.base, str) else "new model, trained from nothing",
        hardware=hardware(receipt),
        map=_gain_map(receipt, scores),
        bits=_bits_chart(receipt, list(scores)),
        sides=[(side, score_table(receipt, scores, last, side)) for side in ("domain", "general")],
        answers=_answers(scores, last),
        behaviour=behaviour_table(scores),
        branches=_branches(receipt),
        alignment=alignment(receipt, recipe),
        curves=_loss_curves(receipt, recipe),
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
        model: Point(model, kept[model], score)
        for model, results in scores.items()
        if model in kept and (score := _domain_score(results))
    }
    if len(points) < 2:
        return None
    return Markup(gain_map(list(points.values()), _links(receipt, list(points))))


def _links(receipt: RunReceipt, models: list[str]) -> list[tuple[int, int]]:
    """(place of a model, place of one that was trained from it)."""
    return [
        (models.index(stage.started_from), models.index(stage.name))
        for stage in receipt.stages
        if stage.name in models and stage.started_from in models
    ]


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
    title = "Bits per byte of text (lower is better)"
    return Markup(charts.interval_lines(title, models, rows, _links(receipt, models)))


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


def _branches(receipt: RunReceipt) -> list[Branch]:
    """What became of each branch; none where the recipe has but one."""
    found = []
    for path in receipt.branches if len(receipt.branches) > 1 else []:
        change = receipt.retention.get(path[-1])
        judgement, look = verdict_badge(change)
        result = headline(change) if change else "not evaluated yet"
        found.append(Branch(path, result, judgement, look, path[-1] == receipt.judged))
    return found


def _loss_curves(receipt: RunReceipt, recipe: Recipe) -> dict[str, Markup | None]:
    """Of the stages that learn from texts and answers; the others' are in their own part."""
    found = {}
    for stage in receipt.stages:
        if stage.receipt and not learns_from_judgement(recipe.stages[stage.name]):
            found[stage.name] = loss_curve(stage.receipt, "target token")
    return found


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
            kept_back = counts.get("kept_back", blocks.get(block, {}).get("kept back"))
            lines.append({"block": block, "stages": [stage.name], "counts": counts, "kept_back": kept_back})
    return lines
