"""The interval over seeds and items covers the truth as often as it says."""

from __future__ import annotations

import numpy as np
import pytest

from graftlm.core.errors import DataError
from graftlm.evaluation.results import TaskResult
from graftlm.evaluation.seeds import combine_seeds, seed_interval
from graftlm.evaluation.statistics import Scores, estimate


def result(scores: list[float], name: str = "exam", items_hash: str = "a") -> TaskResult:
    return TaskResult(
        name=name, side="domain", metric="accuracy", higher_is_better=True, value=float(np.mean(scores)), low=0.0,
        high=1.0, n=len(scores), metrics={}, kinds={}, scores=scores, weights=[1.0] * len(scores), samples=[],
        items_hash=items_hash, seconds=0.0,
    )  # fmt: skip


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_it_covers_where_items_and_seeds_both_vary(seeds: int) -> None:
    """Right with probability 0.6 + item + seed; the truth is 0.6. One seed's item interval misses far more often."""
    random = np.random.default_rng(seeds)
    covered = alone = 0
    trials = 300
    for _ in range(trials):
        item, shift = random.normal(0, 0.15, 120), random.normal(0, 0.05, (seeds, 1))
        right = (random.random((seeds, 120)) < np.clip(0.6 + item + shift, 0, 1)).astype(float)
        low, high = seed_interval([Scores.of(row.tolist()) for row in right], resamples=400)
        covered += low <= 0.6 <= high
        one = estimate(Scores.of(right[0].tolist()), resamples=400)
        alone += one.low <= 0.6 <= one.high
    assert 0.92 <= covered / trials <= 0.98, "95 %, and three standard errors of 300 trials"
    assert alone / trials < 0.9


def test_the_mean_and_the_deviation_over_seeds() -> None:
    runs = [[result([1.0, 0.0, 1.0, 0.0])], [result([1.0, 1.0, 1.0, 0.0])], [result([1.0, 1.0, 1.0, 1.0])]]
    [found] = combine_seeds(runs)
    assert found.value == 0.75 and found.values == [0.5, 0.75, 1.0] and found.deviation == pytest.approx(0.25)
    assert found.low < 0.75 < found.high and found.n == 4
    same = combine_seeds([runs[0]] * 3)[0]
    of_items = estimate(runs[0][0].headline_scores())
    assert same.deviation == 0.0 and (same.low, same.high) == pytest.approx((of_items.low, of_items.high))


def test_runs_that_do_not_compare_are_refused() -> None:
    with pytest.raises(DataError, match="two of them"):
        combine_seeds([[result([1.0])]])
    with pytest.raises(DataError, match="different tasks"):
        combine_seeds([[result([1.0])], [result([1.0], name="other")]])
    with pytest.raises(DataError, match="different items"):
        combine_seeds([[result([1.0])], [result([1.0], items_hash="b")]])
