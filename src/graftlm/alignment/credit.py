"""Which tokens get the credit for a reward: PPO's value function, or the other answers to the same prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from graftlm.alignment.rollouts import Rollouts
from graftlm.objectives.policy_gradient import (
    GroupAdvantage,
    adapted_price,
    generalised_advantages,
    group_advantages,
    kl_k1,
)


class Credit(Protocol):
    """Gives every answer token its advantage."""

    def assign(self, rollouts: Rollouts) -> dict[str, float]:
        """Fill `advantage` (and `return`) and `kept_R`; returns figures for the round's log."""

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: dict[str, Any]) -> None: ...


@dataclass
class ValueCredit:
    """PPO: the reward at the end, the price of divergence at every token, a value function as baseline.

    Args:
        price: of a nat of divergence; with `target` it is adapted to hold that many nats an answer.
        whiten: count rewards in standard deviations of the first round, from its mean: the start model's answers.
            Later rounds keep these two numbers, so that a better answer stays better.
    """

    price: float
    target: float | None
    whiten: bool
    discount: float
    gae_lambda: float
    centre: float | None = None
    spread: float = 1.0

    def assign(self, rollouts: Rollouts) -> dict[str, float]:
        if self.centre is None:
            self.centre = float(rollouts.rewards_R.mean()) if self.whiten else 0.0
            self.spread = max(float(rollouts.rewards_R.std(correction=0)), 1e-4) if self.whiten else 1.0
        real_RL = rollouts.real_RL
        rewards_RL = -self.price * kl_k1(rollouts.table("old"), rollouts.table("reference"))
        last_R1 = rollouts.lengths_R[:, None] - 1
        rewards_RL.scatter_add_(1, last_R1, ((rollouts.rewards_R - self.centre) / self.spread)[:, None])
        advantages_RL, returns_RL = generalised_advantages(
            rewards_RL, rollouts.table("value"), real_RL, discount=self.discount, gae_lambda=self.gae_lambda
        )
        advantage_A, return_A = advantages_RL[real_RL], returns_RL[real_RL]
        rollouts.per_token["advantage"] = (advantage_A - advantage_A.mean()) / (advantage_A.std(correction=0) + 1e-8)
        rollouts.per_token["return"] = return_A
        unexplained = float((return_A - rollouts.per_token["value"]).var(correction=0))
        figures = {
            "kl_price": self.price,
            "value_explains": 1 - unexplained / max(float(return_A.var(correction=0)), 1e-8),
        }
        if self.target is not None:
            kl = float((rollouts.sums("old") - rollouts.sums("reference")).mean())
            self.price = adapted_price(self.price, kl, self.target)
        return figures

    def state(self) -> dict[str, Any]:
        return {"price": self.price, "centre": self.centre, "spread": self.spread}

    def restore(self, state: dict[str, Any]) -> None:
        self.price, self.centre, self.spread = state["price"], state["centre"], state["spread"]


@dataclass(frozen=True)
class GroupCredit:
    """GRPO and RLOO: the other answers to the prompt are the baseline; groups of equal rewards are dropped."""

    group: int
    kind: GroupAdvantage

    def assign(self, rollouts: Rollouts) -> dict[str, float]:
        advantages_R = group_advantages(rollouts.rewards_R, self.group, self.kind)
        groups_PG = rollouts.rewards_R.view(-1, self.group)
        kept_P = (groups_PG != groups_PG[:, :1]).any(1)
        rollouts.kept_R = kept_P.repeat_interleave(self.group)
        rollouts.per_token["advantage"] = torch.repeat_interleave(advantages_R, rollouts.lengths_R)
        return {"groups_kept": float(kept_P.float().mean())}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing to put back."""
