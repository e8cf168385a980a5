"""What a test found, as it is saved and compared."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from graftlm.evaluation.statistics import Estimate, Scores
from graftlm.evaluation.tasks import Side


class SampleAnswer(BaseModel):
    """One item to read: what was asked, what would be right, what the model said."""

    model_config = ConfigDict(frozen=True)

    prompt: str
    reference: str
    answer: str
    right: bool | None


class TaskResult(BaseModel):
    """The result of one task.

    Attributes:
        metric, value, low, high: the headline with its 95 % interval.
        metrics: all metrics of the task, the headline among them.
        kinds: the headline by the items' kind, where items name more than one kind.
        scores, weights: the headline of item i is scores[i] / weights[i], of all items sum / sum; kept so
            that two models can be compared item by item.
        items_hash: of the items' prompts and answers; two results compare only where it is equal.
        seconds: wall-clock time.
        version: of the task; results of two versions do not compare.
        shots: solved examples that were put before each question.
        coverage: what of the published test this is where it is not all of it ("8 of 57 subjects"); else "".
        notes: what a reader must know, as prompts that were cut.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    side: Side
    metric: str
    higher_is_better: bool
    value: float
    low: float
    high: float
    n: int
    metrics: dict[str, Estimate]
    kinds: dict[str, Estimate]
    scores: list[float]
    weights: list[float]
    samples: list[SampleAnswer]
    items_hash: str
    seconds: float
    version: str = "1"
    shots: int = 0
    coverage: str = ""
    notes: list[str] = []

    def headline_scores(self) -> Scores:
        """The headline's per-item scores."""
        return Scores.of(self.scores, self.weights)


class GroupResult(BaseModel):
    """The score of several tasks together, as a suite defines it.

    Attributes:
        value, low, high: in points of 100, with the 95 % interval.
        how: the rule in words, as "mean of normalised accuracies".
        members: the names of its tasks or groups.
        missing: members that the suite has but that were not run, with the reason.
        unclipped: the same where scores below chance are not raised to it, for suites that normalise: raising them
            makes a guesser's score more than 0.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    value: float
    low: float
    high: float
    how: str
    members: list[str]
    missing: dict[str, str] = {}
    unclipped: Estimate | None = None


class EvaluationResult(BaseModel):
    """One model on some suites: the file that `graft eval` writes and the leaderboard reads.

    Attributes:
        model: the name it is listed under.
        model_hash: of its files; two results of one hash are of the same weights.
        parameters: how many.
        precision: of the weights while they were scored, as "bf16".
        started: ISO 8601, UTC.
        seconds: of the whole evaluation.
        machine: device in words.
        settings: what changes scores: template, few-shot seed, limits.
        versions: of graft, torch, transformers.
        source: "graft", or the tool whose result was imported.
        tasks: every task; groups: every suite and group of it, the suite's own first.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    model_hash: str
    parameters: int
    precision: str
    started: str
    seconds: float
    machine: str
    settings: dict[str, str | int | float | bool | None]
    versions: dict[str, str]
    source: str = "graft"
    tasks: list[TaskResult]
    groups: list[GroupResult]
