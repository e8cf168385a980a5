"""Gain against forgetting: the same tasks before and after training, compared item by item."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from graftlm.core.errors import DataError
from graftlm.evaluation.results import TaskResult
from graftlm.evaluation.statistics import (
    Difference,
    Estimate,
    Scores,
    paired_difference,
    pooled_difference,
    pooled_ratio,
)
from graftlm.evaluation.tasks import Side


class Change(BaseModel):
    """One task before and after.

    Attributes:
        difference: after minus before, in the metric's own unit, with its paired interval and p.
        better: whether the change is for the better (None: the interval holds zero).
        retained: how much of the performance before is there after, 1 meaning all of it: after / before, or
            before / after for a metric where lower is better. None where that is not defined.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    side: Side
    metric: str
    higher_is_better: bool
    before: float
    after: float
    difference: Difference
    better: bool | None
    retained: float | None


class SideChange(BaseModel):
    """All tasks of one side together.

    Attributes:
        changes: task by task.
        difference: the mean change over the tasks whose metric is a share (0..1, higher better), in the same
            unit: 0.05 is five points. None without such tasks.
        retained: their mean after as a share of their mean before, with its interval.
    """

    model_config = ConfigDict(frozen=True)

    changes: list[Change]
    difference: Difference | None
    retained: Estimate | None

    def count(self, better: bool) -> int:
        """Tasks that are clearly better, or clearly worse."""
        return sum(change.better is better for change in self.changes)


class Retention(BaseModel):
    """The two numbers that every run answers with: what the domain gained, what of the rest was forgotten."""

    model_config = ConfigDict(frozen=True)

    domain: SideChange
    general: SideChange
    verdict: str
    verdict_zh: str


def compare(before: Sequence[TaskResult], after: Sequence[TaskResult]) -> Retention:
    """Compare two models on the same tasks.

    Raises:
        DataError: a task is missing on one side, or was run on other items or with another metric.
    """
    pairs = _match(before, after)
    domain, general = (
        _side([pair for pair in pairs if pair[0].side == side]) for side in ("domain", "general")
    )
    return Retention(
        domain=domain,
        general=general,
        verdict=_verdict(domain, general),
        verdict_zh=_verdict_zh(domain, general),
    )


_Pair = tuple[TaskResult, TaskResult]


def _match(before: Sequence[TaskResult], after: Sequence[TaskResult]) -> list[_Pair]:
    later = {result.name: result for result in after}
    missing = {result.name for result in before} ^ set(later)
    if missing:
        raise DataError("only one of the two models was tested on it", where=min(missing), fix="test both")
    for result in before:
        other = later[result.name]
        if (result.items_hash, result.metric, result.n) != (other.items_hash, other.metric, other.n):
            reason = "the task was run on other items or with another metric before and after"
            raise DataError(reason, where=result.name, fix="evaluate both models with the same task file")
    return [(result, later[result.name]) for result in before]


def _side(pairs: list[_Pair]) -> SideChange:
    shares = [_scores(pair) for pair in pairs if pair[0].higher_is_better]
    return SideChange(
        changes=[_change(*pair) for pair in pairs],
        difference=pooled_difference(shares) if shares else None,
        retained=pooled_ratio(shares) if shares else None,
    )


def _scores(pair: _Pair) -> tuple[Scores, Scores]:
    return pair[0].headline_scores(), pair[1].headline_scores()


def _change(before: TaskResult, after: TaskResult) -> Change:
    difference = paired_difference(*_scores((before, after)))
    better = (difference.value > 0) == before.higher_is_better if difference.is_clear else None
    top, bottom = (after.value, before.value) if before.higher_is_better else (before.value, after.value)
    return Change(
        name=before.name,
        side=before.side,
        metric=before.metric,
        higher_is_better=before.higher_is_better,
        before=before.value,
        after=after.value,
        difference=difference,
        better=better,
        retained=top / bottom if bottom else None,
    )


def _verdict(domain: SideChange, general: SideChange) -> str:
    return f"{_gain(domain)}; {_kept(general)}."


def _gain(side: SideChange) -> str:
    if not side.changes:
        return "No domain task was run"
    if side.difference is None:
        return f"The domain improved on {side.count(True)} of {len(side.changes)} tasks"
    interval = f"{_points(side.difference.value)} points (95 % interval {_range(side.difference)})"
    if not side.difference.is_clear:
        return f"No clear domain gain: {interval}"
    return f"The domain {'gained' if side.difference.value > 0 else 'lost'} {interval}"


def _kept(side: SideChange) -> str:
    if not side.changes:
        return "forgetting was not measured: no general task was run"
    worse = f"{side.count(False)} of {len(side.changes)} general tasks clearly worse"
    if side.retained is None or side.difference is None:
        return worse
    points = f"{_points(side.difference.value)} points, 95 % interval {_range(side.difference)}"
    return f"{side.retained.value:.1%} of the general ability is left ({points}; {worse})"


def _verdict_zh(domain: SideChange, general: SideChange) -> str:
    return f"{_gain_zh(domain)}；{_kept_zh(general)}。"


def _gain_zh(side: SideChange) -> str:
    if not side.changes:
        return "没有运行领域任务"
    if side.difference is None:
        return f"{len(side.changes)} 个领域任务中有 {side.count(True)} 个变好"
    interval = f"{_points(side.difference.value)} 分（95% 区间 {_range(side.difference, ' 至 ')}）"
    if not side.difference.is_clear:
        return f"领域能力没有明确变化：{interval}"
    return f"领域能力{'提高' if side.difference.value > 0 else '下降'} {interval}"


def _kept_zh(side: SideChange) -> str:
    if not side.changes:
        return "没有运行通用任务，未测量遗忘"
    worse = f"{len(side.changes)} 个通用任务中有 {side.count(False)} 个明确变差"
    if side.retained is None or side.difference is None:
        return worse
    points = f"{_points(side.difference.value)} 分，95% 区间 {_range(side.difference, ' 至 ')}"
    return f"通用能力保留 {side.retained.value:.1%}（{points}；{worse}）"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"


def _range(difference: Difference, to: str = " to ") -> str:
    return f"{_points(difference.low)}{to}{_points(difference.high)}"
