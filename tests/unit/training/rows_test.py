"""Rows are ready one step ahead, in order; those that depend on the weights are not made before their time."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from graftlm.data.packing import PackedBatch, PackingPlan
from graftlm.training.background import Background
from graftlm.training.collector import collected_by_step
from graftlm.training.distributed import ALONE
from graftlm.training.feed import StopTraining
from graftlm.training.rows import RowsAhead


def ahead(feed: Any, at_once: int = 1, pad: bool = True) -> RowsAhead:
    return RowsAhead(feed, ALONE, lambda row: row.target_count, pad=pad, pin=False, at_once=at_once)


def test_the_rows_of_a_plan_come_in_order_with_their_sums(make_plan: Any) -> None:
    plan: PackingPlan = make_plan([12, 20, 7, 25] * 6, row_tokens=32, rows_per_step=2)
    with ahead(plan) as rows:
        for step in (0, 1, 3, 2, plan.steps - 1):  # a resumed run begins anywhere
            found, expected = rows.take(step), plan.batches(step, pad=True)
            assert found.counted == len(expected) == len(found.rows)
            for row, other in zip(found.rows, expected, strict=True):
                assert torch.equal(row.tokens, other.tokens) and torch.equal(row.boundaries, other.boundaries)
            assert found.units == found.targets == sum(row.target_count for row in expected)
            assert found.tokens == 32 * len(expected)
            assert found.padding == sum(row.padding for row in expected)


def test_the_next_step_is_built_by_another_thread(make_plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan: PackingPlan = make_plan([20] * 8, row_tokens=32, rows_per_step=2)
    build, threads = PackingPlan.row, []

    def spy(self: PackingPlan, number: int, **options: Any) -> PackedBatch:
        threads.append(threading.current_thread() is threading.main_thread())
        return build(self, number, **options)

    monkeypatch.setattr(PackingPlan, "row", spy)
    with ahead(plan) as rows:
        for step in range(plan.steps):
            rows.take(step)
    assert threads == [True] * 2 + [False] * (plan.rows - 2), "only the first step is waited for"


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("at_once", [2, 3, 4])
def test_rows_at_once_are_the_same_documents_and_the_same_sums(make_plan: Any, at_once: int, pad: bool) -> None:
    plan: PackingPlan = make_plan([12, 20, 7, 25] * 7, row_tokens=32, rows_per_step=4)
    assert plan.rows % 4, "the last step is shorter"
    with ahead(plan, pad=pad) as single, ahead(plan, at_once, pad) as several:
        for step in range(plan.steps):
            one, many = single.take(step), several.take(step)
            assert len(many.rows) == many.counted == -(-len(one.rows) // at_once)
            assert numbers(many.rows) == numbers(one.rows)
            assert (many.units, many.tokens, many.padding) == (one.units, one.tokens, one.padding)
            assert (many.targets, many.pairs) == (one.targets, one.pairs)
            if pad:
                sizes = [min(at_once, len(one.rows) - at) * 32 for at in range(0, len(one.rows), at_once)]
                assert [len(row.tokens) for row in many.rows] == sizes


def numbers(rows: list[PackedBatch]) -> list[int]:
    return [number for row in rows for number in row.document.tolist() if number >= 0]


def test_passes_are_halved_until_a_pass_is_a_row(make_plan: Any) -> None:
    plan: PackingPlan = make_plan([20] * 16, row_tokens=32, rows_per_step=4)
    with ahead(plan, at_once=4) as rows:
        first = rows.take(0)
        assert [len(row.tokens) for row in first.rows] == [128]
        halves = rows.with_fewer_rows_at_once(0)
        assert halves is not None and [len(row.tokens) for row in halves.rows] == [64, 64]
        assert numbers(halves.rows) == numbers(first.rows) and halves.units == first.units
        assert [len(row.tokens) for row in rows.take(1).rows] == [64, 64], "and stay so"
        quarters = rows.with_fewer_rows_at_once(1)
        assert quarters is not None and [len(row.tokens) for row in quarters.rows] == [32] * 4
        assert rows.with_fewer_rows_at_once(1) is None
        seen = numbers(first.rows) + numbers(quarters.rows)
        for step in (2, 3):
            seen += numbers(rows.take(step).rows)
    assert len(seen) == len(set(seen)) == 16


def test_rollouts_have_no_smaller_passes() -> None:
    class Rollouts:
        steps = 1

    assert ahead(Rollouts(), at_once=4).with_fewer_rows_at_once(0) is None


def test_rollouts_are_made_when_they_are_asked_for() -> None:
    class Rollouts:
        steps = 4

        def __init__(self) -> None:
            self.asked: list[int] = []

        def batches(self, step: int, *, pad: bool) -> list[PackedBatch]:
            self.asked.append(step)
            if step == 2:
                raise StopTraining("enough")
            return []

    feed = Rollouts()
    with ahead(feed) as rows:
        rows.take(0)
        assert feed.asked == [0]
        rows.take(1)
        assert feed.asked == [0, 1]
        with pytest.raises(StopTraining, match="enough"):
            rows.take(2)


def test_an_error_beside_the_loop_comes_when_the_result_is_asked_for() -> None:
    background = Background()
    background.start(lambda: 1 / 0)
    assert background.busy
    with pytest.raises(ZeroDivisionError):
        background.result()
    background.start(lambda: 7)
    assert background.result() == 7 and not background.busy


def test_garbage_is_collected_at_fixed_steps_and_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    import gc

    calls: list[int] = []
    monkeypatch.setattr(gc, "collect", lambda *_: calls.append(1))
    frozen = gc.get_freeze_count()
    with collected_by_step() as collector:
        assert gc.isenabled()
        for _ in range(1001):
            collector.step()
            assert not gc.isenabled()
        assert len(calls) == 3 and gc.get_freeze_count() > frozen
    assert gc.isenabled() and gc.get_freeze_count() == 0
