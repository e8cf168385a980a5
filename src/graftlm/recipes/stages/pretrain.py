"""Continued pre-training: the domain's text, mixed with general text so that the rest is not forgotten."""

from __future__ import annotations

from graftlm.core.receipts import Receipt
from graftlm.objectives.causal_lm import CausalLM
from graftlm.recipes.stages.context import StageContext
from graftlm.recipes.stages.tuning import train


def run(stage: StageContext) -> Receipt:
    return train(stage, lambda model, plans: CausalLM())
