"""How well scores order pairs of answers: accuracy, calibration, and whether length alone explains them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from graftlm.core.errors import ModelError
from graftlm.core.receipts import Interval, PairQuality
from graftlm.evaluation.statistics import Scores, estimate

CALIBRATION_BINS = 10
HISTOGRAM_BINS = 30

Floats = NDArray[np.float64]


def pair_quality(
    chosen_P: Sequence[float],
    rejected_P: Sequence[float],
    chosen_tokens_P: Sequence[int],
    rejected_tokens_P: Sequence[int],
    *,
    margin_before: float | None = None,
) -> PairQuality:
    """Judge P pairs by the scores of their better and worse answers.

    Args:
        chosen_P, rejected_P: scores.
        chosen_tokens_P, rejected_tokens_P: lengths of the answers.
        margin_before: the mean margin before training.

    Raises:
        ValueError: no pair, or lists of different lengths.
        ModelError: a score is not finite.
    """
    better_P, worse_P = np.asarray(chosen_P, np.float64), np.asarray(rejected_P, np.float64)
    longer_P = np.asarray(chosen_tokens_P, np.float64) - np.asarray(rejected_tokens_P, np.float64)
    if not len(better_P) or not len(better_P) == len(worse_P) == len(longer_P):
        raise ValueError(f"{len(better_P)} better, {len(worse_P)} worse answers, {len(longer_P)} lengths")
    _check_finite(better_P, worse_P)
    margin_P = better_P - worse_P
    accuracy = estimate(Scores.of((margin_P > 0).astype(np.float64).tolist()))  # equal is not better
    error, bins = calibration(margin_P)
    return PairQuality(
        pairs=len(margin_P),
        accuracy=Interval(value=accuracy.value, low=accuracy.low, high=accuracy.high),
        margin=float(margin_P.mean()),
        margin_before=margin_before,
        length_correlation=within_correlation(margin_P, longer_P),
        calibration_error=error,
        calibration=bins,
        histogram=histogram(better_P, worse_P),
    )


def within_correlation(one_P: Floats, other_P: Floats) -> float | None:
    """Pearson correlation of two quantities of the answers within prompts, from their differences in each pair.

    An answer deviates from the mean of its pair by half the difference, the other one by the same with the other
    sign. So nothing is left to centre, and the result does not depend on which answer of a pair stands first.
    None where either quantity is equal in all pairs.
    """
    spread = float(np.sqrt((one_P**2).sum() * (other_P**2).sum()))
    return float((one_P * other_P).sum()) / spread if spread else None


def calibration(margin_P: Floats) -> tuple[float, list[tuple[float, float, int]]]:
    """Expected calibration error (Guo et al., arXiv 1706.04599) of σ(margin) as the probability of being right.

    Folded: the answer that scores higher is the guess, σ(|margin|) its probability, in 10 equal bins over [0.5, 1].
    A tie is no guess: it is half right.

    Returns:
        The error, and (mean probability, share right, pairs) of each filled bin.
    """
    confidence_P = 1 / (1 + np.exp(-np.abs(margin_P)))
    right_P = (1 + np.sign(margin_P)) / 2
    bin_P = np.minimum((confidence_P - 0.5) * 2 * CALIBRATION_BINS, CALIBRATION_BINS - 1).astype(int)
    bins = []
    for number in np.unique(bin_P):
        here = bin_P == number
        bins.append((float(confidence_P[here].mean()), float(right_P[here].mean()), int(here.sum())))
    error = sum(pairs * abs(mean - right) for mean, right, pairs in bins) / len(margin_P)
    return error, bins


def histogram(better_P: Floats, worse_P: Floats) -> dict[str, list[float]]:
    """Shares of the better and of the worse answers in at most 30 bins that both share; about √(2P) bins."""
    low, high = float(min(better_P.min(), worse_P.min())), float(max(better_P.max(), worse_P.max()))
    if low == high:
        low, high = low - 0.5, high + 0.5
    bins = min(HISTOGRAM_BINS, int(np.sqrt(2 * len(better_P))))
    edges = np.linspace(low, high, bins + 1)
    better, worse = (np.histogram(scores, edges)[0] / len(scores) for scores in (better_P, worse_P))
    return {"edges": edges.tolist(), "better": better.tolist(), "worse": worse.tolist()}


def _check_finite(better_P: Floats, worse_P: Floats) -> None:
    wrong = int((~np.isfinite(np.concatenate([better_P, worse_P]))).sum())
    if wrong:
        raise ModelError(
            f"{wrong} of {2 * len(better_P)} scores are not finite",
            where="reward model",
            fix="train it again with a lower learning rate, or load it in fp32",
        )
