"""The leaderboard as a table: a row a model, a column a suite, benchmark or task."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from graftlm.core.errors import DataError
from graftlm.evaluation.leaderboard.cells import Cell, Column, Found, fill_column
from graftlm.evaluation.leaderboard.entries import Entry, GroupScore, TaskScore, same_model

SINGLE = "other tasks"
"""The suite of the tasks that belong to no group."""
BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.0, "fp8": 1.0, "int4": 0.5, "nf4": 0.5}


@dataclass
class Row:
    """A model; entries: newest first."""

    model: str
    variant: str
    entries: list[Entry]
    cells: dict[str, Cell] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"{self.model} ({self.variant})" if self.variant else self.model

    @property
    def parameters(self) -> int | None:
        return next((entry.parameters for entry in self.entries if entry.parameters), None)

    @property
    def precision(self) -> str:
        return self.entries[0].precision

    @property
    def weights_gib(self) -> float | None:
        """From parameters and precision; None where either is unknown."""
        width = BYTES.get(self.precision)
        return self.parameters * width / 2**30 if self.parameters and width else None

    @property
    def seconds(self) -> float | None:
        """Of all its evaluations."""
        told = [entry.seconds for entry in self.entries if entry.seconds is not None]
        return sum(told) if told else None

    @property
    def seconds_per_item(self) -> float | None:
        """Over the evaluations that tell both."""
        told = [(e.seconds, sum(task.n for task in e.tasks)) for e in self.entries if e.seconds is not None]
        items = sum(count for _, count in told)
        return sum(seconds for seconds, _ in told) / items if items else None


@dataclass(frozen=True)
class Board:
    """suites: name → its columns, the suite's own first. top: the suites that are no member of another."""

    columns: dict[str, Column]
    rows: list[Row]
    suites: dict[str, list[str]]
    top: list[str]

    def column(self, name: str) -> Column:
        """A column by its name.

        Raises:
            DataError: there is none.
        """
        if name not in self.columns:
            raise DataError(f"no column {name!r}", where="leaderboard", fix=_nearest(name, self.columns))
        return self.columns[name]

    def columns_of(self, suite: str | None) -> list[Column]:
        """The columns of a suite; without one, every suite's own and the tasks that stand alone, if there are several.

        Raises:
            DataError: no such suite.
        """
        alone = self.suites.get(SINGLE, [])
        if suite is None and (alone or len(self.top) > 1):
            return [self.columns[name] for name in (*self.top, *alone)]
        suite = suite or self.top[0]
        if suite not in self.suites:
            raise DataError(f"no suite {suite!r}", where="leaderboard", fix=_nearest(suite, self.suites))
        return [self.columns[name] for name in self.suites[suite]]

    def sorted_rows(self, column: Column) -> list[Row]:
        """Best first; then what is not ranked; then models without that score."""

        def key(row: Row) -> tuple[int, float, str]:
            cell = row.cells.get(column.name)
            if cell is None:
                return 2, 0, row.label
            return int(cell.places is None), -cell.value if column.higher_is_better else cell.value, row.label

        return sorted(self.rows, key=key)


def build_board(entries: Sequence[Entry]) -> Board:
    """Everything that is in the leaderboard, ranked."""
    rows = _rows(entries)
    found: dict[str, dict[int, Found]] = {}
    for number, row in enumerate(rows):
        for name, score in _newest(row).items():
            found.setdefault(name, {})[number] = score
    suites, top = _suites(entries)
    columns = {}
    for name in dict.fromkeys([*(member for members in suites.values() for member in members), *found]):
        if name not in found:
            continue  # a member that nobody ran
        columns[name], cells = fill_column(name, found[name])
        for number, cell in cells.items():
            rows[number].cells[name] = cell
    return Board(columns, rows, {suite: [n for n in names if n in columns] for suite, names in suites.items()}, top)


def _nearest(name: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.4) or list(known)[:12]
    return f"one of: {', '.join(close)}" if close else "add results first"


def _rows(entries: Sequence[Entry]) -> list[Row]:
    """Rows of one model name say what sets them apart."""
    grouped = same_model(entries)
    rows = []
    for key, own in grouped.items():
        twins = [other for other in grouped if other[0] == key[0]]
        apart = [key[2]] if len({twin[2] for twin in twins}) > 1 else []
        apart += [key[1][:8]] if len({twin[1] for twin in twins}) > 1 else []
        apart += _unlike(own[0], [grouped[twin][0] for twin in twins])
        rows.append(Row(key[0], ", ".join(part for part in apart if part), own))
    return rows


def _unlike(entry: Entry, twins: list[Entry]) -> list[str]:
    """The settings that differ among entries of one name."""
    keys = sorted({key for twin in twins for key in twin.settings})
    differing = [key for key in keys if len({str(twin.settings.get(key)) for twin in twins}) > 1]
    return [f"{key}={entry.settings[key]}" for key in differing if entry.settings.get(key) is not None]


def _newest(row: Row) -> dict[str, Found]:
    """Each column's newest score; a group before a task of its name."""
    found: dict[str, Found] = {}
    for entry in row.entries:
        scores: list[GroupScore | TaskScore] = [*entry.groups, *entry.tasks]
        for score in scores:
            found.setdefault(score.name, (entry, score))
    return found


def _suites(entries: Sequence[Entry]) -> tuple[dict[str, list[str]], list[str]]:
    """Every group with its members, and what stands alone; and the names of those that are no member of another."""
    groups: dict[str, list[str]] = {}
    tasks: dict[str, None] = {}
    for entry in entries:
        for group in entry.groups:
            known = groups.setdefault(group.name, [])
            known += [name for name in group.members if name not in known and name != group.name]
        tasks |= dict.fromkeys(task.name for task in entry.tasks)
    inner = {member for members in groups.values() for member in members}
    top = [name for name in groups if name not in inner] or list(groups)
    alone = [name for name in tasks if name not in inner and name not in groups]
    shown = {name: [name, *members] for name, members in groups.items() if name in top or len(members) > 1}
    return shown | ({SINGLE: alone} if alone else {}), top
