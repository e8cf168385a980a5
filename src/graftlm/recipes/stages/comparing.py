"""Before and after: the answers of a stage's two models to prompts that it kept back."""

from __future__ import annotations

from pathlib import Path

import torch

from graftlm.alignment.compare import compare_answers
from graftlm.alignment.prompts import Asked, encode_prompts
from graftlm.alignment.rewards import Reward
from graftlm.core.console import say
from graftlm.core.receipts import Comparison
from graftlm.data.samples import Prompt
from graftlm.evaluation.language_model import LanguageModel, language_model
from graftlm.inference.cached import position_limit
from graftlm.models.loading import load_model
from graftlm.recipes.stage_settings import ComparedStage, GradientStage
from graftlm.recipes.stages.context import StageContext


def compare_stage(stage: StageContext, reward: Reward | None) -> Comparison | None:
    """Answers to held-out prompts of the first block before and after; None where no prompt was kept back.

    The first block is what the stage is about; what becomes of the rest is for the recipe's evaluation to tell.
    """
    settings = stage.training
    assert isinstance(settings, ComparedStage)
    assert isinstance(settings, GradientStage)
    prompts = stage.prompts[next(iter(settings.blocks))].held_out
    if not prompts or not settings.compare:
        return None
    every = max(1, len(prompts) // settings.compare)
    asked = encode_for_answers(stage, load_subject(stage, stage.model_folder), prompts[::every][: settings.compare])[0]
    found = compare_answers(
        lambda: load_subject(stage, stage.start.where),
        lambda: load_subject(stage, stage.model_folder),
        asked,
        reward,
        max_new_tokens=settings.max_new_tokens,
        row_tokens=settings.row_tokens,
        seed=stage.recipe.seed,
        samples=stage.recipe.samples_in_report,
    )
    say(f"  {say_comparison(found)}")
    return found


def encode_for_answers(
    stage: StageContext, subject: LanguageModel, prompts: list[Prompt]
) -> tuple[list[Asked], int]:
    """(prompts that leave room for an answer, how many do not)."""
    return encode_prompts(subject, prompts, room_for_prompt(stage, subject))


def room_for_prompt(stage: StageContext, subject: LanguageModel) -> int:
    """Tokens that a prompt may have beside its answer."""
    settings = stage.training
    assert isinstance(settings, ComparedStage)
    room = min(settings.row_tokens, position_limit(subject.model) or settings.row_tokens)
    return room - settings.max_new_tokens


def load_subject(stage: StageContext, where: str | Path) -> LanguageModel:
    """A saved model of the run as one that answers."""
    dtype = torch.bfloat16 if stage.bf16 else torch.float32
    model = load_model(str(where), dtype=dtype, device=stage.device)
    return language_model(model, stage.tokenizer, stage.template)


def say_comparison(found: Comparison) -> str:
    """One line: what the stage did to the answers."""
    moved = f"{found.kl.value:.2f} nats an answer from the start model"
    length = f"length {found.tokens_before:.0f} → {found.tokens_after:.0f} tokens"
    if found.reward_before is None or found.reward_after is None:
        return f"answers to {found.prompts} held-out prompts: {moved}, {length}"
    gain = "" if found.gain is None else f" ({found.gain:+.1f} standard deviations)"
    return (
        f"answers to {found.prompts} held-out prompts: reward {found.reward_before.value:.2f} → "
        f"{found.reward_after.value:.2f}{gain}, {moved}, {length}"
    )
