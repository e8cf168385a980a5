"""Reward modelling from pairs (Bradley-Terry), with LLaMA 2's margins (arXiv 2307.09288, §3.2.2 and table 27)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

from graftlm.data.packing import PackedBatch
from graftlm.models.reward import document_rewards
from graftlm.training.objective import Loss

Scale = Literal["none", "small", "large"]

FACTORS: dict[Scale, float] = {"none": 0.0, "small": 1 / 3, "large": 1.0}
"""Margin a step of strength: 3 significantly better … 0 negligibly. Large is 3, 2, 1, 0; small 1, 2/3, 1/3, 0."""


def margins(strength_P: torch.Tensor, scale: Scale) -> torch.Tensor:
    """[P] by how much the better answer has to score higher, from the strength of each preference."""
    return FACTORS[scale] * strength_P


def pair_loss(chosen_P: torch.Tensor, rejected_P: torch.Tensor, margin_P: torch.Tensor) -> torch.Tensor:
    """[P] -log σ(chosen - rejected - margin); ln 2 where the scores differ by the margin."""
    return -F.logsigmoid(chosen_P - rejected_P - margin_P)


class PairwiseReward:
    """One unit a pair; documents come as chosen, rejected, chosen, rejected …

    The strength of a preference is the value of its chosen document.
    """

    def __init__(self, scale: Scale = "none") -> None:
        self.scale: Scale = scale

    def units(self, batch: PackedBatch) -> int:
        return batch.documents // 2

    def __call__(self, model: torch.nn.Module, batch: PackedBatch) -> Loss:
        rewards_N = document_rewards(model, batch)
        chosen_P, rejected_P = rewards_N[0::2], rewards_N[1::2]
        strength_P = batch.value[: len(rewards_N)][0::2]
        loss_P = pair_loss(chosen_P, rejected_P, margins(strength_P, self.scale))
        chosen_P, rejected_P = chosen_P.detach(), rejected_P.detach()
        metrics = {
            "accuracy": (chosen_P > rejected_P).float().sum(),  # equal is not better
            "margin": (chosen_P - rejected_P).sum(),
            "chosen_reward": chosen_P.sum(),
            "rejected_reward": rejected_P.sum(),
        }
        return Loss(loss_P.sum(dtype=torch.float64), len(loss_P), metrics)  # fp64: n · ln 2 must sum to exactly that
