"""Ranks that say how sure they are: the places a model may hold, given which others are clearly better or worse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graftlm.evaluation.statistics import CONFIDENCE, Scores

RESAMPLES = 1_000
_DRAWS_AT_ONCE = 4_000_000  # counts in memory, 32 MB

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Contender:
    """One model's score in a column; higher is better.

    Attributes:
        low, high: its interval; None: unknown, so it is clearly better or worse than nothing.
        parts: (share, items, scores) of the tasks whose weighted sum the value is; empty where scores by item are
            not known. `items` tells apart different sets of items.
    """

    value: float
    low: float | None
    high: float | None
    parts: tuple[tuple[float, str, Scores], ...] = ()

    @property
    def test(self) -> tuple[tuple[float, str, int], ...]:
        """Contenders of one test are compared in pairs."""
        return tuple((share, items, len(scores)) for share, items, scores in self.parts)


def place_ranges(
    contenders: Sequence[Contender], *, resamples: int = RESAMPLES, seed: int = 0
) -> list[tuple[int, int]]:
    """(best, worst) place of each: one more than those clearly better, and all but those clearly worse."""
    better_MM = clearly_better(contenders, resamples=resamples, seed=seed)
    total = len(contenders)
    return [(1 + int(better_MM[:, m].sum()), total - int(better_MM[m].sum())) for m in range(total)]


def clearly_better(contenders: Sequence[Contender], *, resamples: int = RESAMPLES, seed: int = 0) -> Bools:
    """[M, M]: whether row is clearly better than column.

    In pairs where both were scored on the same items: the 95 % bootstrap interval of the difference is above zero.
    Otherwise their intervals must lie apart, which is the stricter demand.
    """
    low_M = np.array([np.nan if c.low is None else c.low for c in contenders], dtype=np.float64)
    high_M = np.array([np.nan if c.high is None else c.high for c in contenders], dtype=np.float64)
    better_MM = low_M[:, None] > high_M[None, :]  # comparisons with NaN are false
    tests: dict[tuple[tuple[float, str, int], ...], list[int]] = {}
    for place, contender in enumerate(contenders):
        if contender.parts:
            tests.setdefault(contender.test, []).append(place)
    for places in tests.values():
        if len(places) > 1:
            paired = _paired([contenders[place] for place in places], resamples, seed)
            better_MM[np.ix_(places, places)] = paired
    return better_MM


def _paired(contenders: Sequence[Contender], resamples: int, seed: int) -> Bools:
    samples_MR = np.zeros((len(contenders), resamples))
    for number, (share, _, _) in enumerate(contenders[0].parts):
        samples_MR += share * _resample([c.parts[number][2] for c in contenders], resamples, seed + number)
    tail = (1 - CONFIDENCE) / 2
    better_MM = np.zeros((len(contenders), len(contenders)), dtype=bool)
    for m, sample_R in enumerate(samples_MR):
        better_MM[m] = (sample_R <= samples_MR).mean(axis=1) < tail
    return better_MM


def _resample(scores: Sequence[Scores], resamples: int, seed: int) -> Floats:
    """[M, R]: every model's score on the same draws of the items."""
    n = len(scores[0])
    top_MN = np.stack([s.numerators for s in scores])
    bottom_MN = np.stack([s.denominators for s in scores])
    generator = np.random.default_rng(seed)
    parts = []
    for start in range(0, resamples, at_once := max(1, _DRAWS_AT_ONCE // n)):
        size = min(at_once, resamples - start)
        counts_RN = generator.multinomial(n, np.full(n, 1 / n), size=size).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            parts.append((top_MN @ counts_RN.T) / (bottom_MN @ counts_RN.T))
    return np.concatenate(parts, axis=1)
