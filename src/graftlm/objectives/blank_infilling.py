"""Blank infilling (GLM, arXiv 2103.10360): predict what was cut out of a text, left to right, seeing all the rest."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graftlm.data.infill_plan import InfillBatch
from graftlm.data.packing import PackedBatch
from graftlm.models.families.glm130b import infilling_states
from graftlm.models.trunk import causal_lm, output_head
from graftlm.ops.linear_cross_entropy import linear_cross_entropy
from graftlm.training.objective import Loss


@dataclass(frozen=True)
class Shrink:
    """The share α of the gradient that reaches the embedding: `start` for `after` steps, then in `over` steps to `end`.

    GLM-130B trained with a small one against spikes of the loss, and let it go from 0.2 to 1 in the 6,000 steps after
    22,800 (its training log).
    """

    start: float
    end: float
    after: int = 0
    over: int = 1

    def at(self, step: int) -> float:
        done = min(max(step - self.after, 0) / self.over, 1.0)
        return self.start + (self.end - self.start) * done


class BlankInfilling:
    """−Σ log p(target), one unit a target token.

    Args:
        shrink: of the embedding's gradient; the model's own α when None.
    """

    def __init__(self, shrink: Shrink | None = None) -> None:
        self.shrink = shrink

    def units(self, batch: PackedBatch) -> int:
        return batch.target_count

    def __call__(self, model: torch.nn.Module, batch: PackedBatch) -> Loss:
        assert isinstance(batch, InfillBatch)
        hidden_TD = infilling_states(
            causal_lm(model),  # type: ignore[arg-type]
            batch.tokens,
            batch.positions,
            batch.boundaries,
            batch.branch,
            embedding_gradient=self.shrink.at(batch.step) if self.shrink else None,
        )
        total = linear_cross_entropy(hidden_TD, output_head(model), batch.targets, batch.target_count)
        return Loss(total, batch.target_count)
