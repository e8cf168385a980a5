"""What the steps since the last log entry brought."""

from __future__ import annotations

import math
from typing import Any

import torch

from graftlm.core.errors import TrainingError
from graftlm.training.distributed import ALONE, World
from graftlm.training.objective import Loss


class LogWindow:
    """Collects the losses of steps on the device and averages them for the log.

    Args:
        title: the run's name, for error messages.
        world: the processes whose rows make up a step.
    """

    def __init__(self, title: str, world: World = ALONE) -> None:
        self._title, self._world = title, world
        self._pending: list[tuple[int, list[Loss], torch.Tensor]] = []  # still on the device
        self._sums: list[dict[str, float]] = []  # of each settled step

    def add(self, units: int, losses: list[Loss], norm: torch.Tensor) -> None:
        """A step: its units and the norm of its gradient over all processes, the losses of this process's rows."""
        self._pending.append((units, losses, norm))

    def settle(self, step: int) -> None:
        """Bring the steps' losses to the host (only here it waits for the device) and check them.

        Raises:
            TrainingError: a loss or gradient is not finite.
        """
        mine = [
            {"loss": sum(float(loss.total) for loss in losses)}
            | {name: sum(float(loss.metrics[name]) for loss in losses) for name in losses[0].metrics}
            for _, losses, _ in self._pending
        ]
        totals = iter(self._world.total([value for sums in mine for value in sums.values()]) if mine else [])
        for (units, _, norm), names in zip(self._pending, mine, strict=True):
            sums = {"units": float(units)} | {name: next(totals) for name in names}
            sums["gradient_norm"] = float(norm)
            if not math.isfinite(sums["loss"]) or not math.isfinite(sums["gradient_norm"]):
                raise not_finite(self._title, step, f"loss {sums['loss']}, gradient norm {sums['gradient_norm']}")
            self._sums.append(sums)
        self._pending.clear()

    def entry(self, step: int, learning_rate: float) -> dict[str, float] | None:
        """Means a unit since the last entry, and a new window; None when no step has come."""
        self.settle(step)
        if not self._sums:
            return None
        units = max(sum(sums["units"] for sums in self._sums), 1)
        entry: dict[str, float] = {"step": step}
        for name in self._sums[0]:
            if name not in ("units", "gradient_norm"):
                entry[name] = sum(sums[name] for sums in self._sums) / units
        entry["gradient_norm"] = sum(sums["gradient_norm"] for sums in self._sums) / len(self._sums)
        entry["learning_rate"] = learning_rate
        self._sums.clear()
        return entry

    def state(self) -> list[dict[str, float]]:
        return self._sums

    def restore(self, state: list[dict[str, Any]]) -> None:
        self._sums = state


def not_finite(where: str, step: int, values: str) -> TrainingError:
    return TrainingError(
        f"the loss or its gradient is not finite at or just before step {step} ({values})",
        where=where,
        fix="lower learning_rate, lengthen warmup, or train in fp32; the last checkpoint is older",
    )


def out_of_memory(where: str, step: int, tokens: int) -> TrainingError:
    return TrainingError(
        f"out of memory in step {step + 1} with {tokens:,} tokens a pass",
        where=where,
        fix="lower row_tokens, set `recompute: full`, `method: lora`, or moments and weights of fewer bits",
    )
