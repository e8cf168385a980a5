"""The leaderboard as one self-contained HTML file: nothing is loaded, and it works without a network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from graftlm.core import page_style
from graftlm.evaluation.leaderboard.board import SINGLE, Board, Row
from graftlm.evaluation.leaderboard.cells import Cell, Column
from graftlm.evaluation.leaderboard.entries import Entry
from graftlm.evaluation.leaderboard.labels import remark_in_chinese
from graftlm.evaluation.leaderboard.writing import billions, places, score, span

HERE = Path(__file__).parent
SIZES = ((0, 1), (1, 4), (4, 10), (10, 40), (40, None))
"""Classes of models by billions of parameters: from, below."""


@dataclass(frozen=True)
class Cost:
    """A column of what a model costs; `of` is None where that is not known."""

    english: str
    chinese: str
    of: Callable[[Row], float | str | None]
    write: Callable[[Any], str]


COSTS = (
    Cost("parameters", "参数量", lambda row: row.parameters, billions),
    Cost("precision", "精度", lambda row: row.precision or None, str),
    Cost("weights, GiB", "权重 GiB", lambda row: row.weights_gib, "{:.2f}".format),
    Cost("seconds", "评测秒数", lambda row: row.seconds, "{:.0f}".format),
    Cost("ms / item", "毫秒/题", lambda row: row.seconds_per_item and 1000 * row.seconds_per_item, "{:.1f}".format),
)


@dataclass(frozen=True)
class Choice:
    """An entry of the menu of suites: the places of its columns."""

    name: str
    columns: str


def render_page(board: Board) -> str:
    """The page as HTML; the template lays out, this gathers."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([HERE, page_style.FOLDER]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    columns = list(board.columns.values())
    first = board.columns_of(None)
    script = (HERE / "page.js").read_text(encoding="utf-8")
    return environment.get_template("page.html.j2").render(
        columns=columns,
        costs=[cost for cost in COSTS if any(cost.of(row) is not None for row in board.rows)],
        rows=[_row(row, columns, first[0]) for row in board.sorted_rows(first[0])],
        first=columns.index(first[0]),
        suites=_suites(board, columns, first),
        precisions=sorted({row.precision for row in board.rows if row.precision}),
        sizes=[size for size in SIZES if any(_size(row) == size for row in board.rows)],
        entries=sorted((entry for row in board.rows for entry in row.entries), key=lambda entry: entry.model),
        remarks=any(cell.remark for row in board.rows for cell in row.cells.values()),
        normalised=any("normalised" in column.detail for column in columns),
        provenance=_provenance,
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _row(row: Row, columns: list[Column], first: Column) -> dict[str, Any]:
    size = _size(row)
    return {
        "row": row,
        "places": places(row.cells.get(first.name)),
        "size": "" if size is None else str(SIZES.index(size)),
        "cells": [_cell(column, row.cells.get(column.name)) for column in columns],
    }


def _cell(column: Column, cell: Cell | None) -> dict[str, Any] | None:
    if cell is None:
        return None
    return {
        "value": repr(cell.value),
        "places": places(cell),
        "text": score(column, cell.value),
        "span": span(column, cell),
        "ranked": cell.places is not None,
        "remark": cell.remark,
        "remark_zh": remark_in_chinese(cell.remark),
    }


def _size(row: Row) -> tuple[int, int | None] | None:
    if row.parameters is None:
        return None
    return next(size for size in SIZES if size[1] is None or row.parameters < size[1] * 10**9)


def _suites(board: Board, columns: list[Column], first: list[Column]) -> list[Choice]:
    """The overview, then every suite; each with its columns in their order."""
    choices = [("", first), *((name, board.columns_of(name)) for name in board.suites)]
    return [
        Choice(name, " ".join(str(columns.index(column)) for column in chosen))
        for name, chosen in choices
        if name != SINGLE or len(board.suites) > 1
    ]


def _provenance(entry: Entry) -> dict[str, str]:
    """What a reader needs to judge a result."""
    settings = {name: value for name, value in entry.settings.items() if value is not None}
    missing = [f"{group.name}: {name} ({why})" for group in entry.groups for name, why in group.missing.items()]
    return {
        "settings": ", ".join(f"{name}={value}" for name, value in settings.items()),
        "versions": ", ".join(f"{name} {version}" for name, version in entry.versions.items()),
        "missing": "; ".join(missing),
    }
