"""The report's page: tables, charts and answers laid out as one self-contained HTML file."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from graftlm.core.receipts import Interval
from graftlm.evaluation.results import SampleAnswer, TaskResult
from graftlm.evaluation.retention import Change
from graftlm.evaluation.statistics import Estimate, paired_means
from graftlm.recipes import charts
from graftlm.recipes.formatting import count, duration, number, percent, short, span
from graftlm.recipes.schema import Recipe
from graftlm.recipes.summary import (
    BEHAVIOUR,
    METRICS,
    Cell,
    RunReceipt,
    ScoreRow,
    Scores,
    StageRecord,
    verdict_badge,
    worse,
)


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
