"""The one training loop: every stage that has gradients runs through it.

A step: for each of its rows forward, backward; clip; update. The loss is divided by the units (target tokens,
pairs) of the whole step, so one row of 4,096 tokens and four of 1,024 give the same gradient. The order of
the data is a pure function of the recipe, so a checkpoint holds weights, optimizer, random state, what the
log and the meter have counted, and the number of the next step; a resumed run goes on bit for bit where the
killed one stood.
"""

from __future__ import annotations

import math
import time
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
from graftlm.training.best import BestWeights
from graftlm.training.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from graftlm.training.meter import Meter
from graftlm.training.objective import Loss, Objective
from graftlm.training.optimizer import adamw, cosine_schedule


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Attributes:
        evaluate_every: steps between held-out losses; 0: only at the end.
        save_every, save_seconds: steps or seconds between checkpoints; 0: none by this clock.
        patience: stop after this many held-out losses without a new best, and go back to the best; 0: never.
        pad_rows: fill every row to the plan's `row_tokens`, so that all have one shape.
    """

    learning_rate: float
    weight_decay: float = 0.1
    warmup: float = 0.03
    clip: float = 1.0
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
    """Trains `model` on the rows of `plan`.

    Args:
        model: its parameters with `requires_grad` are trained, in place.
        objective: rows → summed loss.
        plan: the training rows.
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
        plan: PackingPlan,
        settings: TrainingSettings,
        *,
        held_out: PackingPlan | None = None,
        folder: Path | None = None,
        key: str = "",
        title: str = "train",
    ) -> None:
        self.model, self.objective, self.plan, self.settings = model, objective, plan, settings
        self.held_out = held_out if held_out is not None and held_out.rows else None
        self.folder, self.key, self.title = folder, key, title
        self.device = next(model.parameters()).device
        self.optimizer = adamw(
            model, learning_rate=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.record = TrainingRecord()
        self.meter = Meter()
        self.best = self._best_weights()
        self._pending: list[tuple[int, list[Loss], torch.Tensor]] = []  # still on the device
        self._window: list[dict[str, float]] = []  # sums of each step since the last log
        self._saved_at = time.monotonic()

    def fit(self, on_step: Callable[[int], None] | None = None) -> TrainingRecord:
        """Train to the end of the plan, or until `patience` held-out losses in a row brought no new best."""
        seed_everything(self.settings.seed)
        step = self._resume()
        self.model.train()
        with progress_bar() as bar:
            task = bar.add_task(self.title, total=self.plan.steps, completed=step, note="")
            if step == 0 and self.settings.evaluate_every:
                self._evaluate(step)
            self.meter.resume()
            while step < self.plan.steps and not self.record.stopped:
                self._step(step)
                step += 1
                self.record.steps = step
                if step % self.settings.log_every == 0 or step == self.plan.steps:
                    self._log(step)
                if self._evaluation_due(step):
                    self._evaluate(step)
                if self._checkpoint_due(step):
                    self._save(step)
                bar.update(task, completed=step, note=self._note())
                if on_step:
                    on_step(step)
            if self._window or self._pending:
                self._log(step)  # early stopping came between two logs
            self.meter.pause()
        if not self.record.stopped:
            self.record.stopped = "all data seen"
        self._restore_best()
        self.model.eval()
        return self.record

    def held_out_loss(self) -> float:
        """Mean loss a unit over the held-out rows, without dropout."""
        assert self.held_out is not None
        training = self.model.training
        self.model.eval()
        total, units = 0.0, 0
        with torch.no_grad(), self._precision():
            for row in range(self.held_out.rows):
                loss = self.objective(self.model, self.held_out.row(row).to(self.device))
                total += float(loss.total)
                units += loss.units
        self.model.train(training)
        return total / max(units, 1)

    def _step(self, step: int) -> None:
        pad_to = self.plan.row_tokens if self.settings.pad_rows else None
        rows = [self.plan.row(number, pad_to=pad_to).to(self.device) for number in self.plan.step_rows(step)]
        units = sum(self.objective.units(row) for row in rows)
        losses = []
        for row in rows:
            with self._precision():
                loss = self.objective(self.model, row)
            (loss.total / max(units, 1)).backward()
            losses.append(Loss(loss.total.detach(), loss.units, loss.metrics))
            self.meter.count(tokens=len(row.tokens), padding=row.padding, targets=row.target_count)
        norm = torch.nn.utils.clip_grad_norm_(list(self.trained.values()), self.settings.clip, foreach=True)
        factor = cosine_schedule(step, self.plan.steps, warmup=self.settings.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * factor
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._pending.append((units, losses, norm))

    def _settle(self, step: int) -> None:
        """Bring the steps' losses to the host (only here it waits for the device) and check them."""
        for units, losses, norm in self._pending:
            sums = {"units": float(units), "loss": sum(float(loss.total) for loss in losses)}
            sums |= {name: sum(float(loss.metrics[name]) for loss in losses) for name in losses[0].metrics}
            sums["gradient_norm"] = float(norm)
            if not math.isfinite(sums["loss"]) or not math.isfinite(sums["gradient_norm"]):
                raise self._not_finite(step, f"loss {sums['loss']}, gradient norm {sums['gradient_norm']}")
            self._window.append(sums)
        self._pending.clear()

    def _not_finite(self, step: int, values: str) -> TrainingError:
        return TrainingError(
            f"the loss or its gradient is not finite at or just before step {step} ({values})",
            where=self.title,
            fix="lower learning_rate, lengthen warmup, or train in fp32; the last checkpoint is older",
        )

    def _log(self, step: int) -> None:
        """Average the steps since the last log."""
        self._settle(step)
        units = max(sum(sums["units"] for sums in self._window), 1)
        entry: dict[str, float] = {"step": step}
        for name in self._window[0]:
            if name not in ("units", "gradient_norm"):
                entry[name] = sum(sums[name] for sums in self._window) / units
        entry["gradient_norm"] = sum(sums["gradient_norm"] for sums in self._window) / len(self._window)
        entry["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        self._window.clear()
        self.record.losses.append(entry)

    def _evaluate(self, step: int) -> None:
        if self.held_out is None:
            return
        self._settle(step)
        self.meter.pause()
        loss = self.held_out_loss()
        if not math.isfinite(loss):
            raise self._not_finite(step, f"held-out loss {loss}")
        self.record.held_out.append({"step": step, "loss": loss})
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
        return step == self.plan.steps or (every > 0 and step % every == 0)

    def _checkpoint_due(self, step: int) -> bool:
        if self.folder is None or step == self.plan.steps:
            return False
        by_time = 0 < self.settings.save_seconds <= time.monotonic() - self._saved_at
        return by_time or (self.settings.save_every > 0 and step % self.settings.save_every == 0)

    def _checkpoint_steps(self) -> list[int]:
        return [step for step, _ in list_checkpoints(self.folder)] if self.folder else []

    def _save(self, step: int) -> None:
        assert self.folder is not None
        self._settle(step)  # a checkpoint never holds weights that a later check would have refused
        self.meter.pause()
        state = {
            "key": self.key,
            "step": step,
            "weights": self._weights(),
            "optimizer": self.optimizer.state_dict(),
            "random": random_state(),
            "record": asdict(self.record),
            "window": self._window,
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
        self._window = state["window"]
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
