"""The numbers of policy optimisation as pure functions: advantages, ratios, clipped losses, divergence.

Shapes: R answers, L tokens of the longest, A answer tokens of all answers end to end.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

GroupAdvantage = Literal["grpo", "rloo"]


def generalised_advantages(
    rewards_RL: Tensor, values_RL: Tensor, real_RL: Tensor, *, discount: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al., arXiv 1506.02438): (advantages, returns), both [R, L].

    delta_t = r_t + discount * V_{t+1} - V_t;  A_t = delta_t + discount * lambda * A_{t+1};  return_t = A_t + V_t.
    Behind an answer's last token the value is 0: the episode is over.

    Args:
        real_RL: bool; False where an answer is already over.
    """
    advantages_RL = torch.zeros_like(rewards_RL)
    next_value_R = next_advantage_R = torch.zeros_like(rewards_RL[:, 0])
    for t in reversed(range(rewards_RL.shape[1])):
        delta_R = rewards_RL[:, t] + discount * next_value_R - values_RL[:, t]
        advantage_R = delta_R + discount * gae_lambda * next_advantage_R
        advantages_RL[:, t] = next_advantage_R = torch.where(real_RL[:, t], advantage_R, 0)
        next_value_R = torch.where(real_RL[:, t], values_RL[:, t], 0)
    return advantages_RL, torch.where(real_RL, advantages_RL + values_RL, 0)


def group_advantages(rewards_R: Tensor, group: int, kind: GroupAdvantage) -> Tensor:
    """[R] advantage of each answer among the `group` answers to its prompt, which stand next to each other.

    grpo: the reward less the group's mean, in the group's standard deviations (arXiv 2402.03300). rloo: less the
    mean of the *other* answers (arXiv 2402.14740). 0 for every answer of a group whose rewards are all equal.
    """
    rewards_PG = rewards_R.view(-1, group)
    centred_PG = rewards_PG - rewards_PG.mean(1, keepdim=True)
    if kind == "rloo":
        centred_PG = centred_PG * group / (group - 1)
    else:
        centred_PG = centred_PG / (rewards_PG.std(1, keepdim=True) + 1e-4)
    alike_P1 = (rewards_PG == rewards_PG[:, :1]).all(1, keepdim=True)
    return torch.where(alike_P1, 0, centred_PG).flatten()


class ClippedPolicy(NamedTuple):
    """[A] each: the loss, the ratio of new to old probability, and whether clipping cut the gradient off."""

    loss: Tensor
    ratio: Tensor
    clipped: Tensor


def clipped_policy_loss(log_p_A: Tensor, old_A: Tensor, advantage_A: Tensor, clip: float) -> ClippedPolicy:
    """PPO's -min(ratio * A, clip(ratio, 1 ± clip) * A) (Schulman et al., arXiv 1707.06347)."""
    ratio_A = torch.exp(log_p_A - old_A)
    free_A = ratio_A * advantage_A
    bound_A = ratio_A.clamp(1 - clip, 1 + clip) * advantage_A
    return ClippedPolicy(-torch.minimum(free_A, bound_A), ratio_A.detach(), (bound_A < free_A).detach())


def clipped_value_loss(value_A: Tensor, old_A: Tensor, return_A: Tensor, clip: float) -> Tensor:
    """[A] half the larger of two squared errors: of the value, and of the value held within ± clip of the old."""
    held_A = old_A + (value_A - old_A).clamp(-clip, clip)
    return 0.5 * torch.maximum((value_A - return_A) ** 2, (held_A - return_A) ** 2)


def kl_k1(log_p_A: Tensor, reference_A: Tensor) -> Tensor:
    """[A] log p - log ref of tokens drawn from p: its mean is KL(p ‖ ref); single terms may be negative."""
    return log_p_A - reference_A


def kl_k3(log_p_A: Tensor, reference_A: Tensor) -> Tensor:
    """[A] ref/p - 1 - log(ref/p): the mean of k1, never negative, less noise (Schulman 2020, joschu.net/blog)."""
    difference_A = reference_A - log_p_A
    return torch.expm1(difference_A) - difference_A


def adapted_price(price: float, kl: float, target: float) -> float:
    """The price of a nat, moved after a round so that the divergence approaches its target.

    Proportional control of Ziegler et al., arXiv 1909.08593, with a gain of 1 where theirs is 0.1: a round moves the
    price by at most 20 %, because runs here have tens of rounds and theirs thousands.
    """
    return price * (1 + max(-0.2, min(0.2, kl / target - 1)))


def importance_weights(old_A: Tensor, engine_A: Tensor, limit: float = 2.0) -> Tensor:
    """[A] p(trainer) / p(engine), at most `limit`: answers are drawn by the engine, whose sums round differently.

    Truncated importance sampling (Yao et al. 2025, fengyao.notion.site/off-policy-rl).
    """
    return torch.exp(old_A - engine_A).clamp(max=limit)
