"""Calibration in closed form, and against plain loops over the definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from graftlm.evaluation.calibration import (
    area_under_risk_coverage,
    brier_score,
    calibration_error,
    option_probabilities,
    reliability_bins,
    risk_coverage,
)
from graftlm.evaluation.statistics import Scores, estimate


def plain_error(confidences: list[float], right: list[bool], bins: int) -> float:
    """Guo et al., equation 3: sum over bins of |B| / n · |acc(B) - conf(B)|."""
    total = 0.0
    for number in range(bins):
        inside = [
            (c, r)
            for c, r in zip(confidences, right, strict=True)
            if number / bins < c <= (number + 1) / bins or (number == c == 0)
        ]
        if inside:
            accuracy = sum(r for _, r in inside) / len(inside)
            confidence = sum(c for c, _ in inside) / len(inside)
            total += len(inside) / len(confidences) * abs(accuracy - confidence)
    return total


@pytest.mark.parametrize("bins", [1, 7, 10, 15])
def test_the_error_is_that_of_the_definition(bins: int) -> None:
    generator = np.random.default_rng(bins)
    confidences = [0.0, 1.0, 0.3, 0.6, 0.7, *generator.random(300).tolist()]
    right = (generator.random(305) < 0.6).tolist()
    assert calibration_error(confidences, right, bins).value == pytest.approx(plain_error(confidences, right, bins))


def test_a_calibrated_model_has_no_error() -> None:
    confidences = [0.8] * 5 + [0.5] * 4
    right = [True] * 4 + [False] + [True] * 2 + [False] * 2
    assert calibration_error(confidences, right).value == pytest.approx(0)


def test_the_interval_of_one_bin_is_that_of_its_accuracy() -> None:
    """Always 90 % sure and right in half of the cases: the error is 0.9 minus the accuracy, in every draw."""
    right = [True, False] * 40
    found, accuracy = estimate(calibration_error([0.9] * 80, right)), estimate(Scores.of([float(r) for r in right]))
    assert found.value == pytest.approx(0.4)
    assert (found.low, found.high) == pytest.approx((0.9 - accuracy.high, 0.9 - accuracy.low), abs=0.02)
    timid = estimate(calibration_error([0.1] * 80, right))
    assert timid.value == pytest.approx(0.4)
    assert (timid.low, timid.high) == pytest.approx((accuracy.low - 0.1, accuracy.high - 0.1), abs=1e-9)


def test_bins_hold_their_upper_edge() -> None:
    found = reliability_bins([0.7, 0.71, 0.8, 0.0], [True, False, True, False])
    assert [(b.low, b.high, b.n) for b in found] == [(0.0, 0.1, 1), (0.6, 0.7, 1), (0.7, 0.8, 2)]
    assert found[2].confidence == pytest.approx(0.755)
    assert found[2].accuracy == 0.5


def test_what_is_no_confidence_is_refused() -> None:
    for confidences in ([1.1, 0.5], [float("nan"), 0.5], [-0.1, 0.5]):
        with pytest.raises(ValueError, match="between 0 and 1"):
            calibration_error(confidences, [True, True])
    with pytest.raises(ValueError, match="1 confidences and 2 verdicts"):
        reliability_bins([0.5], [True, False])


def test_shares_of_options() -> None:
    assert option_probabilities([math.log(0.1) - 2000, math.log(0.3) - 2000]) == pytest.approx([0.25, 0.75])


def test_brier_scores() -> None:
    rows = [[1.0, 0.0], [0.0, 1.0], [0.25] * 4, [0.7, 0.2, 0.1]]
    found = brier_score(rows, [0, 0, 3, 0])
    assert found.numerators.tolist() == pytest.approx([0, 2, 0.75, 0.3**2 + 0.2**2 + 0.1**2])
    assert found.value == pytest.approx((2 + 0.75 + 0.14) / 4)


def test_abstaining_below_a_confidence() -> None:
    confidences, right = [0.9, 0.6, 0.9, 0.5], [True, True, False, False]
    points = [(point.threshold, point.coverage, point.risk) for point in risk_coverage(confidences, right)]
    assert points == [(0.9, 0.5, 0.5), (0.6, 0.75, pytest.approx(1 / 3)), (0.5, 1.0, 0.5)]
    assert risk_coverage([], []) == []


def test_the_area_is_the_mean_of_the_risks() -> None:
    """Without equal confidences: the mean over k of the error rate of the k most confident (arXiv 1805.08206)."""
    generator = np.random.default_rng(0)
    confidences, right = generator.permutation(50) / 50, generator.random(50) < 0.7
    wrong = 1.0 - right[np.argsort(-confidences)]
    expected = np.mean([wrong[: k + 1].mean() for k in range(50)])
    assert area_under_risk_coverage(risk_coverage(confidences.tolist(), right.tolist())) == pytest.approx(expected)


def test_the_area_without_information_is_the_error_rate() -> None:
    assert area_under_risk_coverage(risk_coverage([0.5] * 4, [True, True, True, False])) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="no area"):
        area_under_risk_coverage([])
