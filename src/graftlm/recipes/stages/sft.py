"""Supervised fine-tuning: answers to instructions, and when to stop."""

from __future__ import annotations

from graftlm.core.receipts import Receipt
from graftlm.objectives.causal_lm import CausalLM, PerExample
from graftlm.recipes.stage_settings import SftStage
from graftlm.recipes.stages.context import StageContext
from graftlm.recipes.stages.tuning import train


def run(stage: StageContext) -> Receipt:
    settings = stage.settings
    assert isinstance(settings, SftStage)
    return train(stage, lambda model, plans: PerExample() if settings.loss == "example" else CausalLM())
