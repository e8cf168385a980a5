"""From a stage's `method` to what is trained."""

from __future__ import annotations

import torch

from graftlm.models.adapters import Adaptation, Expand, Freeze, Full, Heads, Lora, Prefix
from graftlm.models.adapters.heads import Head
from graftlm.recipes.stage_settings import BestOfStage, GradientStage

LORA = ("lora", "qlora")
"""Methods whose adapters are merged into frozen weights when the stage is saved."""


def adaptation_of(settings: GradientStage, heads: tuple[Head, ...] = ()) -> Adaptation:
    """How the stage's model is adapted.

    Args:
        heads: those that are trained with method: heads.
    """
    if settings.method == "full":
        return Full(trained_format(settings))
    if settings.method == "freeze":
        freeze = settings.freeze
        return Freeze(freeze.last, freeze.match, freeze.embedding, freeze.head)
    if settings.method == "ptuning":
        prefix = settings.ptuning
        return Prefix(prefix.tokens, prefix.projection, prefix.hidden, prefix.dropout, prefix.std)
    if settings.method == "heads":
        return Heads(heads)
    if settings.method == "expand":
        return Expand(settings.expand.blocks)
    lora = settings.lora
    return Lora(lora.rank, lora.alpha, lora.dropout, lora.targets, lora.kind)


def trained_format(settings: GradientStage) -> torch.dtype:
    return torch.float32 if settings.weights == "fp32" else torch.bfloat16


def held_format(settings: GradientStage, *, bf16: bool) -> torch.dtype:
    """Of the weights as they are loaded: frozen ones in bf16 where the stage computes in it.

    Where only some weights are frozen, layers of both formats follow each other, which needs autocast: answers of a
    best_of stage are written without it.
    """
    mixed = settings.method not in (*LORA, "ptuning", "heads") and isinstance(settings, BestOfStage)
    if not bf16 or settings.method == "full" or mixed:
        return trained_format(settings)
    return torch.bfloat16


def learning_rates(settings: GradientStage) -> dict[str, float]:
    """Factors on the learning rate by a part of the parameters' names."""
    return {"lora_B": settings.lora.plus} if settings.method in LORA and settings.lora.plus > 1 else {}
