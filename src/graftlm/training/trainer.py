"""The one training loop: every stage that has gradients runs through it.

A step: for each of its rows forward, backward; clip; update. The loss is divided by the units (target tokens,
pairs) of the whole step, so one row of 4,096 tokens and four of 1,024 give the same gradient. A checkpoint
holds weights, optimizer, random state, what the log and the meter have counted, the number of the next step and
what the feed has to remember (a packing plan nothing, rollouts their buffer); a resumed run goes on bit for bit
where the killed one stood. Inside a step nothing waits for the device: rows come from a thread that is one step
ahead, losses stay where they are until the log asks, and checkpoints are written beside.

Several processes share the rows of each step. Steps, order of the data and units are those of one process, so the
losses are, too.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from graftlm.core.console import progress_bar, say
from graftlm.core.errors import TrainingError
from graftlm.core.seeds import random_state
from graftlm.data.packing import PackedBatch, PackingPlan
from graftlm.training.best import BestWeights
from graftlm.training.checkpoint import checkpoint_path
from graftlm.training.checkpoint_writer import CheckpointWriter
from graftlm.training.collector import collected_by_step
from graftlm.training.distributed import ALONE, World, before_row, call_gathered, give_back
from graftlm.training.feed import Feed, StopTraining
from graftlm.training.log_window import LogWindow, not_finite, out_of_memory
from graftlm.training.meter import Meter
from graftlm.training.objective import Loss, Objective
from graftlm.training.optimizer import adamw, clip_and_step, cosine_schedule
from graftlm.training.rows import RowsAhead, StepRows
from graftlm.training.settings import TrainingRecord, TrainingSettings
from graftlm.training.snapshot import read_state, seed_process, take_up_random

LOOK_AT_CLOCK = 10
"""Steps between looks at the clock of several processes: they have to agree that a checkpoint is due."""


class Trainer:
    """Trains `model` on the rows that `feed` gives.

    Args:
        model: its parameters with `requires_grad` are trained, in place.
        objective: rows → summed loss.
        feed: the training rows: a packing plan, or rollouts.
        held_out: rows for the held-out loss, or None.
        folder: where checkpoints go.
        key: identity of the run; a checkpoint with another key is refused.
        world: the processes that train together; the model is spread over them (`shard_model`).

    Raises:
        TrainingError: early stopping is asked for without held-out rows or without a folder; several processes and a
            feed that is no plan.
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
        world: World = ALONE,
    ) -> None:
        if world.size > 1 and not isinstance(feed, PackingPlan):
            raise TrainingError("its rows come from answers of one process", where=title, fix="train it in one process")
        self.model, self.objective, self.feed, self.settings = model, objective, feed, settings
        self.world = world
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
            rates=settings.rates,
        )
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.record = TrainingRecord()
        self.meter = Meter()
        self.best = self._best_weights()
        self._writer = CheckpointWriter(folder, settings.keep, world) if folder is not None else None
        self._window = LogWindow(title, world)
        self._saved_at = time.monotonic()

    def fit(self, on_step: Callable[[int], None] | None = None) -> TrainingRecord:
        """Train to the end of the feed, or until `patience` held-out losses in a row brought no new best."""
        seed_process(self.settings.seed, self.world)
        step = self._resume()
        self.model.train()
        try:
            self._run(step, on_step)
        except BaseException:
            if self._writer is not None:
                self._writer.abandon()
            raise
        if self._writer is not None:
            self._writer.wait()
        if not self.record.stopped:
            self.record.stopped = "all data seen"
        self._restore_best()
        self.model.eval()
        return self.record

    def _run(self, step: int, on_step: Callable[[int], None] | None) -> None:
        ahead = RowsAhead(
            self.feed,
            self.world,
            self.objective.units,
            pad=self.settings.pad_rows,
            pin=self.device.type == "cuda",
            at_once=self.settings.rows_at_once,
        )
        with progress_bar() as bar, ahead, collected_by_step() as collector:
            task = bar.add_task(self.title, total=self.feed.steps, completed=step, note="")
            if step == 0 and self.settings.evaluate_every:
                self._evaluate(step)
            self.meter.resume()
            while step < self.feed.steps and not self.record.stopped:
                try:
                    self._step(step, ahead)
                except StopTraining as stop:
                    self.record.stopped = str(stop)
                    break
                step += 1
                self.record.steps = step
                if isinstance(self.feed, PackingPlan):  # rollouts leave much garbage that holds memory of the GPU
                    collector.step()
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

    def held_out_means(self) -> dict[str, float]:
        """Mean loss and metrics a unit over the held-out rows, without dropout."""
        assert self.held_out is not None
        training = self.model.training
        self.model.eval()
        sums: Counter[str] = Counter()
        rows, counted = self.world.share(range(self.held_out.rows))
        with torch.no_grad():
            for place, row in enumerate(rows):
                whole = self.held_out.row(row, pad_to=self.held_out.row_tokens if self.settings.pad_rows else None)
                loss = self._loss(whole.to(self.device), counts=place < counted)
                sums.update({"loss": float(loss.total), "units": loss.units})
                sums.update({name: float(value) for name, value in loss.metrics.items()})
        give_back(self.model)
        self.model.train(training)
        sums = Counter(dict(zip(sums, self.world.total(list(sums.values())), strict=True)))
        units = max(sums.pop("units"), 1)
        return {name: value / units for name, value in sums.items()}

    def _step(self, step: int, ahead: RowsAhead) -> None:
        part = ahead.take(step)
        if not part.rows:
            return
        part, losses = self._gradients(step, part, ahead)
        self.meter.count(tokens=part.tokens, padding=part.padding, targets=part.targets, pairs=part.pairs)
        factor = cosine_schedule(step, self.feed.steps, warmup=self.settings.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * factor * group.get("factor", 1.0)
        norm = clip_and_step(self.optimizer, list(self.trained.values()), self.settings.clip)
        self.optimizer.zero_grad(set_to_none=True)
        self._window.add(part.units, losses, norm)

    def _gradients(self, step: int, part: StepRows, ahead: RowsAhead) -> tuple[StepRows, list[Loss]]:
        """Forward and backward over the rows of a step; where memory runs out, once more over smaller passes."""
        while True:
            try:
                return part, [self._pass(part, place) for place in range(len(part.rows))]
            except torch.OutOfMemoryError as error:
                fewer = ahead.with_fewer_rows_at_once(step) if self.world.size == 1 else None
                if fewer is None:
                    raise out_of_memory(self.title, step, len(part.rows[0].tokens)) from error
            self.optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            say(f"  out of memory in step {step + 1}: done again with {len(fewer.rows[0].tokens):,} tokens a pass")
            part = fewer

    def _pass(self, part: StepRows, place: int) -> Loss:
        before_row(self.model, self.world, last=place == len(part.rows) - 1)
        loss = self._loss(part.rows[place].to(self.device), counts=place < part.counted)
        (loss.total / max(part.units, 1)).backward()
        return Loss(loss.total.detach(), loss.units, loss.metrics)

    def _loss(self, row: PackedBatch, *, counts: bool) -> Loss:
        """The loss of a row; nothing, but of the same shape, for one that only keeps step with other processes."""
        found: list[Loss] = []

        def inside(model: torch.nn.Module) -> torch.Tensor:
            found.append(self.objective(model, row))
            return found[0].total

        with self._precision():
            total = call_gathered(self.model, inside)
        if counts:
            return Loss(total, found[0].units, found[0].metrics)
        return Loss(total * 0, 0, {name: value * 0 for name, value in found[0].metrics.items()})

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
            steps = self._writer.steps() if self._writer is not None else []
            if self.world.size > 1 and self._writer is not None:
                self._writer.wait()  # both are written together by all processes, one after the other
            best.save(step, self._weights(), steps)
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
        return BestWeights(self.folder / "best", self.world)

    def _restore_best(self) -> None:
        """After early stopping the weights of the best held-out loss count, not the last ones."""
        if self.best is not None and self.record.best_step is not None:
            self._load_weights(self.best.load(self.record.best_step, self._weights()))

    def _evaluation_due(self, step: int) -> bool:
        every = self.settings.evaluate_every
        return step == self.feed.steps or (every > 0 and step % every == 0)

    def _checkpoint_due(self, step: int) -> bool:
        if self.folder is None or step == self.feed.steps:
            return False
        by_steps = self.settings.save_every > 0 and step % self.settings.save_every == 0
        if not self.settings.save_seconds or (self.world.size > 1 and step % LOOK_AT_CLOCK):
            return by_steps
        return by_steps or self.world.agreed(time.monotonic() - self._saved_at >= self.settings.save_seconds)

    def _save(self, step: int) -> None:
        assert self._writer is not None
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
        self._writer.save(step, state)
        if self.best is not None:
            self.best.prune(self._writer.steps())
        self._saved_at = time.monotonic()
        self.meter.resume()

    def _resume(self) -> int:
        """Take up the newest checkpoint; returns the number of steps it has behind it."""
        steps = self.world.agreed(self._writer.steps() if self._writer is not None else [])
        if self.best is not None:
            self.best.forget_after(steps[-1] if steps else -1)
        if not steps:
            return 0
        assert self.folder is not None
        path = checkpoint_path(self.folder, steps[-1])
        state = read_state(path, self._weights(), self.world, self.optimizer)
        if state["key"] != self.key:
            raise TrainingError(
                "the checkpoint belongs to another recipe or other data",
                where=path,
                fix="delete the folder, or use another output",
            )
        self._load_weights(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        take_up_random(state["random"], self.settings.seed, steps[-1], self.world)
        self.record = TrainingRecord(**state["record"])
        self.record.resumed_from.append(steps[-1])
        self._window.restore(state["window"])
        self.feed.restore(state["feed"])
        self.meter.restore(state["meter"])
        return steps[-1]

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
