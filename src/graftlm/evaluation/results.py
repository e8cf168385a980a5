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

    def headline_scores(self) -> Scores:
        """The headline's per-item scores."""
        return Scores.of(self.scores, self.weights)
