"""How far a score depends on the prompt: the same task with several templates and few-shot seeds (arXiv 2310.11324)."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from graftlm.core.errors import DataError
from graftlm.evaluation.results import TaskResult
from graftlm.evaluation.statistics import Estimate, Scores, estimate_mean


class Spread(BaseModel):
    """A score over several ways to ask.

    Attributes:
        mean: over the ways, with the 95 % interval over items, which are drawn alike for all of them.
        values: the score of each way.
        lowest, highest: the ways with the smallest and the largest score.
        range: largest minus smallest.
        deviation: the standard deviation over the ways (of a sample: n - 1); 0 for a single way.
    """

    model_config = ConfigDict(frozen=True)

    mean: Estimate
    values: dict[str, float]
    lowest: str
    highest: str
    range: float
    deviation: float


class PromptSpread(BaseModel):
    """A task's score over templates and few-shot seeds.

    Attributes:
        templates: each template's mean over the seeds.
        seeds: each seed's mean over the templates.
    """

    model_config = ConfigDict(frozen=True)

    templates: Spread
    seeds: Spread


def spread(ways: Mapping[str, Scores | TaskResult]) -> Spread:
    """The spread of one task's score over several ways to ask the same items, by their names.

    Raises:
        DataError: no way, or ways with different numbers of items or different headlines.
    """
    return _spread({name: [way] for name, way in ways.items()})


def prompt_spread(runs: Mapping[tuple[str, int], Scores | TaskResult]) -> PromptSpread:
    """The spread over templates and over few-shot seeds, of runs by (template, seed).

    Raises:
        DataError: no run, a template that lacks a seed, or runs that do not compare.
    """
    templates, seeds = sorted({template for template, _ in runs}), sorted({seed for _, seed in runs})
    missing = [(template, seed) for template in templates for seed in seeds if (template, seed) not in runs]
    if missing:
        raise DataError(f"no run of template {missing[0][0]} with seed {missing[0][1]}", where="spread over prompts")
    return PromptSpread(
        templates=_spread({template: [runs[template, seed] for seed in seeds] for template in templates}),
        seeds=_spread({str(seed): [runs[template, seed] for template in templates] for seed in seeds}),
    )


def _spread(ways: Mapping[str, Sequence[Scores | TaskResult]]) -> Spread:
    runs = [run for some in ways.values() for run in some]
    _check(runs)
    values = {name: statistics.fmean(_scores(run).value for run in some) for name, some in ways.items()}
    lowest, highest = min(values, key=lambda name: values[name]), max(values, key=lambda name: values[name])
    return Spread(
        mean=estimate_mean([_scores(run) for run in runs]),
        values=values,
        lowest=lowest,
        highest=highest,
        range=values[highest] - values[lowest],
        deviation=statistics.stdev(values.values()) if len(values) > 1 else 0.0,
    )


def _check(runs: Sequence[Scores | TaskResult]) -> None:
    if not runs:
        raise DataError("no run to compare", where="spread over prompts")
    sizes = {len(_scores(run)) for run in runs}
    tasks = {(run.name, run.metric, run.version) for run in runs if isinstance(run, TaskResult)}
    if len(sizes) > 1 or len(tasks) > 1:
        told = f"{len(sizes)} numbers of items" if len(sizes) > 1 else "different tasks, metrics or versions"
        raise DataError(f"the runs do not compare: {told}", where="spread over prompts", fix="score the same items")


def _scores(run: Scores | TaskResult) -> Scores:
    return run.headline_scores() if isinstance(run, TaskResult) else run
