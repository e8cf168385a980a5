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


def ahead(feed: Any) -> RowsAhead:
    return RowsAhead(feed, ALONE, lambda row: row.target_count, pad=True, pin=False)


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
