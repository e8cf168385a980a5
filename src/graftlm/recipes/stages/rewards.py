"""From a recipe's `reward:` to something that judges answers."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from peft import PeftModel

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
from graftlm.alignment.rewards.model import RewardModelReward, SharedTrunkReward
from graftlm.core.console import say
from graftlm.core.files import read_json
from graftlm.core.hashing import hash_file
from graftlm.core.receipts import Receipt
from graftlm.models.loading import load_tokenizer
from graftlm.models.quantised import is_quantised
from graftlm.models.reward import load_reward_model
from graftlm.models.shared_trunk import SharedTrunk
from graftlm.recipes.stage_settings import BaseStage, RewardSettings, reward_models
from graftlm.recipes.stages.base import model_key
from graftlm.recipes.stages.context import Grown, StageContext, choose_template


def build_reward(
    stage: StageContext, settings: Sequence[RewardSettings], policy: torch.nn.Module | None = None
) -> Reward:
    """The reward of a stage, its models loaded.

    Args:
        policy: the model that is being trained: reward models that are adapters on the same weights share its trunk.
    """
    parts = [(one.weight, _one_reward(stage, one, policy)) for one in settings]
    return parts[0][1] if len(parts) == 1 and parts[0][0] == 1 else WeightedSum(parts)


def _one_reward(stage: StageContext, settings: RewardSettings, policy: torch.nn.Module | None) -> Reward:
    if not settings.model:
        rule = rule_reward(settings)
        assert rule is not None
        return rule
    reward = _model_reward(stage, settings.model, policy)
    if settings.safety is None:
        return reward
    safe = _model_reward(stage, settings.safety.model, policy)
    return HelpfulAndSafe(reward, safe, settings.safety.threshold)


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


def _model_reward(stage: StageContext, name: str, policy: torch.nn.Module | None) -> RewardModelReward:
    where = stage.models[name].where if name in stage.models else name
    tokenizer = load_tokenizer(where)
    template = choose_template(stage.recipe.template, tokenizer)
    if isinstance(policy, PeftModel) and not is_quantised(policy) and _is_adapter_on(stage.start, Path(where)):
        say(f"  {name} shares the policy's trunk")
        return SharedTrunkReward(SharedTrunk(policy, Path(where), f"reward-{name}"), tokenizer, template)
    model = load_reward_model(where, dtype=torch.bfloat16 if stage.bf16 else torch.float32, device=stage.device)
    return RewardModelReward(model, tokenizer, template)


def _is_adapter_on(start: Grown, reward_model: Path) -> bool:
    """Whether a reward model of this run was trained as an adapter on these very weights."""
    receipt = reward_model.parent / "receipt.json"
    if not (receipt.is_file() and (reward_model / "adapter").is_dir()):
        return False
    return Receipt.model_validate(read_json(receipt)).inputs.get("model") == start.key


def reward_inputs(settings: BaseStage, models: Mapping[str, Grown]) -> dict[str, str]:
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
