"""Pair quality against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from graftlm.core.errors import ModelError
from graftlm.evaluation.pairs import HISTOGRAM_BINS, calibration, histogram, pair_quality


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_accuracy_margin_and_ties():
    found = pair_quality([1.0, 2.0, 0.0, 5.0], [0.0, 3.0, 0.0, 1.0], [3] * 4, [3] * 4, margin_before=0.25)
    assert found.pairs == 4
    assert found.accuracy.value == 0.5, "won, lost, tied, won"
    assert 0 <= found.accuracy.low < 0.5 < found.accuracy.high <= 1
    assert found.margin == 1.0 and found.margin_before == 0.25
    assert found.length_correlation is None, "all answers are equally long"


def test_length_correlation_by_hand():
    """Score differences 1, -1, 2, 1 and length differences 1, 2, 3, -1: 4 / sqrt(7 · 15)."""
    scores = [3.0, 1.0, 2.0, 0.0], [2.0, 2.0, 0.0, -1.0]
    lengths = [5, 6, 10, 3], [4, 4, 7, 4]
    assert pair_quality(*scores, *lengths).length_correlation == pytest.approx(4 / math.sqrt(105))


def test_length_correlation_is_that_within_prompts():
    """Prompts whose answers all score high and are all long must not count, nor which answer is the better one."""
    random = np.random.default_rng(0)
    prompt, length = random.normal(size=(2, 50)) * 100
    one, two = random.normal(size=(2, 50))
    long_one, long_two = one * 2 + random.normal(size=50), two * 2 + random.normal(size=50)
    found = pair_quality(prompt + one, prompt + two, length + long_one, length + long_two).length_correlation
    swapped = pair_quality(prompt + two, prompt + one, length + long_two, length + long_one).length_correlation
    centred = [np.concatenate([a - (a + b) / 2, b - (a + b) / 2]) for a, b in ((one, two), (long_one, long_two))]
    assert found == pytest.approx(np.corrcoef(*centred)[0, 1]) == pytest.approx(swapped)
    assert found > 0.5


@pytest.mark.parametrize(("sign", "expected"), [(1, 1.0), (-1, -1.0)])
def test_a_score_that_is_the_length(sign, expected):
    lengths = [4, 9, 2], [7, 1, 3]
    scores = ([sign * float(n) for n in some] for some in lengths)
    assert pair_quality(*scores, *lengths).length_correlation == pytest.approx(expected)


def test_calibration_by_hand():
    """Three guesses at p = 0.75, two of them right; one at σ(5), wrong; a tie."""
    odds = math.log(3)
    error, bins = calibration(np.array([odds, odds, -odds, -5.0, 0.0]))
    assert bins == [
        (0.5, 0.5, 1),
        (pytest.approx(0.75), pytest.approx(2 / 3), 3),
        (pytest.approx(sigmoid(5)), 0.0, 1),
    ]
    assert error == pytest.approx((3 * (0.75 - 2 / 3) + sigmoid(5)) / 5)


def test_scores_that_are_log_odds_are_calibrated():
    random = np.random.default_rng(0)
    gap = np.abs(random.normal(0, 2, 20_000))
    right = random.random(20_000) < 1 / (1 + np.exp(-gap))
    honest, bins = calibration(np.where(right, gap, -gap))
    boastful, _ = calibration(5 * np.where(right, gap, -gap))
    assert honest < 0.015 and boastful > 0.1
    assert len(bins) == 10 and sum(pairs for *_, pairs in bins) == 20_000
    assert [mean for mean, *_ in bins] == sorted(mean for mean, *_ in bins)


def test_histogram_shares_its_bins():
    found = histogram(np.array([1.0, 2.0, 3.0, 4.0, 4.0, 4.0, 4.0, 4.0]), np.zeros(8))
    assert found["edges"] == pytest.approx([0, 1, 2, 3, 4])
    assert found["better"] == [0, 1 / 8, 1 / 8, 6 / 8] and found["worse"] == [1, 0, 0, 0]


@pytest.mark.parametrize("count", [1, 2, 5_000])
def test_histograms_hold_every_answer(count):
    random = np.random.default_rng(1)
    found = histogram(random.normal(1, 1, count), random.normal(0, 1, count))
    assert len(found["edges"]) == len(found["better"]) + 1 <= HISTOGRAM_BINS + 1
    assert sum(found["better"]) == pytest.approx(1) and sum(found["worse"]) == pytest.approx(1)


def test_equal_scores_are_no_trouble():
    found = pair_quality([2.0, 2.0], [2.0, 2.0], [1, 2], [2, 2])
    assert found.accuracy.value == 0 and found.margin == 0 and found.length_correlation is None
    assert found.calibration == [(0.5, 0.5, 2)] and found.calibration_error == 0
    assert found.histogram["better"] == found.histogram["worse"]


def test_no_pair_and_uneven_lists_are_refused():
    with pytest.raises(ValueError):
        pair_quality([], [], [], [])
    with pytest.raises(ValueError):
        pair_quality([1.0], [1.0, 2.0], [1], [1])


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_scores_that_are_not_finite_are_refused(wrong):
    with pytest.raises(ModelError, match=r"1 of 4 scores(?s:.*)fix: "):
        pair_quality([1.0, 2.0], [0.0, wrong], [1, 1], [1, 1])
