"""What a minibatch of rollouts minimises: the clipped policy loss and what is added to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from graftlm.alignment.policy import Policy
from graftlm.alignment.rollouts import Rollouts
from graftlm.data.packing import PackedBatch
from graftlm.objectives.policy_gradient import clipped_policy_loss, clipped_value_loss, kl_k3
from graftlm.training.objective import Loss


@dataclass(frozen=True)
class PolicyObjective:
    """One unit an answer token.

    Attributes:
        rollouts: gives the answers that the row's document numbers point into.
        kl_weight: weight of the k3 divergence from the reference in the loss (GRPO); PPO has it in the reward.
    """

    rollouts: Callable[[], Rollouts]
    clip_ratio: float
    value_weight: float = 0.0
    value_clip: float = 0.2
    entropy_weight: float = 0.0
    kl_weight: float = 0.0

    def units(self, batch: PackedBatch) -> int:
        return batch.target_count

    def __call__(self, model: torch.nn.Module, batch: PackedBatch) -> Loss:
        assert isinstance(model, Policy)
        statistics, value_A = model.look(batch, entropy=True)
        log_p_A, entropy_A = statistics.log_probability, statistics.entropy
        assert entropy_A is not None
        documents = batch.document[: batch.documents].tolist()
        names = ("old", "reference", "advantage", "weight")
        old_A, reference_A, advantage_A, weight_A = self.rollouts().of(documents, names, log_p_A.device)

        policy = clipped_policy_loss(log_p_A, old_A, advantage_A, self.clip_ratio)
        loss_A = weight_A * policy.loss - self.entropy_weight * entropy_A
        moved_A = kl_k3(log_p_A.detach(), old_A)
        metrics = {
            "policy_loss": policy.loss.detach().sum(),
            "ratio": policy.ratio.sum(),
            "clip_fraction": policy.clipped.float().sum(),
            "moved": moved_A.sum(),
            "entropy": entropy_A.detach().sum(),
        }
        if self.kl_weight:
            loss_A = loss_A + self.kl_weight * kl_k3(log_p_A, reference_A)
        if value_A is not None:
            old_value_A, return_A = self.rollouts().of(documents, ("value", "return"), log_p_A.device)
            value_loss_A = clipped_value_loss(value_A, old_value_A, return_A, self.value_clip)
            loss_A = loss_A + self.value_weight * value_loss_A
            metrics["value_loss"] = value_loss_A.detach().sum()
        return Loss(loss_A.sum(), batch.target_count, metrics)
