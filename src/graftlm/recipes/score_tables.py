"""The report's score tables: every task and model with intervals, and how the models behave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from graftlm.evaluation.results import TaskResult
from graftlm.evaluation.retention import Change
from graftlm.evaluation.statistics import Estimate
from graftlm.recipes.formatting import number, span
from graftlm.recipes.summary import RunReceipt, ScoreRow, Scores

METRICS = {
    "accuracy": "right option chosen",
    "ece": "how far off its confidence is, lower is better",
    "brier": "distance of its probabilities from the answer, lower is better",
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


@dataclass(frozen=True)
class Cell:
    """A number of a table: the text, its interval, whether it moved for the better (None: unclear)."""

    text: str
    interval: str = ""
    arrow: str = ""
    better: bool | None = None


def score_table(receipt: RunReceipt, scores: Scores, last: str | None, side: str) -> list[dict[str, Any]]:
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


def behaviour_table(scores: Scores) -> list[tuple[str, str, list[Cell | None]]]:
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
