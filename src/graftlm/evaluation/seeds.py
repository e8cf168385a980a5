"""One recipe trained with several seeds: its score, with an interval for both the choice of items and the seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from graftlm.core.errors import DataError
from graftlm.evaluation.results import TaskResult
from graftlm.evaluation.statistics import RESAMPLES, Floats, Scores, interval, resample


class SeedEstimate(BaseModel):
    """A task's mean over seeds.

    Attributes:
        value, low, high: with the 95 % interval over items and seeds.
        deviation: standard deviation of the score over seeds (divided by seeds - 1).
        values: each seed's score.
        n: items.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    metric: str
    value: float
    low: float
    high: float
    deviation: float
    values: list[float]
    n: int


def combine_seeds(runs: Sequence[Sequence[TaskResult]]) -> list[SeedEstimate]:
    """Every task of several runs that differ in their seed alone.

    Args:
        runs: the results of each seed; the same tasks on the same items.

    Raises:
        DataError: one seed alone, other tasks, or other items.
    """
    if len(runs) < 2:
        raise DataError("the noise of seeds needs two of them at least", fix="train with seed=1 name=… as well")
    by_name = [{result.name: result for result in run} for run in runs]
    if any(names.keys() != by_name[0].keys() for names in by_name):
        raise DataError("the runs have different tasks", fix="evaluate all on the same recipe")
    return [_combine([run[name] for run in by_name]) for name in by_name[0]]


def _combine(results: Sequence[TaskResult]) -> SeedEstimate:
    first = results[0]
    if len({(result.items_hash, result.metric, result.version, result.shots) for result in results}) > 1:
        raise DataError("scored on different items or in different ways", where=first.name, fix="evaluate alike")
    scores = [result.headline_scores() for result in results]
    low, high = seed_interval(scores)
    values = [one.value for one in scores]
    return SeedEstimate(
        name=first.name,
        metric=first.metric,
        value=float(np.mean(values)),
        low=low,
        high=high,
        deviation=float(np.std(values, ddof=1)),
        values=values,
        n=len(scores[0]),
    )


def seed_interval(seeds: Sequence[Scores], *, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the mean over seeds, by a bootstrap on two levels.

    Items are drawn anew, the same for all seeds. Three to five seeds are too few to be drawn anew themselves: their
    bootstrap would miss most of the spread. So each resample adds the error of a mean of S normal values whose
    deviation is estimated from them, s/√S times a draw of Student's t with S - 1 degrees of freedom.
    """
    values = np.array([one.value for one in seeds])
    by_items_SR = resample(seeds, resamples, seed)
    mean_R = by_items_SR.mean(axis=0)
    # What items do to single seeds alone is in the seeds' deviation already: it must not count twice.
    single = (by_items_SR - mean_R).var(axis=1).sum() / (len(seeds) - 1) / len(seeds)
    common = np.sqrt(max(0.0, 1 - single / max(mean_R.var(), 1e-300)))
    draws_R = _spread_t(len(seeds) - 1, resamples, np.random.default_rng(seed + 1))
    by_seeds_R = values.std(ddof=1) / np.sqrt(len(seeds)) * draws_R
    return interval(mean_R.mean() + (mean_R - mean_R.mean()) * common + by_seeds_R)


def _spread_t(freedom: int, count: int, generator: np.random.Generator) -> Floats:
    """Draws of Student's t that are spread evenly: the tails of plain draws at 1 or 2 degrees of freedom are luck."""
    many = np.sort(generator.standard_t(freedom, count * 51))
    return generator.permutation(many[25::51])
