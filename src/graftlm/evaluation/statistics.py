"""Intervals by the bootstrap (Efron 1979): of a mean or a ratio, of a paired difference, pooled over tasks.

A metric over n items is sum(numerators) / sum(denominators): a mean where the denominators are 1, a
micro-average (bits per byte, micro F1) where they are not. Resampling draws whole items, so both are handled
by the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

RESAMPLES = 2_000
CONFIDENCE = 0.95
_DRAWS_AT_ONCE = 4_000_000  # indices in memory, 32 MB

Floats = NDArray[np.float64]


class Estimate(BaseModel):
    """A metric with its percentile bootstrap interval over n items.

    An interval over items that all score the same has no width: it says nothing of items not seen.
    """

    model_config = ConfigDict(frozen=True)

    value: float
    low: float
    high: float
    n: int


class Difference(BaseModel):
    """Second system minus first on the same items; p is two-sided, for the difference being zero."""

    model_config = ConfigDict(frozen=True)

    value: float
    low: float
    high: float
    p: float
    n: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Scores:
    """The scores of n items: numerators [n] and denominators [n]."""

    numerators: Floats
    denominators: Floats

    @classmethod
    def of(cls, numerators: Sequence[float], denominators: Sequence[float] | None = None) -> Scores:
        """Scores from lists; without denominators, a plain mean."""
        top = np.asarray(numerators, dtype=np.float64)
        bottom = np.ones_like(top) if denominators is None else np.asarray(denominators, dtype=np.float64)
        if top.shape != bottom.shape or top.ndim != 1:
            raise ValueError(f"numerators {top.shape} and denominators {bottom.shape} must be equal lists")
        return cls(top, bottom)

    def __len__(self) -> int:
        return len(self.numerators)

    @property
    def value(self) -> float:
        """The metric over all items; NaN where the denominators sum to nothing."""
        total = float(self.denominators.sum())
        return float(self.numerators.sum()) / total if total else float("nan")

    def at(self, places: Sequence[int]) -> Scores:
        """The scores of some of the items."""
        index = np.asarray(places, dtype=np.int64)
        return Scores(self.numerators[index], self.denominators[index])


def estimate(scores: Scores, *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """The metric with its 95 % percentile interval.

    Raises:
        ValueError: no item, or denominators that sum to zero.
    """
    return resampled(scores, resamples=resamples, seed=seed).estimate(len(scores))
    value = _defined(scores)
    [samples] = resample([scores], resamples, seed)
    low, high = interval(samples)
    return Estimate(value=value, low=low, high=high, n=len(scores))


def estimate_mean(systems: Sequence[Scores], *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """The mean of several systems' metrics on the same items, which are drawn alike for all systems.

    Raises:
        ValueError: no system, systems of different length, or a metric that is not defined.
    """
    if len({len(scores) for scores in systems}) != 1:
        raise ValueError("the systems must be scored on the same items")
    value = float(np.mean([_defined(scores) for scores in systems]))
    low, high = interval(np.mean(resample(systems, resamples, seed), axis=0))
    return Estimate(value=value, low=low, high=high, n=len(systems[0]))


def paired_difference(
    before: Scores, after: Scores, *, resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """How much `after` exceeds `before`; both systems are resampled on the same items.

    Raises:
        ValueError: the systems were scored on different numbers of items, or on none.
    """
    return pooled_difference([(before, after)], resamples=resamples, seed=seed)


def difference(first: Scores, second: Scores, *, resamples: int = RESAMPLES, seed: int = 0) -> Difference:
    """How much `second` exceeds `first` where they are of different items, which are drawn apart.

    Raises:
        ValueError: no item, or denominators that sum to zero.
    """
    value = _defined(second) - _defined(first)
    samples_R = resample([second], resamples, seed)[0] - resample([first], resamples, seed + 1)[0]
    low, high = interval(samples_R)
    return Difference(value=value, low=low, high=high, p=_two_sided_p(samples_R), n=len(first) + len(second))


def pooled_difference(
    pairs: Sequence[tuple[Scores, Scores]], *, resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """The mean over tasks of the paired differences; items are resampled inside each task."""
    before, after = paired_means(pairs, resamples=resamples, seed=seed)
    return mean_difference(before, after, sum(len(scores) for scores, _ in pairs))


def mean_difference(before: Mean, after: Mean, n: int) -> Difference:
    """How much one mean exceeds another, both over the same draws of n items."""
    samples_R = after.samples - before.samples
    low, high = interval(samples_R)
    return Difference(value=after.value - before.value, low=low, high=high, p=_two_sided_p(samples_R), n=n)


def pooled_ratio(
    pairs: Sequence[tuple[Scores, Scores]], *, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate | None:
    """Mean over tasks after, as a share of the mean before; None where that is zero."""
    before, after = paired_means(pairs, resamples=resamples, seed=seed)
    if before.value == 0:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = interval(after.samples / before.samples)
    return Estimate(value=after.value / before.value, low=low, high=high, n=sum(len(s) for s, _ in pairs))


@dataclass(frozen=True)
class Mean:
    """A mean over tasks, and its resamples [R]."""

    value: float
    samples: Floats

    def estimate(self, n: int) -> Estimate:
        """With its interval, over n items."""
        low, high = interval(self.samples)
        return Estimate(value=self.value, low=low, high=high, n=n)

    def mapped(self, change: Callable[[Floats], Floats]) -> Mean:
        """The value and every resample changed alike."""
        return Mean(float(change(np.array([self.value]))[0]), change(self.samples))


def resampled(scores: Scores, *, resamples: int = RESAMPLES, seed: int = 0) -> Mean:
    """The metric and its resamples; scores of as many items are drawn alike, so that their differences are paired.

    Raises:
        ValueError: no item, or denominators that sum to zero.
    """
    return Mean(_defined(scores), resample([scores], resamples, seed)[0])


def mean_of(means: Sequence[Mean]) -> Mean:
    """The plain mean of several, each resampled on its own."""
    if not means:
        raise ValueError("nothing to take a mean over")
    samples_R = np.mean([one.samples for one in means], axis=0)
    return Mean(float(np.mean([one.value for one in means])), samples_R)


def paired_means(
    pairs: Sequence[tuple[Scores, Scores]], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Mean, Mean]:
    """The two systems' means over tasks; a task's items are drawn alike for both, each task on its own."""
    if not pairs:
        raise ValueError("nothing to compare: no task")
    values, samples = [], []
    for number, (before, after) in enumerate(pairs):
        if len(before) != len(after):
            raise ValueError(f"scored on different items: {len(before)} before, {len(after)} after")
        values.append([_defined(before), _defined(after)])
        samples.append(resample([before, after], resamples, seed + number))
    value_2 = np.mean(values, axis=0)
    samples_2R = np.mean(samples, axis=0)
    return Mean(float(value_2[0]), samples_2R[0]), Mean(float(value_2[1]), samples_2R[1])


def _defined(scores: Scores) -> float:
    if not len(scores):
        raise ValueError("no item to take a score over")
    if not np.isfinite(scores.value):
        raise ValueError("the score is not defined: its denominators sum to zero, or an item is not finite")
    return scores.value


def resample(systems: Sequence[Scores], resamples: int, seed: int) -> Floats:
    """The metric of each system over `resamples` draws of the same items: [systems, R].

    A draw may miss every item that bears a denominator; it is NaN then, and the interval leaves it out.
    """
    n = len(systems[0])
    generator = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // n)
    parts = []
    for start in range(0, resamples, at_once):
        draws_RN = generator.integers(0, n, size=(min(at_once, resamples - start), n))
        with np.errstate(invalid="ignore", divide="ignore"):
            parts.append(
                [s.numerators[draws_RN].sum(axis=1) / s.denominators[draws_RN].sum(axis=1) for s in systems]
            )
    return np.concatenate(parts, axis=1)


def interval(samples_R: Floats) -> tuple[float, float]:
    """The middle 95 % of resamples; what is not finite is left out."""
    finite = samples_R[np.isfinite(samples_R)]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(finite, [tail, 1 - tail])
    return float(low), float(high)


def _two_sided_p(differences_R: Floats) -> float:
    """Twice the smaller share of resamples on either side of zero; R resamples cannot show a p of 0."""
    finite = differences_R[np.isfinite(differences_R)]
    smaller = min(int((finite <= 0).sum()), int((finite >= 0).sum()))
    return min(1.0, 2 * (smaller + 1) / (len(finite) + 1))
