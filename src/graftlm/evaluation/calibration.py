"""Whether a model's confidence can be believed: calibration of choices, and what abstaining would save."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graftlm.evaluation.statistics import Floats, Scores

BINS = 10


@dataclass(frozen=True)
class ReliabilityBin:
    """The n items whose confidence lies in (low, high]: their mean confidence, and the share that is right."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class OperatingPoint:
    """Answering only where the confidence is at least `threshold`.

    Attributes:
        coverage: the share of the items that are answered.
        risk: the share of the answered items that are wrong.
    """

    threshold: float
    coverage: float
    risk: float


def option_probabilities(log_weights: Sequence[float]) -> list[float]:
    """The options' shares, which sum to 1, from what they are compared by (their log-probabilities)."""
    highest = max(log_weights)
    weights = [math.exp(weight - highest) for weight in log_weights]
    return [weight / sum(weights) for weight in weights]


def reliability_bins(
    confidences: Sequence[float], right: Sequence[bool], bins: int = BINS
) -> list[ReliabilityBin]:
    """The bins of equal width that hold items, from the least confident on.

    Raises:
        ValueError: lists of different length, or a confidence outside 0..1.
    """
    confidence_N, right_N, bin_N = _binned(confidences, right, bins)
    return [
        ReliabilityBin(
            low=number / bins,
            high=(number + 1) / bins,
            n=int((bin_N == number).sum()),
            confidence=float(confidence_N[bin_N == number].mean()),
            accuracy=float(right_N[bin_N == number].mean()),
        )
        for number in sorted(set(bin_N.tolist()))
    ]


def calibration_error(confidences: Sequence[float], right: Sequence[bool], bins: int = BINS) -> Scores:
    """Expected calibration error (Guo et al. 2017, arXiv 1706.04599): mean over items of their bin's |gap|.

    A bin's gap is its mean confidence minus its accuracy. Item i scores ±(confidence_i - right_i), with the sign of its
    bin's gap, so that the mean is the error exactly. A bootstrap keeps these signs: computing the error anew in each
    draw would only add the bias upwards that small bins have. An interval that reaches below 0 shows no error.

    Raises:
        ValueError: lists of different length, or a confidence outside 0..1.
    """
    confidence_N, right_N, bin_N = _binned(confidences, right, bins)
    gap_N = confidence_N - right_N
    gap_B = np.bincount(bin_N, weights=gap_N, minlength=bins)
    return Scores.of((np.sign(gap_B)[bin_N] * gap_N).tolist())


def brier_score(probabilities: Sequence[Sequence[float]], answers: Sequence[int]) -> Scores:
    """Brier's score (1950): the squared distance from the options' probabilities to the right answer, in 0..2.

    0 is certain and right; with m options, equal probabilities score 1 - 1/m.
    """
    distances = [
        sum((p - (place == answer)) ** 2 for place, p in enumerate(options))
        for options, answer in zip(probabilities, answers, strict=True)
    ]
    return Scores.of(distances)


def risk_coverage(confidences: Sequence[float], right: Sequence[bool]) -> list[OperatingPoint]:
    """The curve of selective answering (arXiv 1705.08500), from the most confident items on; equal ones come together.

    Raises:
        ValueError: lists of different length, or a confidence outside 0..1.
    """
    confidence_N, right_N, _ = _binned(confidences, right, 1)
    order_N = np.argsort(-confidence_N, kind="stable")
    sorted_N, wrong_N = confidence_N[order_N], np.cumsum(1 - right_N[order_N])
    n = len(sorted_N)
    lasts = [place for place in range(n) if place == n - 1 or sorted_N[place] != sorted_N[place + 1]]
    return [OperatingPoint(float(sorted_N[k]), (k + 1) / n, float(wrong_N[k]) / (k + 1)) for k in lasts]


def area_under_risk_coverage(curve: Sequence[OperatingPoint]) -> float:
    """The mean risk over all coverages (AURC, arXiv 1805.08206); less is better, at full coverage it is the error rate.

    Raises:
        ValueError: an empty curve.
    """
    if not curve:
        raise ValueError("a curve without items has no area")
    starts = [0.0, *(point.coverage for point in curve[:-1])]
    return sum(point.risk * (point.coverage - start) for point, start in zip(curve, starts, strict=True))


def _binned(
    confidences: Sequence[float], right: Sequence[bool], bins: int
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Confidences [N], 1 where right [N], each item's bin [N]: bin b holds (b / bins, (b + 1) / bins], bin 0 also 0."""
    confidence_N, right_N = np.asarray(confidences, np.float64), np.asarray(right, np.float64)
    if confidence_N.shape != right_N.shape:
        raise ValueError(f"{len(confidence_N)} confidences and {len(right_N)} verdicts")
    if not ((confidence_N >= 0) & (confidence_N <= 1)).all():
        raise ValueError("a confidence is not between 0 and 1")
    return confidence_N, right_N, np.searchsorted(np.arange(1, bins + 1) / bins, confidence_N, side="left")
