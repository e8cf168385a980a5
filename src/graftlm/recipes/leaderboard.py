"""`graft leaderboard`: what each of its commands does and prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from graftlm.core.console import say
from graftlm.core.errors import DataError
from graftlm.core.files import write_text
from graftlm.evaluation.leaderboard.board import Board, build_board
from graftlm.evaluation.leaderboard.cells import Cell, Column
from graftlm.evaluation.leaderboard.comparison import Compared, compare_rows, find_row
from graftlm.evaluation.leaderboard.entries import Entry
from graftlm.evaluation.leaderboard.page import render_page
from graftlm.evaluation.leaderboard.reading import read_result, result_files
from graftlm.evaluation.leaderboard.store import opened
from graftlm.evaluation.leaderboard.writing import billions, places, printable, score, short, span
from graftlm.evaluation.statistics import Difference


def add_results(paths: Sequence[Path], store: Path, model: str | None = None) -> None:
    """Add files, folders of results, and run folders; all are read before the first is added.

    Args:
        model: the name to list it under; for a single result.

    Raises:
        GraftError: something cannot be read, or one name for several results.
    """
    entries = [entry for path in paths for entry in _read(path, model)]
    if model and len(entries) > 1:
        raise DataError(f"one name for {len(entries)} results", where="--name", fix="add them one by one")
    with opened(store, create=True) as leaderboard:
        for entry in entries:
            verb = "added" if leaderboard.add(entry) else "already there"
            say(Text(f"{verb}: {printable(entry.model)} ({entry.source}, {len(entry.tasks)} tasks, {entry.hash[:8]})"))
            for note in entry.notes:
                say(Text(f"  {printable(note)}"))
            for group in entry.groups:
                for member, reason in group.missing.items():
                    say(Text(f"  {printable(group.name)} lacks {printable(member)}: {printable(reason)}"))


def _read(path: Path, model: str | None) -> list[Entry]:
    if (path / "recipe.yaml").is_file():
        from graftlm.recipes.run_results import run_entries  # recipes load torch and peft, which takes seconds

        return run_entries(path)
    return [read_result(file, model) for file in (result_files(path) if path.is_dir() else [path])]


def show(store: Path, suite: str | None, sort: str | None) -> None:
    """Print the leaderboard: a suite with its members, or one column for every suite.

    Raises:
        DataError: no leaderboard, no such suite or column.
    """
    board = _board(store)
    columns = board.columns_of(suite)
    by = board.column(sort) if sort else columns[0]
    columns = columns if by in columns else [by, *columns]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("rank", no_wrap=True)
    table.add_column("model", overflow="fold", min_width=24)
    table.add_column("size", justify="right", no_wrap=True)
    for column in columns:
        mark = ("▼" if column.higher_is_better else "▲") if column == by else ""
        name = f"{short(column.name)}{mark}"
        table.add_column(Text(f"{name}\n{printable(column.detail)}"), justify="right", min_width=min(len(name), 16))
    for row in board.sorted_rows(by):
        if not any(column.name in row.cells for column in columns):
            continue
        cells = [_cell(column, row.cells.get(column.name)) for column in columns]
        size = " ".join(part for part in (billions(row.parameters), row.precision) if part)
        table.add_row(places(row.cells.get(by.name)), Text(short(row.label)), size, *cells)
    say(table)
    for line in _legend(board, columns, suite):
        say(Text(line))


def _cell(column: Column, cell: Cell | None) -> Text:
    if cell is None:
        return Text("–", style="dim")
    text = Text(score(column, cell.value))
    return text.append("".join(f"\n{line}" for line in (span(column, cell), cell.remark) if line), style="dim")


def _legend(board: Board, columns: list[Column], suite: str | None) -> list[str]:
    ranges = "rank: the places a model may hold, given who is clearly better or worse; below scores: 95 % intervals"
    lines = ["", ranges]
    lines += [f"{short(c.name)}: {printable(c.coverage)}" for c in columns if c.coverage]
    if any(row.cells[c.name].remark for row in board.rows for c in columns if c.name in row.cells):
        lines.append("only scores got by the same rules are ranked; remarks tell what differs or is missing")
    if suite is None and board.suites:
        lines.append(f"suites: {', '.join(printable(name) for name in board.suites)}; one of them: --suite NAME")
    return lines


def write_page(store: Path, out: Path) -> None:
    """Write the leaderboard as one HTML file."""
    write_text(out, render_page(_board(store)))
    say(str(out))


def compare(store: Path, first: str, second: str) -> None:
    """Print two models task by task, paired where they answered the same items.

    Raises:
        DataError: no such model, or no task in common.
    """
    rows = _board(store).rows
    one, other = find_row(rows, first), find_row(rows, second)
    found = compare_rows(one, other)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("task", overflow="fold")
    for name in ("A", "B", "B - A", "95 % interval", "p", "items"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for row in found.rows:
        table.add_row(Text(f"{short(row.name)}, {short(row.metric)}"), *_comparison_cells(row))
    if found.overall:
        table.add_row("mean of the paired shares", "", "", *_difference_cells(found.overall, 100), "")
    say(Text(f"A: {printable(one.label)}\nB: {printable(other.label)}\n"))
    say(table)
    for line in _comparison_legend(found.only_first, found.only_second, sum(1 for row in found.rows if row.difference)):
        say(Text(line))


def _comparison_cells(row: Compared) -> list[str]:
    scale = 100 if row.is_share else 1
    values = [_number(scale * row.first, row.is_share), _number(scale * row.second, row.is_share)]
    if row.difference:
        return [*values, *_difference_cells(row.difference, scale), _verdict(row)]
    return [*values, _number(scale * (row.second - row.first), row.is_share, signed=True), "", "", "", row.why]


def _difference_cells(found: Difference, scale: int) -> list[str]:
    points = scale == 100
    low, high = (_number(scale * bound, points, signed=True) for bound in (found.low, found.high))
    return [_number(scale * found.value, points, signed=True), f"{low} to {high}", f"{found.p:.3f}", f"{found.n:,}"]


def _number(value: float, points: bool, *, signed: bool = False) -> str:
    return f"{value:{'+' if signed else ''}.{1 if points else 3}f}"


def _verdict(row: Compared) -> str:
    if row.difference is None or not row.difference.is_clear:
        return "unclear"
    return "B better" if (row.difference.value > 0) == row.higher_is_better else "A better"


def _comparison_legend(only_first: list[str], only_second: list[str], tests: int) -> list[str]:
    lines = [""]
    if tests > 1:
        lines.append(f"{tests} tests at 5 %: of equal models, {tests * 0.05:.1f} would look different by chance")
    for name, tasks in (("A", only_first), ("B", only_second)):
        if tasks:
            more = f" and {len(tasks) - 5} more" if len(tasks) > 5 else ""
            lines.append(f"only {name}: {', '.join(printable(task) for task in tasks[:5])}{more}")
    return lines


def remove_results(names: Sequence[str], store: Path) -> None:
    """Remove every result of a model, or one by its hash.

    Raises:
        DataError: a name that is neither.
    """
    with opened(store) as leaderboard:
        entries = leaderboard.entries()
        rows = build_board(entries).rows
        doomed: dict[str, Entry] = {}
        for name in names:
            by_hash = [entry for entry in entries if len(name) >= 6 and entry.hash.startswith(name)]
            own = [entry for entry in entries if entry.model == name]
            doomed |= {entry.hash: entry for entry in by_hash or own or find_row(rows, name).entries}
        leaderboard.remove(list(doomed))
    for entry in doomed.values():
        say(Text(f"removed: {printable(entry.model)} ({entry.source}, {len(entry.tasks)} tasks, {entry.hash[:8]})"))


def _board(store: Path) -> Board:
    with opened(store) as leaderboard:
        entries = leaderboard.entries()
    if not entries:
        raise DataError("the leaderboard is empty", where=store, fix="graft leaderboard add FILE")
    return build_board(entries)
