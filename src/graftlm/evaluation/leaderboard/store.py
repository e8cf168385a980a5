"""The leaderboard's file: an embedded SQLite database. What is in it already is not added again."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from graftlm.core.errors import DataError
from graftlm.evaluation.leaderboard.entries import Entry, GroupScore, TaskScore
from graftlm.evaluation.statistics import Scores

APPLICATION = 0x67726674
"""SQLite's application id: "grft"."""
VERSION = 1
SCHEMA = """
CREATE TABLE results (
  id INTEGER PRIMARY KEY, hash TEXT UNIQUE NOT NULL, model TEXT NOT NULL, model_hash TEXT NOT NULL,
  parameters INTEGER, precision TEXT NOT NULL, started TEXT NOT NULL, seconds REAL, machine TEXT NOT NULL,
  settings TEXT NOT NULL, versions TEXT NOT NULL, source TEXT NOT NULL, notes TEXT NOT NULL);
CREATE TABLE tasks (
  result INTEGER NOT NULL REFERENCES results ON DELETE CASCADE, place INTEGER NOT NULL, name TEXT NOT NULL,
  metric TEXT NOT NULL, higher_is_better INTEGER NOT NULL, value REAL NOT NULL, low REAL, high REAL, n INTEGER NOT NULL,
  shots INTEGER, version TEXT NOT NULL, coverage TEXT NOT NULL, items_hash TEXT NOT NULL, seconds REAL,
  metrics TEXT NOT NULL, numerators BLOB, denominators BLOB, PRIMARY KEY (result, place));
CREATE TABLE groups (
  result INTEGER NOT NULL REFERENCES results ON DELETE CASCADE, place INTEGER NOT NULL, name TEXT NOT NULL,
  value REAL NOT NULL, low REAL, high REAL, how TEXT NOT NULL, members TEXT NOT NULL, missing TEXT NOT NULL,
  PRIMARY KEY (result, place));
"""


class Leaderboard:
    """Results in a file; open it with `opened`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def add(self, entry: Entry) -> bool:
        """Whether it was new."""
        with self._connection as connection:
            if connection.execute("SELECT 1 FROM results WHERE hash = ?", (entry.hash,)).fetchone():
                return False
            result = _insert(connection, "results", _result_row(entry))
            for place, task in enumerate(entry.tasks):
                _insert(connection, "tasks", {"result": result, "place": place, **_task_row(task)})
            for place, group in enumerate(entry.groups):
                _insert(connection, "groups", {"result": result, "place": place, **_group_row(group)})
        return True

    def remove(self, hashes: Sequence[str]) -> None:
        with self._connection as connection:
            connection.executemany("DELETE FROM results WHERE hash = ?", [(one,) for one in hashes])

    def entries(self) -> list[Entry]:
        """All results, in the order they were added."""
        tasks = _by_result(self._connection, "tasks", _task)
        groups = _by_result(self._connection, "groups", _group)
        rows = self._connection.execute("SELECT * FROM results ORDER BY id").fetchall()
        return [_entry(row, tasks.get(row["id"], []), groups.get(row["id"], [])) for row in rows]


@contextmanager
def opened(file: Path, *, create: bool = False) -> Iterator[Leaderboard]:
    """The leaderboard of a file.

    Args:
        create: make an empty one where there is no file.

    Raises:
        DataError: no such file; a file of another program or a newer graft; or a broken one.
    """
    if not create and not file.is_file():
        fix = "graft leaderboard add FILE, with results of `graft eval` or lm-evaluation-harness"
        raise DataError("there is no leaderboard yet", where=file, fix=fix)
    file.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(file)
    connection.row_factory = sqlite3.Row
    try:
        connection.execute("PRAGMA foreign_keys = ON")
        _prepare(connection, file)
        yield Leaderboard(connection)
    except (sqlite3.Error, zlib.error, json.JSONDecodeError) as error:
        fix = "move it away and add the results again"
        raise DataError(f"the leaderboard cannot be read or written: {error}", where=file, fix=fix) from None
    finally:
        connection.close()


def _prepare(connection: sqlite3.Connection, file: Path) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    empty = not connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    if empty and application == 0:
        connection.executescript(
            f"BEGIN; PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION}; {SCHEMA} COMMIT;"
        )
        return
    if application != APPLICATION:
        raise DataError("a database, but no leaderboard of graft", where=file, fix="name another file with --store")
    if version > VERSION:
        reason = f"written by a newer graft (format {version}, this one reads {VERSION})"
        raise DataError(reason, where=file, fix="update graft, or name another file with --store")


def _insert(connection: sqlite3.Connection, table: str, row: dict[str, Any]) -> int:
    names = ", ".join(row)
    marks = ", ".join("?" * len(row))
    cursor = connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(row.values()))
    return int(cursor.lastrowid or 0)


def _by_result(connection: sqlite3.Connection, table: str, read: Any) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for row in connection.execute(f"SELECT * FROM {table} ORDER BY result, place"):
        found.setdefault(row["result"], []).append(read(row))
    return found


def _result_row(entry: Entry) -> dict[str, Any]:
    plain = ("hash", "model", "model_hash", "parameters", "precision", "started", "seconds", "machine", "source")
    row = {name: getattr(entry, name) for name in plain}
    return row | {name: _json(getattr(entry, name)) for name in ("settings", "versions", "notes")}


def _entry(row: sqlite3.Row, tasks: list[TaskScore], groups: list[GroupScore]) -> Entry:
    fields = {name: row[name] for name in row.keys() if name != "id"}  # noqa: SIM118  a Row iterates over its values
    fields |= {name: json.loads(row[name]) for name in ("settings", "versions")}
    return Entry(**fields | {"notes": tuple(json.loads(row["notes"])), "tasks": tuple(tasks), "groups": tuple(groups)})


def _task_row(task: TaskScore) -> dict[str, Any]:
    plain = ("name", "metric", "value", "low", "high", "n", "shots", "version", "coverage", "items_hash", "seconds")
    row = {name: getattr(task, name) for name in plain}
    row |= {"higher_is_better": int(task.higher_is_better), "metrics": _json(task.metrics)}
    if task.scores is None:
        return row
    ones = bool((task.scores.denominators == 1).all())
    return row | {
        "numerators": _pack(task.scores.numerators),
        "denominators": None if ones else _pack(task.scores.denominators),
    }


def _task(row: sqlite3.Row) -> TaskScore:
    left_out = ("result", "place", "numerators", "denominators")
    fields = {name: row[name] for name in row.keys() if name not in left_out}  # noqa: SIM118
    fields |= {"higher_is_better": bool(row["higher_is_better"]), "metrics": json.loads(row["metrics"])}
    return TaskScore(**fields, scores=_scores(row))


def _scores(row: sqlite3.Row) -> Scores | None:
    if row["numerators"] is None:
        return None
    top = _unpack(row["numerators"])
    return Scores(top, np.ones_like(top) if row["denominators"] is None else _unpack(row["denominators"]))


def _group_row(group: GroupScore) -> dict[str, Any]:
    row = {name: getattr(group, name) for name in ("name", "value", "low", "high", "how")}
    return row | {"members": _json(group.members), "missing": _json(group.missing)}


def _group(row: sqlite3.Row) -> GroupScore:
    plain = {name: row[name] for name in ("name", "value", "low", "high", "how")}
    return GroupScore(**plain, members=tuple(json.loads(row["members"])), missing=json.loads(row["missing"]))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _pack(values: np.ndarray) -> bytes:
    return zlib.compress(values.astype("<f8").tobytes())


def _unpack(blob: bytes) -> np.ndarray:
    return np.frombuffer(zlib.decompress(blob), dtype="<f8").astype(np.float64)
