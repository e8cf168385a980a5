"""Blank infilling: GLM's pre-training, on text and on instructions."""

from __future__ import annotations

from graftlm.core.receipts import Receipt
from graftlm.data.blank_infilling import KINDS, Masking, sentence_ends
from graftlm.data.infill_plan import plan_infilling
from graftlm.data.mixing import Mixture
from graftlm.data.packing import PackingPlan
from graftlm.models.loading import load_config
from graftlm.objectives.blank_infilling import BlankInfilling, Shrink
from graftlm.recipes.blanks import marks_in, refuse_mismatch
from graftlm.recipes.stage_settings import InfillStage
from graftlm.recipes.stages.blocks import Pack
from graftlm.recipes.stages.context import StageContext
from graftlm.recipes.stages.tuning import train


def run(stage: StageContext) -> Receipt:
    settings = stage.settings
    assert isinstance(settings, InfillStage)
    objective = BlankInfilling(shrink_of(settings))
    return train(stage, lambda model, plans: objective, masked_rows(stage, settings))


def masked_rows(stage: StageContext, settings: InfillStage) -> Pack:
    config, masking = load_config(stage.start.where), masking_of(settings)
    refuse_mismatch(config, settings.stage, f"stages.{stage.name}")
    marks = marks_in(config)
    assert marks is not None
    ends_V = sentence_ends(stage.tokenizer) if settings.masks.get("smask") else None

    def pack_rows(mixture: Mixture) -> PackingPlan:
        return plan_infilling(
            mixture,
            row_tokens=settings.row_tokens,
            rows_per_step=settings.rows_per_step,
            marks=marks,
            masking=masking,
            seed=stage.recipe.seed,
            ends_V=ends_V,
        )

    return pack_rows


def masking_of(settings: InfillStage) -> Masking:
    mask, smask, gmask = (settings.masks.get(kind, 0.0) for kind in KINDS)
    return Masking(
        shares=(mask, smask, gmask),
        ratio=settings.mask_ratio,
        span=settings.span,
        least_tail=settings.least_tail,
        window=settings.mask_window,
    )


def shrink_of(settings: InfillStage) -> Shrink | None:
    asked = settings.embedding_gradient
    if asked is None:
        return None
    if isinstance(asked, float):
        return Shrink(asked, asked)
    return Shrink(asked.start, asked.end, asked.after, asked.over)
