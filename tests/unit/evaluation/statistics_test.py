from __future__ import annotations

import numpy as np
import pytest

from graftlm.evaluation import statistics
from graftlm.evaluation.statistics import (
    Scores,
    estimate,
    paired_difference,
    pooled_difference,
    pooled_ratio,
)


def test_value_and_interval_by_hand() -> None:
    found = estimate(Scores.of([1, 0, 1, 1]))
    assert (found.value, found.n) == (0.75, 4)
    assert 0 <= found.low <= 0.5
    assert found.high == 1


def test_a_ratio_weighs_items_by_their_denominator() -> None:
    assert estimate(Scores.of([10, 1], [10, 2])).value == pytest.approx(11 / 12)


def test_one_item() -> None:
    found = estimate(Scores.of([0.3]))
    assert (found.value, found.low, found.high, found.n) == (0.3, 0.3, 0.3, 1)
    assert paired_difference(Scores.of([0.0]), Scores.of([1.0])).value == 1


def coverage(means: bool) -> float:
    """How often the interval of 80 items holds the true value, over 400 worlds."""
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        weights = generator.integers(1, 20, 80).astype(float)
        rates = generator.exponential(0.7, 80)
        scores = Scores.of(rates) if means else Scores.of(rates * weights, weights)
        found = estimate(scores, resamples=400)
        held += found.low <= 0.7 <= found.high
    return held / 400


@pytest.mark.parametrize("means", [True, False])
def test_the_interval_covers_the_truth_at_its_rate(means: bool) -> None:
    """95 % nominal; percentile intervals of a skewed quantity fall a little short at n = 80."""
    assert 0.90 <= coverage(means) <= 0.975


def test_pairing_sees_what_separate_intervals_do_not() -> None:
    generator = np.random.default_rng(2)
    hard = generator.normal(0, 5, 200)
    before, after = Scores.of(hard), Scores.of(hard + 0.3 + generator.normal(0, 0.5, 200))
    found = paired_difference(before, after)
    assert found.value == pytest.approx(0.3, abs=0.1)
    assert found.is_clear
    assert found.p < 0.01
    apart = estimate(before), estimate(after)
    assert apart[0].high > apart[1].low


def test_no_difference() -> None:
    same = Scores.of([0, 1, 1, 0])
    found = paired_difference(same, same)
    assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)
    assert not found.is_clear


def test_p_is_uniform_enough_when_nothing_differs() -> None:
    """At the 5 % level about 5 % of 300 comparisons of noise are called different."""
    generator = np.random.default_rng(5)
    noise = generator.normal(size=(300, 2, 60))
    called = sum(
        paired_difference(Scores.of(a), Scores.of(b), resamples=400).p < 0.05
        for a, b in noise  # type: ignore[arg-type]
    )
    assert 4 <= called <= 30


def test_pooled_tasks_count_alike_whatever_their_size() -> None:
    small = (Scores.of([0, 0]), Scores.of([1, 1]))
    large = (Scores.of([1.0] * 100), Scores.of([1.0] * 100))
    found = pooled_difference([small, large])
    assert (found.value, found.n) == (0.5, 102)
    share = pooled_ratio([small, large])
    assert share is not None
    assert share.value == pytest.approx(2.0)
    assert pooled_ratio([(Scores.of([0, 0]), Scores.of([1, 1]))]) is None


def test_chunks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = Scores.of(np.arange(50.0).tolist())
    whole = estimate(scores)
    monkeypatch.setattr(statistics, "_DRAWS_AT_ONCE", 333)
    assert estimate(scores) == whole


def test_undefined_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="no item"):
        estimate(Scores.of([]))
    with pytest.raises(ValueError, match="denominators sum to zero"):
        estimate(Scores.of([0, 0], [0, 0]))
    with pytest.raises(ValueError, match="different items"):
        paired_difference(Scores.of([1]), Scores.of([1, 2]))
    with pytest.raises(ValueError, match="no task"):
        pooled_difference([])


def test_items_that_bear_no_weight_are_left_out() -> None:
    found = estimate(Scores.of([1, 0, 0], [1, 0, 0]))  # most draws hold no weighing item at all
    assert (found.value, found.low, found.high) == (1, 1, 1)
