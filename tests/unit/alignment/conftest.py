"""A language of letters: a token is a character, so that a tiny random model writes text that can be judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from graftlm.alignment.credit import Credit, GroupCredit, ValueCredit
from graftlm.alignment.feed import RolloutFeed, RolloutSettings
from graftlm.alignment.objective import PolicyObjective
from graftlm.alignment.policy import Policy
from graftlm.alignment.prompts import Asked
from graftlm.alignment.rewards import Reward
from graftlm.data.samples import Origin, Prompt, Turn
from graftlm.evaluation.language_model import LanguageModel
from graftlm.models.adapters import make_trainable
from graftlm.training.trainer import Trainer, TrainingSettings

STOP = 2


def write(tokens: Sequence[int]) -> str:
    return "".join(chr(token + 32) for token in tokens)


def read(turns: Sequence[Turn]) -> list[int]:
    return [1, *(ord(letter) - 32 for turn in turns for letter in turn.content.replace("\n", " "))]


@pytest.fixture
def speaker() -> Callable[[torch.nn.Module], LanguageModel]:
    """model → a subject in the language of letters."""

    def make(model: torch.nn.Module) -> LanguageModel:
        return LanguageModel(
            model=model,
            encode=read,
            encode_text=lambda text: read([Turn("user", text)])[1:],
            decode=write,
            stop_ids=[STOP],
            pad_id=0,
        )

    return make


@pytest.fixture
def letters(
    tiny_model: Callable[..., PreTrainedModel], speaker: Callable[[torch.nn.Module], LanguageModel]
) -> LanguageModel:
    """A random model that speaks letters."""
    return speaker(tiny_model())


def prompts(*texts: str) -> list[Asked]:
    asked = [Prompt((Turn("user", text),), Origin("prompts", line)) for line, text in enumerate(texts, 1)]
    return [Asked(prompt, read(prompt.prompt)) for prompt in asked]


@pytest.fixture
def ask() -> Callable[..., list[Asked]]:
    """Texts → prompts in the language of letters."""
    return prompts


def capitals(prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
    """Share of an answer's characters that are capital letters: a reward that is easily learnt."""
    return [sum(letter.isupper() for letter in answer) / max(len(answer), 1) for answer in answers]


@pytest.fixture
def start(
    tiny_model: Callable[..., PreTrainedModel], speaker: Callable[[torch.nn.Module], LanguageModel]
) -> Callable[..., Trainer]:
    """Settings → a trainer of a policy; its `feed` has the rollouts, its `model` is the policy."""

    def make(
        *,
        group: int = 1,
        method: str = "full",
        family: str = "llama",
        reward: Reward = capitals,
        texts: Sequence[str] = ("abc", "de", "f", "ghij"),
        answers: int = 16,
        seed: int = 0,
        learning_rate: float = 3e-3,
        price: float = 0.0,
        target: float | None = None,
        folder: Path | None = None,
        spread: float = 0.2,
        dropout: float = 0.0,
        **changes: Any,
    ) -> Trainer:
        model = tiny_model(family, spread=spread)
        torch.manual_seed(1)
        trainable = make_trainable(model, method, rank=4, dropout=dropout)  # type: ignore[arg-type]
        policy = Policy(trainable, value=group == 1)
        rollout = {
            "iterations": 2,
            "passes": 2,
            "minibatches": 2,
            "max_new_tokens": 8,
            "row_tokens": 64,
            "max_kl": float("inf"),
            "unfinished_reward": None,
            "bf16": False,
            "seed": seed,
        } | changes
        asked = prompts(*texts)
        a_round = [one for place in range(answers // group) for one in [asked[place % len(asked)]] * group]
        credit: Credit = GroupCredit(group, "grpo") if group > 1 else ValueCredit(price, target, True, 1.0, 0.95)
        feed = RolloutFeed(
            policy, speaker(model), [a_round] * rollout["iterations"], reward, credit, RolloutSettings(**rollout)
        )
        objective = PolicyObjective(
            feed.current, 0.2, value_weight=0.1 if group == 1 else 0.0, kl_weight=price if group > 1 else 0.0
        )
        settings = TrainingSettings(learning_rate=learning_rate, weight_decay=0.0, warmup=0.0, log_every=1, seed=seed)
        return Trainer(policy, objective, feed, settings, folder=folder)

    return make
