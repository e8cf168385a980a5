"""The one training loop: every stage that has gradients runs through it.

A step: for each of its rows forward, backward; clip; update. The loss is divided by the units (target tokens,
pairs) of the whole step, so one row of 4,096 tokens and four of 1,024 give the same gradient. A checkpoint
holds weights, optimizer, random state, what the log and the meter have counted, the number of the next step and
what the feed has to remember (a packing plan nothing, rollouts their buffer); a resumed run goes on bit for bit
where the killed one stood.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from graftlm.core.console import progress_bar
from graftlm.core.errors import TrainingError
from graftlm.core.seeds import random_state, restore_random_state, seed_everything
from graftlm.data.packing import PackingPlan
from graftlm.ops.adamw import Moments, Rounding
from graftlm.training.best import BestWeights
from graftlm.training.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from graftlm.training.feed import Feed, StopTraining
from graftlm.training.log_window import LogWindow, not_finite
from graftlm.training.meter import Meter
from graftlm.training.objective import Loss, Objective
from graftlm.training.optimizer import adamw, clip_and_step, cosine_schedule


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Attributes:
        evaluate_every: steps between held-out losses; 0: only at the end.
        save_every, save_seconds: steps or seconds between checkpoints; 0: none by this clock.
        patience: stop after this many held-out losses without a new best, and go back to the best; 0: never.
        moments: format of AdamW's moments.
        rounding: of trained weights that are bf16.
        pad_rows: fill every row to the plan's `row_tokens`, so that all have one shape.
    """

    learning_rate: float
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


class Trainer:
    """Trains `model` on the rows that `feed` gives.

    Args:
        model: its parameters with `requires_grad` are trained, in place.
        objective: rows → summed loss.
        feed: the training rows: a packing plan, or rollouts.
        held_out: rows for the held-out loss, or None.
        folder: where checkpoints go.
        key: identity of the run; a checkpoint with another key is refused.

    Raises:
        TrainingError: early stopping is asked for without held-out rows or without a folder.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        objective: Objective,
        feed: Feed,
        settings: TrainingSettings,
        *,
        held_out: PackingPlan | None = None,
        folder: Path | None = None,
        key: str = "",
        title: str = "train",
    ) -> None:
        self.model, self.objective, self.feed, self.settings = model, objective, feed, settings
        self.held_out = held_out if held_out is not None and held_out.rows else None
        self.folder, self.key, self.title = folder, key, title
        self.device = next(model.parameters()).device
        self.optimizer = adamw(
            model,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            moments=settings.moments,
            rounding=settings.rounding,
            seed=settings.seed,
        )
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.record = TrainingRecord()
        self.meter = Meter()
        self.best = self._best_weights()
        self._window = LogWindow(title)
        self._saved_at = time.monotonic()

    def fit(self, on_step: Callable[[int], None] | None = None) -> TrainingRecord:
        """Train to the end of the feed, or until `patience` held-out losses in a row brought no new best."""
        seed_everything(self.settings.seed)
        step = self._resume()
        self.model.train()
        with progress_bar() as bar:
            task = bar.add_task(self.title, total=self.feed.steps, completed=step, note="")
            if step == 0 and self.settings.evaluate_every:
                self._evaluate(step)
            self.meter.resume()
            while step < self.feed.steps and not self.record.stopped:
                try:
                    self._step(step)
                except StopTraining as stop:
                    self.record.stopped = str(stop)
                    break
                step += 1
                self.record.steps = step
                if step % self.settings.log_every == 0 or step == self.feed.steps:
                    self._log(step)
                if self._evaluation_due(step):
                    self._evaluate(step)
                if self._checkpoint_due(step):
                    self._save(step)
                bar.update(task, completed=step, note=self._note())
                if on_step:
                    on_step(step)
            self._log(step)  # of steps that ended between two logs
            self.meter.pause()
        if not self.record.stopped:
            self.record.stopped = "all data seen"
        self._restore_best()
        self.model.eval()
        return self.record

    def held_out_means(self) -> dict[str, float]:
        """Mean loss and metrics a unit over the held-out rows, without dropout."""
        assert self.held_out is not None
        training = self.model.training
        self.model.eval()
        sums: Counter[str] = Counter()
        with torch.no_grad(), self._precision():
            for row in range(self.held_out.rows):
                loss = self.objective(self.model, self.held_out.row(row).to(self.device))
                sums.update({"loss": float(loss.total), "units": loss.units})
                sums.update({name: float(value) for name, value in loss.metrics.items()})
        self.model.train(training)
        units = max(sums.pop("units"), 1)
        return {name: value / units for name, value in sums.items()}

    def _step(self, step: int) -> None:
        waiting = self.feed.batches(step, pad=self.settings.pad_rows)
        if not waiting:
            return
        for row in waiting:
            self.meter.count(row)
        rows = [row.to(self.device) for row in waiting]
        units = sum(self.objective.units(row) for row in rows)
        losses = []
        for row in rows:
            with self._precision():
                loss = self.objective(self.model, row)
            (loss.total / max(units, 1)).backward()
            losses.append(Loss(loss.total.detach(), loss.units, loss.metrics))
        factor = cosine_schedule(step, self.feed.steps, warmup=self.settings.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * factor
        norm = clip_and_step(self.optimizer, list(self.trained.values()), self.settings.clip)
        self.optimizer.zero_grad(set_to_none=True)
        self._window.add(units, losses, norm)

    def _log(self, step: int) -> None:
        entry = self._window.entry(step, self.optimizer.param_groups[0]["lr"])
        if entry is not None:
            self.record.losses.append(entry)

    def _evaluate(self, step: int) -> None:
        if self.held_out is None:
            return
        self._window.settle(step)
        self.meter.pause()
        means = self.held_out_means()
        if not math.isfinite(means["loss"]):
            raise not_finite(self.title, step, f"held-out loss {means['loss']}")
        self.record.held_out.append({"step": step, **means})
        if self.best is not None:
            self._watch(self.best, step)
        self.meter.resume()

    def _watch(self, best: BestWeights, step: int) -> None:
        """Keep the weights if they are the best so far; stop if they have not been for too long."""
        losses = [entry["loss"] for entry in self.record.held_out]
        since_best = len(losses) - 1 - losses.index(min(losses))
        if since_best == 0:
            self.record.best_step = step
            best.save(step, self._weights(), self._checkpoint_steps())
        if since_best >= self.settings.patience:
            self.record.stopped = f"held-out loss has not fallen for {since_best} evaluations (step {step})"

    def _best_weights(self) -> BestWeights | None:
        if not self.settings.patience:
            return None
        if self.held_out is None or self.folder is None:
            raise TrainingError(
                "early stopping has nothing to watch: there are no held-out rows"
                if self.held_out is None
                else "early stopping has no folder to keep the best weights in",
                where=self.title,
                fix="keep back some rows (`held_out` of a block), or set `patience: 0`",
            )
        return BestWeights(self.folder / "best")

    def _restore_best(self) -> None:
        """After early stopping the weights of the best held-out loss count, not the last ones."""
        if self.best is not None and self.record.best_step is not None:
            self._load_weights(self.best.load(self.record.best_step))

    def _evaluation_due(self, step: int) -> bool:
        every = self.settings.evaluate_every
        return step == self.feed.steps or (every > 0 and step % every == 0)

    def _checkpoint_due(self, step: int) -> bool:
        if self.folder is None or step == self.feed.steps:
            return False
        by_time = 0 < self.settings.save_seconds <= time.monotonic() - self._saved_at
        return by_time or (self.settings.save_every > 0 and step % self.settings.save_every == 0)

    def _checkpoint_steps(self) -> list[int]:
        return [step for step, _ in list_checkpoints(self.folder)] if self.folder else []

    def _save(self, step: int) -> None:
        assert self.folder is not None
        self._window.settle(step)  # a checkpoint never holds weights that a later check would have refused
        self.meter.pause()
        state = {
            "key": self.key,
            "step": step,
            "weights": self._weights(),
            "optimizer": self.optimizer.state_dict(),
            "random": random_state(),
            "record": asdict(self.record),
            "window": self._window.state(),
            "feed": self.feed.state(),
            "meter": self.meter.state(),
        }
        save_checkpoint(self.folder, step, state, self.settings.keep)
        if self.best is not None:
            self.best.prune(self._checkpoint_steps())
        self._saved_at = time.monotonic()
        self.meter.resume()

    def _resume(self) -> int:
        """Take up the newest checkpoint; returns the number of steps it has behind it."""
        found = list_checkpoints(self.folder) if self.folder else []
        if not found:
            if self.best is not None:
                self.best.forget_after(-1)
            return 0
        step, path = found[-1]
        state = load_checkpoint(path)
        if state["key"] != self.key:
            raise TrainingError(
                "the checkpoint belongs to another recipe or other data",
                where=path,
                fix="delete the folder, or use another output",
            )
        self._load_weights(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        restore_random_state(state["random"])
        self.record = TrainingRecord(**state["record"])
        self.record.resumed_from.append(step)
        self._window.restore(state["window"])
        self.feed.restore(state["feed"])
        self.meter.restore(state["meter"])
        if self.best is not None:
            self.best.forget_after(step)
        return step

    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: parameter.detach() for name, parameter in self.trained.items()}

    @torch.no_grad()
    def _load_weights(self, weights: dict[str, torch.Tensor]) -> None:
        for name, parameter in self.trained.items():
            parameter.copy_(weights[name])

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.settings.bf16 else nullcontext()

    def _note(self) -> str:
        if not self.record.losses:
            return ""
        return f"loss {self.record.losses[-1]['loss']:.3f} · {self.meter.rate():,.0f} tokens/s"
