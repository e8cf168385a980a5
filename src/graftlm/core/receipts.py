"""Receipts: what a stage did, from what, how fast, how well. Written last: a receipt means "finished"."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

import graftlm


class Interval(BaseModel):
    """A measured value with its 95 % interval."""

    value: float
    low: float
    high: float


class Speed(BaseModel):
    """Tokens a second while training: every position, those that are not padding, those with a target.

    Attributes:
        mean_context: tokens that a position attends to, itself included.
        mfu: model FLOP/s utilisation by the formula beside it.
    """

    all: float
    non_padding: float
    target: float
    mean_context: float | None = None
    mfu: float | None = None
    mfu_formula: str | None = None


class Memory(BaseModel):
    """Peak memory in GiB: planned before the run and measured in it."""

    predicted_gib: float | None = None
    measured_gib: float | None = None
    what: str = ""


class BlockShare(BaseModel):
    """One data block of a mix: what was asked for and what was trained on."""

    requested: float
    realised: float
    samples: int
    tokens: int
    epochs: float


class PairQuality(BaseModel):
    """How well scores order pairs of answers that nothing was trained on.

    Attributes:
        pairs: how many.
        accuracy: share of the pairs whose better answer scores higher.
        margin: mean score of the better answers less that of the worse.
        margin_before: the same before training.
        length_correlation: Pearson correlation of an answer's score with its length in tokens, within prompts
            (differences of a pair); None where all are equally long.
        calibration_error: expected calibration error of sigma(margin) as the probability of being right, 10 bins.
        calibration: (mean probability, share right, pairs) of each filled bin.
        histogram: bin edges, and the share of the better and of the worse answers in each bin.
    """

    pairs: int
    accuracy: Interval
    margin: float
    margin_before: float | None = None
    length_correlation: float | None
    calibration_error: float
    calibration: list[tuple[float, float, int]]
    histogram: dict[str, list[float]]


class ComparedAnswer(BaseModel):
    """One prompt, answered before and after a stage; scores where there is a reward."""

    prompt: str
    before: str
    after: str
    before_score: float | None = None
    after_score: float | None = None


class Comparison(BaseModel):
    """Answers to held-out prompts before and after a stage, drawn from the models as they are (temperature 1).

    Attributes:
        prompts: how many.
        kl: mean of log p(after model) - log p(before model) over the after model's answers, nats an answer.
        reward_before, reward_after: mean rewards; None without a reward.
        reward_spread: standard deviation of the rewards before.
        tokens_before, tokens_after: mean length of the answers.
        finished_before, finished_after: share of the answers that ended by themselves.
        samples: some of the answers.
    """

    prompts: int
    kl: Interval
    reward_before: Interval | None = None
    reward_after: Interval | None = None
    reward_spread: float | None = None
    tokens_before: float
    tokens_after: float
    finished_before: float
    finished_after: float
    samples: list[ComparedAnswer] = Field(default_factory=list)

    @property
    def gain(self) -> float | None:
        """The rise of the mean reward in standard deviations of the rewards before."""
        if self.reward_before is None or self.reward_after is None or not self.reward_spread:
            return None
        return (self.reward_after.value - self.reward_before.value) / self.reward_spread


class Receipt(BaseModel):
    """What a stage did."""

    model_config = ConfigDict(extra="forbid")

    stage: str
    kind: str
    key: str
    seed: int
    seconds: float
    started: str
    versions: dict[str, str]
    inputs: dict[str, str] = Field(default_factory=dict)
    settings: dict[str, Any] = Field(default_factory=dict)
    steps: int = 0
    tokens: int = 0
    targets: int = 0
    stopped: str = ""
    speed: Speed | None = None
    memory: Memory | None = None
    ways: dict[str, str] = Field(default_factory=dict, description="what was chosen to make it fast, and why")
    shares: dict[str, BlockShare] = Field(default_factory=dict)
    losses: list[dict[str, float]] = Field(default_factory=list)
    held_out: list[dict[str, float]] = Field(default_factory=list)
    accounting: dict[str, dict[str, int]] = Field(default_factory=dict)
    parameters: dict[str, int] = Field(default_factory=dict)
    rollouts: list[dict[str, float]] = Field(default_factory=list, description="each round of answering and learning")
    pairs: PairQuality | None = None
    comparison: Comparison | None = None
    diagnosis: str = ""
    figures: dict[str, float | str] = Field(default_factory=dict, description="what a stage of its kind measured")
    notes: list[str] = Field(default_factory=list)


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    names = ("torch", "transformers", "tokenizers", "peft", "numpy")
    return {
        "graft": graftlm.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{name: metadata.version(name) for name in names},
    }
