"""Two models in pairs where they answered the same items, and the reason where not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from graftlm.core.errors import DataError
from graftlm.evaluation.leaderboard.board import build_board
from graftlm.evaluation.leaderboard.comparison import compare_rows, find_row
from graftlm.evaluation.leaderboard.entries import Entry
from graftlm.evaluation.statistics import Scores, paired_difference
from tests.unit.evaluation.leaderboard.conftest import scored

Make = Callable[..., Entry]
FEW, MANY = [1.0] * 10 + [0.0] * 30, [1.0] * 22 + [0.0] * 18


def test_differences_in_pairs(make_entry: Make) -> None:
    one = make_entry("a", (scored("x", FEW), scored("y", FEW), scored("only a", FEW)))
    other = make_entry("b", (scored("x", MANY), scored("y", FEW), scored("only b", FEW)))
    rows = build_board([one, other]).rows
    found = compare_rows(find_row(rows, "a"), find_row(rows, "b"))
    x, y = found.rows
    assert x.difference == paired_difference(Scores.of(FEW), Scores.of(MANY))
    assert x.difference is not None and x.difference.value == pytest.approx(0.3) and x.difference.p < 0.01
    assert y.difference is not None and y.difference.value == 0 and y.difference.p == 1
    assert found.overall is not None and found.overall.value == pytest.approx(0.15)
    assert (found.only_first, found.only_second) == (["only a"], ["only b"])


@pytest.mark.parametrize(("change", "why"), [
    ({"items_hash": "others"}, "other items"),
    ({"items_hash": ""}, "other items"),
    ({"scores": None}, "no scores by item"),
    ({"metric": "f1"}, "another metric: accuracy, f1"),
    ({"shots": 5}, "another number of shots: 0, 5"),
    ({"version": "2"}, "another version: 1, 2"),
])  # fmt: skip
def test_no_p_without_pairs(make_entry: Make, change: dict[str, object], why: str) -> None:
    task = scored("x", FEW)
    rows = build_board([make_entry("a", (task,)), make_entry("b", (replace(task, **change),))]).rows  # type: ignore[arg-type]
    found = compare_rows(find_row(rows, "a"), find_row(rows, "b"))
    assert (found.rows[0].difference, found.rows[0].why, found.overall) == (None, why, None)


def test_models_are_found_or_named(make_entry: Make) -> None:
    task = (scored("x", FEW),)
    rows = build_board([
        make_entry("llama", task, precision="bf16"), make_entry("llama", task, precision="int4"), make_entry("b", task),
    ]).rows  # fmt: skip
    assert find_row(rows, "llama (int4)").precision == "int4"
    with pytest.raises(DataError, match=r"2 rows .*\n.*llama \(bf16\); llama \(int4\)"):
        find_row(rows, "llama")
    with pytest.raises(DataError, match=r"no model 'lama'\n.*llama"):
        find_row(rows, "lama")
    with pytest.raises(DataError, match="no task in common"):
        compare_rows(rows[0], build_board([make_entry("c", (scored("z", FEW),))]).rows[0])
