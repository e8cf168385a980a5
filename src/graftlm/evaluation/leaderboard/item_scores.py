"""Scores by item, from the `samples_<task>_<time>.jsonl` of lm-evaluation-harness: they let models compare in pairs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftlm.core.errors import DataError
from graftlm.core.hashing import hash_value
from graftlm.evaluation.statistics import Scores


@dataclass(frozen=True)
class ItemScores:
    """The rows of one task, by filter in the order of the items; hash: of the items."""

    rows: Mapping[str, list[dict[str, Any]]]
    hash: str

    def of(self, metric: str, filter_name: str) -> Scores | None:
        """One metric's scores; None where a row lacks it, or it is no number (a pair of counts, text)."""
        rows = self.rows.get(filter_name) or self.rows.get("none") or next(iter(self.rows.values()))
        values = [row.get(metric) for row in rows]
        if not all(isinstance(value, int | float) for value in values):
            return None
        return Scores.of([float(value) for value in values if value is not None])


def read_item_scores(file: Path) -> dict[str, ItemScores]:
    """By task, from the samples files of the same run as a results file.

    Raises:
        DataError: a line is not JSON.
    """
    time = file.stem.removeprefix("results_")
    found = {}
    for samples in sorted(file.parent.glob(f"samples_*_{time}.jsonl")) if time != file.stem else []:
        task = samples.stem.removeprefix("samples_").removesuffix(f"_{time}")
        rows = [_row(samples, number, line) for number, line in enumerate(_lines(samples), 1) if line.strip()]
        if rows:
            found[task] = _by_filter(rows)
    return found


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").split("\n")


def _row(file: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        reason, fix = f"not valid JSON: {error.msg}", "remove the file, or write it again"
        raise DataError(reason, where=f"{file}:{number}", fix=fix) from None
    if not isinstance(row, dict):
        raise DataError("not a JSON object", where=f"{file}:{number}", fix="remove the file, or write it again")
    return row


def _by_filter(rows: list[dict[str, Any]]) -> ItemScores:
    grouped: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: str(row.get("doc_id", "")).zfill(9)):
        grouped.setdefault(str(row.get("filter", "none")), []).append(row)
    first = next(iter(grouped.values()))
    return ItemScores(grouped, hash_value([_item(row) for row in first]))


def _item(row: Mapping[str, Any]) -> list[Any]:
    return [row.get("doc_id"), row.get("doc_hash") or hash_value(str(row.get("doc"))), row.get("target_hash")]
