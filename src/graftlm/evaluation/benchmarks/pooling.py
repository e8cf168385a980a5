"""The score of a suite, with an interval by resampling items inside every sub-task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from graftlm.evaluation.benchmarks.plan import PlannedMember, PlannedSuite, PlannedTask
from graftlm.evaluation.benchmarks.run import TaskRun
from graftlm.evaluation.results import GroupResult
from graftlm.evaluation.statistics import Mean, Scores, mean_of, resampled
from graftlm.evaluation.tasks import LOWER_IS_BETTER

HOW = {
    "mean": "mean of its members",
    "items": "mean over all items",
    "normalised": "mean of scores normalised by chance, sub-tasks first",
}

Runs = Mapping[str, TaskRun]


@dataclass(frozen=True)
class Group:
    """A suite's result with its resamples, from which two models are compared.

    Attributes:
        share: the mean as a share, 0..1.
        n: items.
    """

    result: GroupResult
    share: Mean
    n: int


@dataclass(frozen=True)
class _Found:
    """A member's score, clipped at chance and not; the two differ only where scores are normalised."""

    clipped: Mean
    free: Mean
    n: int


def pool_suite(suite: PlannedSuite, runs: Runs, reasons: Mapping[str, str]) -> Group | None:
    """The score of a suite over those members that were run; None where none was.

    Args:
        runs: by the name of the task.
        reasons: why a task was not run, by its name.
    """
    found = _suite(suite, runs)
    if found is None:
        return None
    value, share = found.clipped.estimate(found.n), found.clipped
    free = found.free.estimate(found.n) if suite.pool == "normalised" else None
    result = GroupResult(
        name=suite.name,
        value=100 * value.value,
        low=100 * value.low,
        high=100 * value.high,
        how=HOW[suite.pool],
        members=[member.what.name for member in suite.members],
        missing=_missing(suite, runs, reasons),
        unclipped=free and free.model_copy(update={key: 100 * getattr(free, key) for key in ("value", "low", "high")}),
    )
    return Group(result, share, found.n)


def _missing(suite: PlannedSuite, runs: Runs, reasons: Mapping[str, str]) -> dict[str, str]:
    missing = dict(suite.absent)
    for member in suite.members:
        what = member.what
        if isinstance(what, PlannedSuite):
            if _suite(what, runs) is None:
                missing[what.name] = "none of its members was run"
        elif what.name not in runs:
            missing[what.name] = reasons.get(what.name, "it was not run")
        elif not _is_share(member):
            missing[what.name] = f"{member.metrics[0]} is no share of 100"
    return missing


def _suite(suite: PlannedSuite, runs: Runs) -> _Found | None:
    if suite.pool == "items":
        return _over_items(suite, runs)
    parts = [_member(member, suite, runs) for member in suite.members]
    found = [part for part in parts if part is not None]
    return _mean(found) if found else None


def _member(member: PlannedMember, suite: PlannedSuite, runs: Runs) -> _Found | None:
    if isinstance(member.what, PlannedSuite):
        return _suite(member.what, runs)
    run = runs.get(member.what.name)
    if run is None or not _is_share(member):
        return None
    return _mean([_task(run, metric, normalise=suite.pool == "normalised") for metric in member.metrics])


def _task(run: TaskRun, metric: str, *, normalise: bool) -> _Found:
    scores = run.metrics[metric]
    if not normalise:
        mean = resampled(scores, seed=_seed(run.result.name))
        return _Found(mean, mean, len(scores))
    return _mean([
        _normalised(scores.at(places), float(np.mean([run.chance[place] for place in places])), run.result.name + name)
        for name, places in _places(run.subjects).items()
    ])  # fmt: skip


def _seed(name: str) -> int:
    """Of its own for every sub-task, so that their draws are independent; the same for every model."""
    return crc32(name.encode())


def _normalised(scores: Scores, chance: float, name: str) -> _Found:
    free = resampled(scores, seed=_seed(name)).mapped(lambda share: (share - chance) / (1 - chance))
    return _Found(free.mapped(lambda share: np.maximum(share, 0.0)), free, len(scores))


def _mean(found: Sequence[_Found]) -> _Found:
    n = sum(one.n for one in found)
    return _Found(mean_of([one.clipped for one in found]), mean_of([one.free for one in found]), n)


def _over_items(suite: PlannedSuite, runs: Runs) -> _Found | None:
    parts = list(_all_scores(suite, runs))
    if not parts:
        return None
    above = np.concatenate([one.numerators for one in parts])
    mean = resampled(Scores(above, np.concatenate([one.denominators for one in parts])))
    return _Found(mean, mean, len(above))


def _all_scores(suite: PlannedSuite, runs: Runs) -> list[Scores]:
    found: list[Scores] = []
    for member in suite.members:
        if isinstance(member.what, PlannedSuite):
            found += _all_scores(member.what, runs)
        elif member.what.name in runs and _is_share(member):
            found.append(runs[member.what.name].metrics[member.metrics[0]])
    return found


def _is_share(member: PlannedMember) -> bool:
    assert isinstance(member.what, PlannedTask)
    names = {metric.shown: metric.name for metric in member.what.file.metrics}
    return all(names[metric] not in LOWER_IS_BETTER for metric in member.metrics)


def _places(subjects: Sequence[str]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for place, subject in enumerate(subjects):
        groups.setdefault(subject, []).append(place)
    return groups
