"""What an answer is worth: rules, a function of the user's, an address, and combinations of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from graftlm.alignment.rewards.combined import HelpfulAndSafe, WeightedSum
from graftlm.alignment.rewards.endpoint import EndpointReward
from graftlm.alignment.rewards.functions import function_reward
from graftlm.alignment.rewards.rules import (
    contains_reward,
    exact_reward,
    format_reward,
    length_reward,
    regex_reward,
)
from graftlm.data.samples import Prompt


class Reward(Protocol):
    """Judges answers, each by itself."""

    def __call__(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        """The reward of each answer.

        Args:
            prompts: [n] what was asked; a prompt that was answered several times stands here as often.
            answers: [n] the text of each answer, without its stop marker.

        Returns:
            [n] finite numbers; more is better.

        Raises:
            GraftError: the answers cannot be judged.
        """
        ...


__all__ = [
    "EndpointReward",
    "HelpfulAndSafe",
    "Reward",
    "WeightedSum",
    "contains_reward",
    "exact_reward",
    "format_reward",
    "function_reward",
    "length_reward",
    "regex_reward",
]
