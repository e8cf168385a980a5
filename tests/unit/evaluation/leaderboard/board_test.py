"""Rows, columns and suites of the board, and which scores it lets compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from graftlm.core.errors import DataError
from graftlm.evaluation.leaderboard.board import SINGLE, build_board
from graftlm.evaluation.leaderboard.entries import Entry, GroupScore, TaskScore
from tests.unit.evaluation.leaderboard.conftest import random_entries, scored

Make = Callable[..., Entry]


def bare(name: str, value: float, half: float = 0.01, **more: object) -> TaskScore:
    """A task as lm-eval tells it: no scores by item."""
    told = {"metric": "acc", "higher_is_better": True, "value": value, "low": value - half, "high": value + half}
    return TaskScore(**{"name": name, **told, **more})  # type: ignore[arg-type]


def group(name: str, value: float, members: tuple[str, ...], missing: dict[str, str] | None = None) -> GroupScore:
    return GroupScore(name, value, value - 1, value + 1, "mean of its members", members, missing or {})


def places(entries: list[Entry], column: str) -> dict[str, tuple[int, int] | None]:
    return {row.model: row.cells[column].places for row in build_board(entries).rows if column in row.cells}


def test_points_of_100_and_other_units(make_entry: Make) -> None:
    bits = bare("text", 0.7, metric="bits_per_byte", higher_is_better=False)
    board = build_board([make_entry("a", (bare("exam", 0.5), bits)), make_entry("b", (bare("exam", 0.6),))])
    cells = board.rows[0].cells
    assert (cells["exam"].value, cells["exam"].low, cells["exam"].high) == (50, 49, 51)
    assert cells["text"].value == 0.7
    assert (board.columns["exam"].points, board.columns["text"].points) == (True, False)


@pytest.mark.parametrize(("metric", "value", "share"), [
    ("letter", 0.5, True), ("acc_norm", 1.0, True), ("ter", 0.5, False), ("bits_per_byte", 0.7, False),
    ("word_perplexity", 1.0, False), ("rouge", 31.2, False), ("exact_match (strict-match)", 0.0, True),
])  # fmt: skip
def test_what_is_a_share_of_100(metric: str, value: float, share: bool) -> None:
    assert bare("t", value, metric=metric).is_share is share


def test_lower_is_better_where_it_is(make_entry: Make) -> None:
    entries = [make_entry(m, (bare("t", v, 0.1, metric="word_perplexity", higher_is_better=False),))
               for m, v in (("low", 9.0), ("high", 12.0))]  # fmt: skip
    assert places(entries, "t") == {"low": (1, 1), "high": (2, 2)}
    board = build_board(entries)
    assert [row.model for row in board.sorted_rows(board.columns["t"])] == ["low", "high"]


@pytest.mark.parametrize(("change", "remark"), [
    ({"metric": "acc_norm"}, "metric: acc_norm"),
    ({"shots": 0}, "shots: 0"),
    ({"n": 7}, "other items"),
    ({"items_hash": "other"}, "other items"),
    ({"version": "2"}, "version: 2"),
    ({"coverage": "8 of 57 sub-tasks"}, "other coverage"),
])  # fmt: skip
def test_scores_got_by_other_rules_have_no_rank(make_entry: Make, change: dict[str, object], remark: str) -> None:
    usual = bare("exam", 0.5, shots=5, n=100, items_hash="items", version="1")
    entries = [make_entry("a", (usual,)), make_entry("b", (usual,)), make_entry("odd", (replace(usual, **change),))]  # type: ignore[arg-type]
    odd = next(row for row in build_board(entries).rows if row.model == "odd").cells["exam"]
    assert (odd.places, odd.remark) == (None, remark)
    assert places(entries, "exam")["a"] == (1, 2)


def test_what_is_not_known_is_no_difference(make_entry: Make) -> None:
    """lm-eval numbers its versions for itself, and does not tell which items it asked."""
    mine = make_entry("graft", (bare("exam", 0.5, shots=5, n=100, items_hash="items", version="1"),))
    theirs = make_entry("harness", (bare("exam", 0.9, shots=None, version="3"),), source="lm-eval")
    assert places([mine, theirs], "exam") == {"graft": (2, 2), "harness": (1, 1)}


def test_incomplete_means_rank_only_among_their_like(make_entry: Make) -> None:
    whole, part = ("x", "y"), {"y": "no data"}
    entries = [
        make_entry("whole", groups=(group("s", 50, whole),)),
        make_entry("part", groups=(group("s", 90, whole, part),)),
        make_entry("alike", groups=(group("s", 80, whole, part),)),
    ]
    assert places(entries, "s") == {"whole": (1, 1), "part": None, "alike": None}
    remarks = [row.cells["s"].remark for row in build_board(entries).rows]
    assert sorted(remarks) == ["", "1 of 2 members", "1 of 2 members"]
    assert places(entries[1:], "s") == {"part": (1, 1), "alike": (2, 2)}


def test_means_made_by_another_rule_do_not_compare(make_entry: Make) -> None:
    raw, normal = group("s", 40, ("x", "y")), replace(group("s", 20, ("x", "y")), how="mean of normalised scores")
    entries = [make_entry("a", groups=(raw,)), make_entry("b", groups=(raw,)), make_entry("c", groups=(normal,))]
    assert places(entries, "s")["c"] is None


def test_means_over_the_same_items_are_compared_in_pairs(make_entry: Make) -> None:
    """Overlapping intervals, but the second is right wherever the first is, and more often."""
    def entry(model: str, extra: int) -> Entry:
        tasks = tuple(scored(f"t{k}", [1.0] * 50 + [1.0] * extra + [0.0] * (50 - extra)) for k in range(2))
        return make_entry(model, tasks, (group("s", 50 + extra, ("t0", "t1")),))

    entries = [entry("first", 0), entry("second", 1), entry("third", 12)]
    wide = [replace(e, groups=(replace(e.groups[0], low=0, high=100),)) for e in entries]
    assert places(wide, "s") == {"first": (2, 3), "second": (2, 3), "third": (1, 1)}
    not_the_mean = [replace(e, groups=(replace(e.groups[0], value=e.groups[0].value / 2),)) for e in wide]
    assert set(places(not_the_mean, "s").values()) == {(1, 3)}


def test_the_newest_score_of_a_model_counts(make_entry: Make) -> None:
    old = make_entry("a", (bare("exam", 0.5), bare("other", 0.4)), hash="1", started="2026-01-01T00:00:00Z")
    new = make_entry("a", (bare("exam", 0.7),), hash="2", started="2026-02-01T00:00:00Z")
    [row] = build_board([new, old]).rows
    assert (row.cells["exam"].value, row.cells["other"].value) == (70, 40)


def test_rows_of_one_name_say_what_sets_them_apart(make_entry: Make) -> None:
    task = (bare("exam", 0.5),)
    entries = [
        make_entry("a", task, settings={"template": None, "limit": 5}),
        make_entry("a", task, settings={"template": "llama2", "limit": 5}),
        make_entry("b", task, precision="bf16"),
        make_entry("b", task, precision="int4"),
        make_entry("c", task, model_hash="1234567890"),
        make_entry("c", task, model_hash="abcdefghij"),
        make_entry("d", task),
    ]
    labels = {row.label for row in build_board(entries).rows}
    assert labels == {"a", "a (template=llama2)", "b (bf16)", "b (int4)", "c (12345678)", "c (abcdefgh)", "d"}


def test_suites_with_their_members_and_what_stands_alone(make_entry: Make) -> None:
    groups = (group("big", 50, ("small", "t1")), group("small", 40, ("t2", "t3")))
    entry = make_entry("a", tuple(bare(name, 0.5) for name in ("t1", "t2", "t3", "alone")), groups)
    board = build_board([entry])
    assert board.suites == {"big": ["big", "small", "t1"], "small": ["small", "t2", "t3"], SINGLE: ["alone"]}
    assert [column.name for column in board.columns_of(None)] == ["big", "alone"]
    only = build_board([replace(entry, tasks=entry.tasks[:3])])
    assert [column.name for column in only.columns_of(None)] == ["big", "small", "t1"]


def test_a_suite_none_of_whose_members_was_run_alone(make_entry: Make) -> None:
    board = build_board([make_entry("a", (bare("t1", 0.5),), (group("s", 50, ("t1", "t2"), {"t2": "no data"}),))])
    assert [column.name for column in board.columns_of("s")] == ["s", "t1"]


def test_unknown_names_get_the_nearest(make_entry: Make) -> None:
    board = build_board([make_entry("a", (bare("exam", 0.5),), (group("open-llm-v2", 50, ("exam",)),))])
    with pytest.raises(DataError, match="one of: open-llm-v2"):
        board.columns_of("open-lm-v2")
    with pytest.raises(DataError, match="one of: exam"):
        board.column("exm")


def test_groups_that_contain_each_other_are_shown_all_the_same(make_entry: Make) -> None:
    board = build_board([make_entry("a", groups=(group("x", 1, ("y", "x")), group("y", 2, ("x",))))])
    assert set(board.columns) == {"x", "y"} and board.columns_of(None)


def test_cost(make_entry: Make) -> None:
    [row] = build_board([make_entry("a", (bare("t", 0.5, n=200),), parameters=2**30, precision="int4")]).rows
    assert (row.weights_gib, row.seconds, row.seconds_per_item) == (0.5, 60, 0.3)
    [row] = build_board([make_entry("a", (bare("t", 0.5),), parameters=None, precision="odd", seconds=None)]).rows
    assert (row.weights_gib, row.seconds, row.seconds_per_item) == (None, None, None)


@pytest.mark.parametrize("count", [1, 2, 60])
def test_every_score_of_random_results_is_on_the_board(make_entry: Make, count: int) -> None:
    entries = random_entries(make_entry, count, seed=count)
    board = build_board(entries)
    assert len(board.rows) == count
    for row in board.rows:
        [entry] = row.entries
        for score in (*entry.tasks, *entry.groups):
            scale = 100 if isinstance(score, TaskScore) else 1
            assert row.cells[score.name].value == pytest.approx(scale * score.value)
    for name, column in board.columns.items():
        rows = [row for row in board.sorted_rows(column) if row.cells[name].places]
        values = [row.cells[name].value for row in rows]
        assert values == sorted(values, reverse=True)
        best = [row.cells[name].places[0] for row in rows]  # type: ignore[index]
        assert best[0] == 1 and max(best) <= len(rows)
