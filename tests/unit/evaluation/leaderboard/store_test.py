"""The leaderboard's file keeps what it is given, once, and refuses files that are not its own."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from graftlm.core.errors import DataError
from graftlm.evaluation.leaderboard.entries import Entry, GroupScore, entry_of
from graftlm.evaluation.leaderboard.store import VERSION, opened
from graftlm.evaluation.results import EvaluationResult, GroupResult, TaskResult
from graftlm.evaluation.statistics import Estimate, Scores
from tests.unit.evaluation.leaderboard.conftest import HOSTILE, random_entries, scored

Make = Callable[..., Entry]


def same(one: Entry, other: Entry) -> bool:
    """Equal, scores by item too."""
    for mine, its in zip(one.tasks, other.tasks, strict=True):
        assert (mine.scores is None) == (its.scores is None)
        if mine.scores is not None and its.scores is not None:
            np.testing.assert_array_equal(mine.scores.numerators, its.scores.numerators)
            np.testing.assert_array_equal(mine.scores.denominators, its.scores.denominators)
    plain = [replace(entry, tasks=tuple(replace(t, scores=None) for t in entry.tasks)) for entry in (one, other)]
    return plain[0] == plain[1]


def test_entries_come_back_as_they_were(tmp_path: Path, make_entry: Make) -> None:
    micro = replace(scored("f1", [0.0] * 4), scores=Scores.of([1.0, 0, 2, 5], [2.0, 1, 2, 7]), metrics={"recall": 0.5})
    bare = replace(scored("bare", [1.0]), scores=None, low=None, high=None, shots=None, coverage="8 of 57 sub-tasks")
    group = GroupScore("suite", 12.5, None, None, "mean of its members", ("f1", "bare"), {"more": "no data: \"x\""})
    full = make_entry("a", (micro, bare), (group,), settings={"limit": 5, "template": None, "on": True, "t": 0.5})
    empty = make_entry("b", parameters=None, seconds=None, notes=("read this",))
    given = [full, empty, *random_entries(make_entry, len(HOSTILE))]
    with opened(tmp_path / "board.sqlite", create=True) as board:
        assert all(board.add(entry) for entry in given)
    with opened(tmp_path / "board.sqlite") as board:
        found = board.entries()
    assert len(found) == len(given) and all(map(same, given, found))


def test_nothing_is_added_twice(tmp_path: Path, make_entry: Make) -> None:
    with opened(tmp_path / "board.sqlite", create=True) as board:
        assert board.add(make_entry("a", (scored("x", [1.0, 0.0]),)))
        assert not board.add(make_entry("a", (scored("x", [1.0, 0.0]),)))
        assert len(board.entries()) == 1


def test_removed_with_all_that_belongs_to_it(tmp_path: Path, make_entry: Make) -> None:
    file = tmp_path / "board.sqlite"
    with opened(file, create=True) as board:
        for entry in random_entries(make_entry, 3):
            board.add(entry)
        board.remove([board.entries()[1].hash])
        assert len(board.entries()) == 2
    rows = sqlite3.connect(file).execute("SELECT DISTINCT result FROM tasks UNION SELECT result FROM groups").fetchall()
    assert len(rows) == 2


def test_many_items_take_little_room(tmp_path: Path, make_entry: Make) -> None:
    """14,042 items of MMLU, right or wrong: 8 bytes each before, 1 bit of information each."""
    right = (np.random.default_rng(0).random(14_042) < 0.6).astype(float).tolist()
    file = tmp_path / "board.sqlite"
    with opened(file, create=True) as board:
        board.add(make_entry("a", (scored("mmlu", right),)))
    assert file.stat().st_size < 60_000


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no leaderboard yet"), opened(tmp_path / "none.sqlite"):
        pass
    assert not (tmp_path / "none.sqlite").exists()


def test_a_broken_file(tmp_path: Path, make_entry: Make) -> None:
    file = tmp_path / "board.sqlite"
    with opened(file, create=True) as board:
        for entry in random_entries(make_entry, 20):
            board.add(entry)
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"board\.sqlite: the leaderboard cannot be read"), opened(file) as board:
        board.entries()
    file.write_text("this is no database, but a text that is long enough to be looked at " * 20)
    with pytest.raises(DataError, match="not a database") as caught, opened(file, create=True):
        pass
    assert caught.value.fix


def test_a_newer_file_and_another_programs(tmp_path: Path) -> None:
    with opened(tmp_path / "new.sqlite", create=True):
        pass
    connection = sqlite3.connect(tmp_path / "new.sqlite")
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    with pytest.raises(DataError, match="newer graft"), opened(tmp_path / "new.sqlite"):
        pass
    connection = sqlite3.connect(tmp_path / "other.sqlite")
    connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()
    with pytest.raises(DataError, match="no leaderboard of graft"), opened(tmp_path / "other.sqlite", create=True):
        pass


def test_a_result_of_graft_loses_nothing() -> None:
    task = TaskResult(
        name="exam", side="general", metric="acc", higher_is_better=True, value=0.5, low=0.2, high=0.8, n=2,
        metrics={"acc": Estimate(value=0.5, low=0.2, high=0.8, n=2), "f1": Estimate(value=0.4, low=0, high=1, n=2)},
        kinds={}, scores=[1.0, 0.0], weights=[1.0, 1.0], samples=[], items_hash="abc", seconds=2.0, version="3",
        shots=5, coverage="2 of 9 items",
    )  # fmt: skip
    group = GroupResult(name="suite", value=50, low=20, high=80, how="mean", members=["exam"], missing={"b": "no data"})
    result = EvaluationResult(
        model="m", model_hash="h", parameters=0, precision="fp32", started="2026-01-01T00:00:00Z", seconds=3.0,
        machine="CPU", settings={"limit": None}, versions={"graft": "1"}, tasks=[task], groups=[group],
    )  # fmt: skip
    entry = entry_of(result)
    assert entry.parameters is None  # 0 stands for unknown
    for name in ("model", "model_hash", "precision", "started", "seconds", "machine", "settings", "versions", "source"):
        assert getattr(entry, name) == getattr(result, name)
    [kept] = entry.tasks
    plain = ("name", "metric", "value", "low", "high", "n", "version", "shots", "coverage", "items_hash", "seconds")
    for name in plain:
        assert getattr(kept, name) == getattr(task, name)
    assert kept.metrics == {"f1": 0.4} and kept.scores is not None and kept.scores.numerators.tolist() == [1, 0]
    assert {f.name: getattr(entry.groups[0], f.name) for f in fields(GroupScore)} == {
        **group.model_dump(include={f.name for f in fields(GroupScore)}), "members": ("exam",),
    }  # fmt: skip
    assert entry_of(result, "other").hash != entry.hash
