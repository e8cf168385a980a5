"""Settings of the stages that learn from preferences and rewards."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from graftlm.recipes.method_settings import Part
from graftlm.recipes.stage_settings.base import BaseStage, GradientStage, TrainingStage


def listed_rewards(value: object) -> object:
    """A name is a reward model; one reward is a list of one."""
    listed = value if isinstance(value, list) else [value]
    return [{"model": one} if isinstance(one, str) else one for one in listed]


class SafetyReward(Part):
    """LLaMA 2's rule for two reward models: safety decides where the prompt or the answer is unsafe."""

    model: str = Field(description="the safety reward model: a reward stage, a folder, or a hub name")
    threshold: float = Field(0.15, ge=0, le=1, description="answers that are safe with less probability are unsafe")
    blocks: list[str] = Field(default_factory=list, description="blocks whose prompts are unsafe by themselves")


class RewardSettings(Part):
    """What answers are rewarded for; exactly one of the kinds, from `model` to `length`."""

    model: str | None = Field(None, description="a reward stage of this recipe, a folder, or a hub name")
    safety: SafetyReward | None = Field(None, description="a second reward model beside `model`")
    function: str | None = Field(None, description="Python function by dotted path: package.module:name")
    endpoint: str | None = Field(None, description="http address that takes prompts and answers and returns rewards")
    exact: bool = Field(False, description="1 for an answer that equals an accepted one, else 0")
    contains: bool = Field(False, description="1 for an answer that contains an accepted one, else 0")
    format: str | None = Field(None, description="1 where the whole answer matches this regular expression, else 0")
    regex: str | None = Field(None, description="1 where this regular expression is found in the answer, else 0")
    length: int | None = Field(None, gt=0, description="minus the share of words above this number, at most 1")
    weight: float = Field(1.0, description="factor on this reward; rewards are added up")

    @model_validator(mode="after")
    def _one_kind(self) -> RewardSettings:
        kinds = ("model", "function", "endpoint", "exact", "contains", "format", "regex", "length")
        given = [name for name in kinds if getattr(self, name) not in (None, False)]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(kinds)} (given: {', '.join(given) or 'none'})")
        if self.safety and not self.model:
            raise ValueError("safety stands beside a reward model: give `model`, too")
        return self


Rewards = Annotated[list[RewardSettings], Field(min_length=1), BeforeValidator(listed_rewards)]


class RewardStage(TrainingStage):
    """A reward model: a scalar head that scores the better answer of a pair above the worse one."""

    stage: Literal["reward"] = "reward"
    model: str | None = Field(
        None, description="start from this model instead of a stage's: a folder or hub name, as a DeBERTa reward model"
    )
    epochs: float | Literal["auto"] = 1.0
    margin: Literal["none", "small", "large"] = Field(
        "none", description="how far apart: by the pairs' strength, on LLaMA 2's small (to 1) or large (to 3) scale"
    )

    @model_validator(mode="after")
    def _has_a_head(self) -> RewardStage:
        if self.method == "qlora":
            raise ValueError("a reward model is not trained on quantised weights: use method: lora")
        if self.method not in ("full", "freeze", "lora"):
            raise ValueError(f"method: {self.method} would not train a reward model's head: use lora, freeze or full")
        return self

    @property
    def makes_language_model(self) -> bool:
        return False


class ComparedStage(Part):
    """Settings of the stages whose answers are read side by side before and after."""

    compare: int = Field(100, ge=0, description="held-out prompts that are answered before and after; 0: none")
    max_new_tokens: int = Field(64, gt=0, description="longest answer")


class PreferenceStage(TrainingStage, ComparedStage):
    """Settings of the stages that learn from which answer is better."""

    epochs: float | Literal["auto"] = 1.0
    sft_weight: float = Field(0.0, ge=0, description="weight of the usual loss on the better answers, beside")
    reward: Rewards | None = Field(None, description="scores the answers before and after; trains nothing")


class DpoStage(PreferenceStage):
    """Direct preference optimisation."""

    stage: Literal["dpo"] = "dpo"
    beta: float = Field(0.1, gt=0)
    loss: Literal["sigmoid", "hinge", "ipo", "robust"] = "sigmoid"
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="share of the pairs that are the wrong way round")

    @model_validator(mode="after")
    def _smoothing_has_a_loss(self) -> DpoStage:
        if self.label_smoothing and self.loss not in ("sigmoid", "robust"):
            raise ValueError("label_smoothing belongs to the losses sigmoid and robust")
        return self


class KtoStage(PreferenceStage):
    """Kahneman-Tversky optimisation: answers with a thumb up or down."""

    stage: Literal["kto"] = "kto"
    beta: float = Field(0.1, gt=0)
    desirable_weight: float = Field(1.0, gt=0)
    undesirable_weight: float = Field(1.0, gt=0)


class OrpoStage(PreferenceStage):
    """Odds-ratio preference optimisation: no reference model; the usual loss on the better answer is part of it."""

    stage: Literal["orpo"] = "orpo"
    beta: float = Field(0.1, gt=0, description="weight of the odds ratio beside the usual loss")
    sft_weight: float = Field(1.0, ge=0, description="weight of the usual loss on the better answers")


class SimpoStage(PreferenceStage):
    """Simple preference optimisation: no reference model, mean log-probability a token."""

    stage: Literal["simpo"] = "simpo"
    beta: float = Field(2.0, gt=0)
    target_margin: float = Field(1.0, ge=0, description="how far apart the two answers are to be, in units of reward")


class PolicyStage(GradientStage, ComparedStage):
    """Settings of the stages that learn from their own answers."""

    reward: Rewards = Field(description="what answers are rewarded for")
    iterations: int = Field(100, gt=0, description="rounds of answering and learning")
    answers: int = Field(64, gt=0, description="answers of one round")
    passes: int = Field(2, gt=0, description="how often the answers of a round are learnt from")
    minibatches: int = Field(2, gt=0, description="optimizer steps of one pass")
    clip_ratio: float = Field(0.2, gt=0, description="how far the probability of a token may move in one round")
    kl: float = Field(0.05, ge=0, description="price of a nat of divergence from the start model")
    max_kl: float = Field(20.0, gt=0, description="training stops above this many nats an answer")
    unfinished_reward: float | None = Field(None, description="reward of an answer that was cut off")

    @model_validator(mode="after")
    def _reference_is_below(self) -> PolicyStage:
        if self.method == "lora" and self.lora.kind == "pissa":
            raise ValueError("without its adapter a model with kind: pissa is not what it was: use kind: lora")
        return self


class PpoStage(PolicyStage):
    """Proximal policy optimisation with a value head."""

    stage: Literal["ppo"] = "ppo"
    kl_target: float | None = Field(None, gt=0, description="nats an answer that the price is adapted to hold")
    whiten_rewards: bool = Field(True, description="in standard deviations of the start model's rewards")
    gae_lambda: float = Field(0.95, ge=0, le=1)
    discount: float = Field(1.0, gt=0, le=1)
    value_weight: float = Field(0.1, ge=0)
    value_clip: float = Field(0.2, gt=0)
    entropy_weight: float = Field(0.0, ge=0)


class GrpoStage(PolicyStage):
    """Group-relative policy optimisation: several answers to one prompt are each other's baseline."""

    stage: Literal["grpo"] = "grpo"
    group: int = Field(8, gt=1, description="answers to one prompt")
    advantage: Literal["grpo", "rloo"] = Field(
        "grpo", description="reward less the group's mean in its standard deviations, or less the others' mean"
    )
    kl: float = Field(0.0, ge=0, description="price of a nat of divergence from the start model")

    @model_validator(mode="after")
    def _whole_groups(self) -> GrpoStage:
        if self.answers % self.group:
            raise ValueError(f"answers ({self.answers}) must be a multiple of group ({self.group})")
        return self


class BestOfStage(TrainingStage, ComparedStage):
    """Rejection sampling: answer each prompt several times, train on the best answers of all rounds so far."""

    stage: Literal["best_of"] = "best_of"
    reward: Rewards = Field(description="what the best answer is")
    samples: int = Field(4, gt=1, description="answers to one prompt")
    rounds: int = Field(2, gt=0)
    prompts: int = Field(256, gt=0, description="prompts of one round")
    epochs: float | Literal["auto"] = 1.0
    ghost_instructions: list[str] = Field(
        default_factory=list, description="ghost attention: instructions that are to hold through a whole conversation"
    )


def reward_models(stage: BaseStage) -> list[str]:
    """The reward models that a stage asks, by name."""
    rewards: list[RewardSettings] = getattr(stage, "reward", None) or []
    found = [name for one in rewards for name in (one.model, one.safety.model if one.safety else None) if name]
    return list(dict.fromkeys(found))


def unsafe_blocks(stage: BaseStage) -> set[str]:
    """Blocks whose prompts a stage's safety reward judges alone."""
    rewards: list[RewardSettings] = getattr(stage, "reward", None) or []
    return {block for one in rewards if one.safety for block in one.safety.blocks}
