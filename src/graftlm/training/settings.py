"""How to train, and what happened: plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from graftlm.ops.adamw import Moments, Rounding


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Attributes:
        evaluate_every: steps between held-out losses; 0: only at the end.
        save_every, save_seconds: steps or seconds between checkpoints; 0: none by this clock.
        patience: stop after this many held-out losses without a new best, and go back to the best; 0: never.
        rates: factors on the learning rate of parameters by a part of their names.
        moments: format of AdamW's moments.
        rounding: of trained weights that are bf16.
        pad_rows: fill every row to the plan's `row_tokens`, so that all have one shape.
        rows_at_once: rows that one forward and backward pass takes, end to end; fewer when memory runs out.
    """

    learning_rate: float
    rates: Mapping[str, float] = field(default_factory=dict)
    weight_decay: float = 0.1
    warmup: float = 0.03
    clip: float = 1.0
    moments: Moments = "fp32"
    rounding: Rounding = "stochastic"
    bf16: bool = False
    seed: int = 0
    log_every: int = 10
    evaluate_every: int = 0
    patience: int = 0
    save_every: int = 0
    save_seconds: float = 0.0
    keep: int = 2
    pad_rows: bool = False
    rows_at_once: int = 1


@dataclass
class TrainingRecord:
    """What happened, in plain numbers; part of every checkpoint.

    Attributes:
        steps: optimizer steps taken.
        stopped: why training ended.
        best_step: the step of the best held-out loss, whose weights are restored; None without `patience`.
        resumed_from: the steps at which killed runs were taken up again.
    """

    losses: list[dict[str, float]] = field(default_factory=list)
    held_out: list[dict[str, float]] = field(default_factory=list)
    steps: int = 0
    stopped: str = ""
    best_step: int | None = None
    resumed_from: list[int] = field(default_factory=list)
