"""What the leaderboard keeps of one evaluation, whichever tool it comes from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from graftlm.core.hashing import hash_value
from graftlm.evaluation.results import EvaluationResult, GroupResult, TaskResult
from graftlm.evaluation.statistics import Scores

NO_SHARES = frozenset({"perplexity", "bits", "bleu", "chrf", "ter", "likelihood", "brier"})
"""Words in the names of metrics that are no share of anything, so that points of 100 would mislead."""


def is_share(metric: str, value: float) -> bool:
    """Whether a value may be a share of 1, by itself and by the metric's name."""
    return 0 <= value <= 1 and not NO_SHARES & set(re.split(r"[^a-z]+", metric.lower()))


@dataclass(frozen=True)
class TaskScore:
    """One task's headline.

    Attributes:
        value, low, high: with its 95 % interval; None where the tool told none.
        n: items; 0 where that is not known.
        shots: solved examples before each question; None where that is not known.
        version, coverage, items_hash: as in TaskResult; "" where that is not known.
        metrics: every other metric that was told.
        scores: by item, where they are known.
    """

    name: str
    metric: str
    higher_is_better: bool
    value: float
    low: float | None
    high: float | None
    n: int = 0
    shots: int | None = None
    version: str = ""
    coverage: str = ""
    items_hash: str = ""
    seconds: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    scores: Scores | None = None

    @property
    def is_share(self) -> bool:
        """Whether the metric is a share of 1, which is shown in points of 100."""
        return self.higher_is_better and is_share(self.metric, self.value)


@dataclass(frozen=True)
class GroupScore:
    """Several tasks together, in points of 100; fields as in GroupResult, without an interval where none is known."""

    name: str
    value: float
    low: float | None
    high: float | None
    how: str
    members: tuple[str, ...]
    missing: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """One evaluation of one model.

    Attributes:
        hash: of the content; what is there already is not added again.
        parameters: None where that is not known; so is `seconds`.
        settings: what changes scores.
        notes: what a reader must know of the import, as sentences.
    """

    hash: str
    model: str
    model_hash: str
    parameters: int | None
    precision: str
    started: str
    seconds: float | None
    machine: str
    settings: dict[str, str | int | float | bool | None]
    versions: dict[str, str]
    source: str
    tasks: tuple[TaskScore, ...]
    groups: tuple[GroupScore, ...]
    notes: tuple[str, ...] = ()


def entry_of(result: EvaluationResult, model: str | None = None) -> Entry:
    """graft's own result as an entry.

    Args:
        model: the name to list it under, if not its own.
    """
    name = model or result.model
    return Entry(
        hash=hash_value([name, result.model_dump(mode="json")]),
        model=name,
        model_hash=result.model_hash,
        parameters=result.parameters or None,
        precision=result.precision,
        started=result.started,
        seconds=result.seconds,
        machine=result.machine,
        settings=dict(result.settings),
        versions=dict(result.versions),
        source=result.source,
        tasks=tuple(task_score(task) for task in result.tasks),
        groups=tuple(group_score(group) for group in result.groups),
    )


def task_score(result: TaskResult) -> TaskScore:
    return TaskScore(
        name=result.name,
        metric=result.metric,
        higher_is_better=result.higher_is_better,
        value=result.value,
        low=result.low,
        high=result.high,
        n=result.n,
        shots=result.shots,
        version=result.version,
        coverage=result.coverage,
        items_hash=result.items_hash,
        seconds=result.seconds,
        metrics={name: found.value for name, found in result.metrics.items() if name != result.metric},
        scores=result.headline_scores() if result.scores else None,
    )


def group_score(group: GroupResult) -> GroupScore:
    return GroupScore(
        group.name, group.value, group.low, group.high, group.how, tuple(group.members), dict(group.missing)
    )


def same_model(entries: Sequence[Entry]) -> dict[tuple[str, str, str, str], list[Entry]]:
    """Entries of one model at one precision under the same settings, the newest first."""
    found: dict[tuple[str, str, str, str], list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: entry.started, reverse=True):
        found.setdefault((entry.model, entry.model_hash, entry.precision, hash_value(entry.settings)), []).append(entry)
    return found
