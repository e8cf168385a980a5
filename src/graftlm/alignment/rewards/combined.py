"""Rewards made of rewards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from graftlm.core.errors import RecipeError
from graftlm.data.samples import Prompt

if TYPE_CHECKING:
    from graftlm.alignment.rewards import Reward


class WeightedSum:
    """The sum of rewards, each times its weight.

    Raises:
        RecipeError: there is no reward, or a weight that is no finite number.
    """

    def __init__(self, parts: Sequence[tuple[float, Reward]]) -> None:
        if not parts:
            raise RecipeError("there is no reward to add up", fix="name at least one")
        for weight, _ in parts:
            if not math.isfinite(weight):
                raise RecipeError(f"the weight of a reward is {weight}", fix="give a finite number")
        self.parts = tuple(parts)

    def __call__(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        total = [0.0] * len(answers)
        for weight, reward in self.parts:
            total = [so_far + weight * one for so_far, one in zip(total, reward(prompts, answers), strict=True)]
        return total


class HelpfulAndSafe:
    """LLaMA 2's rule for two reward models (arXiv 2307.09288, section 3.2.3).

    Safety judges alone where the prompt is tagged unsafe, or where the answer is safe with a probability below the
    threshold; helpfulness judges all else. The paper combines the models' probabilities and takes the logit of the
    result. A reward model gives the logit r of its probability sigma(r), and logit(sigma(r)) = r, so the reward of
    the model that judges is passed on as it is. Whitening, the paper's next step, is PPO's (`whiten_rewards`).

    Args:
        helpful, safe: reward models; both give logits.
        threshold: the probability, 0 to 1.

    Raises:
        RecipeError: the threshold is no probability.
    """

    def __init__(self, helpful: Reward, safe: Reward, threshold: float = 0.15) -> None:
        if not 0 <= threshold <= 1:
            raise RecipeError(f"the safety threshold is {threshold}", fix="give a probability from 0 to 1")
        self.helpful, self.safe = helpful, safe
        self.least_safe = _logit(threshold)  # sigma grows: sigma(r) < threshold where r < logit(threshold)

    def __call__(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        helpfulness, safety = self.helpful(prompts, answers), self.safe(prompts, answers)
        return [
            safe if prompt.unsafe or safe < self.least_safe else helpful
            for prompt, helpful, safe in zip(prompts, helpfulness, safety, strict=True)
        ]


def _logit(probability: float) -> float:
    if probability in (0, 1):
        return math.inf if probability else -math.inf
    return math.log(probability / (1 - probability))
