"""The rows of a step for one process: its share, built and pinned while the step before runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType

from graftlm.data.packing import PackedBatch, PackingPlan
from graftlm.training.background import Background
from graftlm.training.distributed import World
from graftlm.training.feed import Feed
from graftlm.training.meter import attended_pairs


@dataclass(frozen=True)
class StepRows:
    """One process's rows, and sums over the rows of all processes.

    Attributes:
        rows: in host memory, pinned where a GPU reads them.
        counted: how many of them count; the rest keeps step with processes that have one row more.
        units: what the step's loss is divided by.
        tokens, padding, targets, pairs: for the meter.
    """

    rows: list[PackedBatch]
    counted: int
    units: int
    tokens: int
    padding: int
    targets: int
    pairs: int


class RowsAhead:
    """Hands out the rows of one step after the other.

    The rows of a packing plan are known before the run: while a step runs, a thread builds those of the next, adds
    up the counts of all processes and pins the memory, so that the loop waits for none of it. Rollouts depend on the
    weights of the moment and are built when they are asked for.

    Args:
        units: units of a row.
        pad: fill rows to one shape.
        pin: page-lock them for a GPU.
        at_once: rows of a plan that are joined into one.
    """

    def __init__(
        self,
        feed: Feed,
        world: World,
        units: Callable[[PackedBatch], int],
        *,
        pad: bool,
        pin: bool,
        at_once: int = 1,
    ) -> None:
        self._feed, self._world, self._units, self._pad, self._pin = feed, world, units, pad, pin
        self._at_once = at_once
        self._background, self._next = Background(), -1

    def __enter__(self) -> RowsAhead:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # Where all is well all processes have begun the same step, and end it before they begin another run.
        self._background.abandon(patience=None if error is None else 0.0)

    def take(self, step: int) -> StepRows:
        """Raises what the feed raises, StopTraining among it."""
        if self._background.busy and self._next != step:
            self._background.abandon(patience=None)
        found: StepRows = self._background.result() if self._background.busy else self._build(step)
        self._next = step + 1
        if isinstance(self._feed, PackingPlan) and self._next < self._feed.steps:
            self._background.start(partial(self._build, self._next))
        return found

    def _build(self, step: int) -> StepRows:
        rows, counted = self._my_rows(step)
        real = rows[:counted]
        counts = (
            sum(self._units(row) for row in real),
            sum(len(row.tokens) for row in real),
            sum(row.padding for row in real),
            sum(row.target_count for row in real),
            sum(attended_pairs(row) for row in real),
        )
        totals = self._world.total(counts, self._world.rows)
        return StepRows([pinned(row) for row in rows] if self._pin else rows, counted, *(int(n) for n in totals))

    def _my_rows(self, step: int) -> tuple[list[PackedBatch], int]:
        plan = self._feed
        if not isinstance(plan, PackingPlan):
            rows = plan.batches(step, pad=self._pad)
            return rows, len(rows)
        numbers, counted = self._world.share(plan.step_rows(step))
        rows = [plan.row(number) for number in numbers]
        k = self._at_once if counted == len(rows) else 1
        full = plan.row_tokens if self._pad else None
        joined = [plan.join(rows[at : at + k], full and full * len(rows[at : at + k])) for at in range(0, len(rows), k)]
        return joined, counted if k == 1 else len(joined)

    def with_fewer_rows_at_once(self, step: int) -> StepRows | None:
        """The rows of the step once more, in passes of half the size; None where a pass is one row already."""
        if self._at_once == 1 or not isinstance(self._feed, PackingPlan):
            return None
        self._background.abandon(patience=None)
        self._at_once //= 2
        return self._build(step)


def pinned(row: PackedBatch) -> PackedBatch:
    """The row in page-locked memory: copies to the GPU then need not wait (`PackedBatch.to` finds it pinned)."""
    return replace(
        row,
        tokens=row.tokens.pin_memory(),
        targets=row.targets.pin_memory(),
        boundaries=row.boundaries.pin_memory(),
        value=row.value.pin_memory(),
    )
