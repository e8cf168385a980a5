"""From a recipe's `reward:` to something that judges answers."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from graftlm.alignment.rewards import (
    EndpointReward,
    HelpfulAndSafe,
    Reward,
    WeightedSum,
    contains_reward,
    exact_reward,
    format_reward,
    function_reward,
    length_reward,
    regex_reward,
)
from graftlm.alignment.rewards.model import RewardModelReward
from graftlm.core.hashing import hash_file
from graftlm.models.loading import load_tokenizer
from graftlm.models.reward import load_reward_model
from graftlm.recipes.stage_settings import GradientStage, RewardSettings, reward_models
from graftlm.recipes.stages.base import model_key
from graftlm.recipes.stages.context import Grown, StageContext, choose_template


def build_reward(stage: StageContext, settings: Sequence[RewardSettings]) -> Reward:
    """The reward of a stage, its models loaded."""
    parts = [(one.weight, _one_reward(stage, one)) for one in settings]
    return parts[0][1] if len(parts) == 1 and parts[0][0] == 1 else WeightedSum(parts)


def _one_reward(stage: StageContext, settings: RewardSettings) -> Reward:
    if not settings.model:
        rule = rule_reward(settings)
        assert rule is not None
        return rule
    reward = _model_reward(stage, settings.model)
    if settings.safety is None:
        return reward
    return HelpfulAndSafe(reward, _model_reward(stage, settings.safety.model), settings.safety.threshold)


def rule_reward(settings: RewardSettings) -> Reward | None:
    """A reward that needs no model; None for one that does.

    Raises:
        GraftError: a broken pattern, or a function that cannot be found.
    """
    if settings.model:
        return None
    if settings.function:
        return function_reward(settings.function)
    if settings.endpoint:
        return EndpointReward(settings.endpoint)
    if settings.format:
        return format_reward(settings.format)
    if settings.regex:
        return regex_reward(settings.regex)
    if settings.length:
        return length_reward(settings.length)
    return exact_reward if settings.exact else contains_reward


def _model_reward(stage: StageContext, name: str) -> RewardModelReward:
    where = stage.models[name].where if name in stage.models else name
    model = load_reward_model(where, dtype=torch.bfloat16 if stage.bf16 else torch.float32, device=stage.device)
    tokenizer = load_tokenizer(where)
    return RewardModelReward(model, tokenizer, choose_template(stage.recipe.template, tokenizer))


def reward_inputs(settings: GradientStage, models: Mapping[str, Grown]) -> dict[str, str]:
    """Identity of everything that a stage's reward is made of, by name."""
    names = reward_models(settings)
    found = {f"reward {name}": models[name].key if name in models else model_key(name) for name in names}
    rewards: list[RewardSettings] = getattr(settings, "reward", None) or []
    for one in rewards:
        file = _source_file(one.function) if one.function else None
        if file:
            found[f"reward {one.function}"] = hash_file(file)
    return found


def _source_file(function: str) -> Path | None:
    """The file of a user's function, if it can be found without running it."""
    module = function.partition(":")[0]
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    places = [Path(spec.origin)] if spec and spec.origin else []
    return next((file for file in [*places, Path(module.replace(".", "/") + ".py")] if file.is_file()), None)
