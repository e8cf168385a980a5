from __future__ import annotations

import pytest

from graftlm.core.errors import DataError
from graftlm.evaluation.results import TaskResult
from graftlm.evaluation.retention import Retention, compare
from graftlm.evaluation.statistics import Scores, estimate
from graftlm.evaluation.tasks import Side


def result(
    name: str,
    side: Side,
    scores: list[float],
    *,
    weights: list[float] | None = None,
    metric: str = "accuracy",
    items_hash: str = "same",
) -> TaskResult:
    weights = weights or [1.0] * len(scores)
    found = estimate(Scores.of(scores, weights))
    return TaskResult(
        name=name,
        side=side,
        metric=metric,
        higher_is_better=metric != "bits_per_byte",
        value=found.value,
        low=found.low,
        high=found.high,
        n=len(scores),
        metrics={metric: found},
        kinds={},
        scores=scores,
        weights=weights,
        samples=[],
        items_hash=items_hash,
        seconds=1.0,
    )


def ones(count: int, total: int = 100) -> list[float]:
    return [1.0] * count + [0.0] * (total - count)


def test_gain_forgetting_and_what_is_left() -> None:
    before = [
        result("exam", "domain", ones(40)),
        result("arithmetic", "general", ones(90)),
        result("reading", "general", ones(70)),
        result("prose", "general", [30.0] * 10, weights=[10.0] * 10, metric="bits_per_byte"),
    ]
    after = [
        result("prose", "general", [33.0] * 10, weights=[10.0] * 10, metric="bits_per_byte"),
        result("exam", "domain", ones(75)),
        result("arithmetic", "general", ones(72)),
        result("reading", "general", ones(70)),
    ]
    found = compare(before, after)
    exam = found.domain.changes[0]
    assert (exam.before, exam.after, exam.better) == (0.4, 0.75, True)
    assert exam.difference.value == pytest.approx(0.35)
    assert exam.difference.low > 0.2
    assert found.domain.difference is not None
    assert found.domain.difference.value == pytest.approx(0.35)
    arithmetic, reading, prose = found.general.changes
    assert arithmetic.retained == pytest.approx(0.8)
    assert (arithmetic.better, reading.better, prose.better) == (False, None, False)
    assert prose.retained == pytest.approx(30 / 33)
    assert found.general.difference is not None
    assert found.general.retained is not None
    assert found.general.difference.value == pytest.approx(-0.09)  # of the two accuracies
    assert found.general.retained.value == pytest.approx(1.42 / 1.6)
    assert found.general.retained.low < 1.42 / 1.6 < found.general.retained.high < 1
    assert "gained +35.0 points" in found.verdict
    assert "88.8% of the general ability is left" in found.verdict
    assert "2 of 3 general tasks clearly worse" in found.verdict
    assert "提高 +35.0 分" in found.verdict_zh
    assert "88.8%" in found.verdict_zh
    assert "\n" not in found.verdict
    assert Retention.model_validate_json(found.model_dump_json()) == found


def test_the_same_model_twice() -> None:
    tasks = [result("exam", "domain", ones(40)), result("reading", "general", ones(70))]
    found = compare(tasks, tasks)
    assert found.verdict.startswith("No clear domain gain: +0.0 points")
    assert "100.0% of the general ability is left" in found.verdict
    assert found.general.count(False) == 0


def test_a_loss_is_called_a_loss() -> None:
    found = compare([result("exam", "domain", ones(80))], [result("exam", "domain", ones(20))])
    assert "The domain lost -60.0 points" in found.verdict
    assert "forgetting was not measured" in found.verdict


def test_from_nothing_there_is_no_share() -> None:
    found = compare([result("exam", "domain", ones(0))], [result("exam", "domain", ones(20))])
    assert found.domain.retained is None
    assert found.domain.changes[0].retained is None


def test_only_bits_per_byte() -> None:
    before = [result("notes", "domain", [3.0] * 5, metric="bits_per_byte")]
    after = [result("notes", "domain", [2.0] * 5, metric="bits_per_byte")]
    found = compare(before, after)
    assert found.domain.difference is None
    assert found.domain.changes[0].better
    assert "improved on 1 of 1 tasks" in found.verdict


def test_results_that_do_not_belong_together_are_refused() -> None:
    one = result("exam", "domain", ones(40))
    with pytest.raises(DataError, match="exam: only one"):
        compare([one], [])
    with pytest.raises(DataError, match="other items"):
        compare([one], [result("exam", "domain", ones(40), items_hash="other")])
    with pytest.raises(DataError, match="another metric"):
        compare([one], [result("exam", "domain", ones(40), metric="rouge_l")])
