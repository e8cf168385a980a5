"""The spread over prompts, by hand; what does not compare is refused."""

from __future__ import annotations

import numpy as np
import pytest

from graftlm.core.errors import DataError
from graftlm.evaluation.results import TaskResult
from graftlm.evaluation.spread import prompt_spread, spread
from graftlm.evaluation.statistics import Scores, estimate, estimate_mean


def result(scores: list[float], metric: str = "accuracy") -> TaskResult:
    found = estimate(Scores.of(scores))
    return TaskResult(
        name="exam",
        side="domain",
        metric=metric,
        higher_is_better=True,
        value=found.value,
        low=found.low,
        high=found.high,
        n=len(scores),
        metrics={metric: found},
        kinds={},
        scores=scores,
        weights=[1.0] * len(scores),
        samples=[],
        items_hash="",
        seconds=0.0,
    )


def test_the_spread_of_three_templates() -> None:
    found = spread({"a": Scores.of([1, 1, 0, 0]), "b": result([1, 1, 1, 0]), "c": Scores.of([1, 0, 0, 0])})
    assert found.values == {"a": 0.5, "b": 0.75, "c": 0.25}
    assert (found.lowest, found.highest, found.range) == ("c", "b", 0.5)
    assert found.deviation == pytest.approx(0.25)
    assert found.mean.value == pytest.approx(0.5)
    assert found.mean.n == 4


def test_templates_and_seeds_are_told_apart() -> None:
    """Here the template decides all, the seed nothing; turned around, the reverse."""
    runs = {(name, seed): Scores.of([level] * 3) for name, level in (("a", 0.2), ("b", 0.6)) for seed in (0, 1, 2)}
    found = prompt_spread(runs)
    assert found.templates.values == pytest.approx({"a": 0.2, "b": 0.6})
    assert found.templates.deviation == pytest.approx(0.4 / np.sqrt(2))
    assert found.seeds.values == pytest.approx({"0": 0.4, "1": 0.4, "2": 0.4})
    assert found.seeds.deviation == pytest.approx(0)


def test_one_way_has_no_spread() -> None:
    found = spread({"only": Scores.of([1, 0])})
    assert (found.range, found.deviation, found.lowest) == (0, 0, "only")


def test_the_interval_of_the_mean_draws_items_alike() -> None:
    """Two systems that are right on opposite items have a mean that no draw of items changes."""
    odd, even = Scores.of([1, 0] * 20), Scores.of([0, 1] * 20)
    assert estimate_mean([odd, even]).low == estimate_mean([odd, even]).high == 0.5
    assert estimate_mean([odd, odd]) == estimate(odd)


def test_what_does_not_compare_is_refused() -> None:
    with pytest.raises(DataError, match="numbers of items"):
        spread({"a": Scores.of([1]), "b": Scores.of([1, 0])})
    with pytest.raises(DataError, match="different tasks"):
        spread({"a": result([1.0]), "b": result([1.0], metric="brier")})
    with pytest.raises(DataError, match="no run of template b with seed 1"):
        prompt_spread({("a", 0): Scores.of([1]), ("a", 1): Scores.of([1]), ("b", 0): Scores.of([1])})
    with pytest.raises(DataError, match="no run to compare"):
        spread({})
    with pytest.raises(ValueError, match="same items"):
        estimate_mean([Scores.of([1]), Scores.of([1, 0])])
