"""The contract between the training loop and what it minimises."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch

from graftlm.data.packing import PackedBatch


@dataclass(frozen=True)
class Loss:
    """The summed loss of one row.

    Attributes:
        total: scalar tensor, summed (not averaged) over the row's units.
        units: how many things the sum runs over: target tokens for language modelling, pairs for preferences.
            The trainer divides by the units of the whole step, so accumulation never changes the gradient.
        metrics: sums over the same units, averaged for the log; detached tensors, so that no step waits for
            them.
    """

    total: torch.Tensor
    units: int
    metrics: dict[str, torch.Tensor] = field(default_factory=dict)


class Objective(Protocol):
    def units(self, batch: PackedBatch) -> int:
        """Units of a row, known before its forward pass."""
        ...

    def __call__(self, model: torch.nn.Module, batch: PackedBatch) -> Loss: ...
