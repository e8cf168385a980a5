"""Stage `merge`: several models made one, or an adapter put into the model before."""

from __future__ import annotations

import time
from collections.abc import Mapping

from graftlm.core.receipts import Receipt
from graftlm.data.cleaning import text_of_sample
from graftlm.models.merge_gate import is_adapter
from graftlm.models.merging import ON_A_BASE, Merging
from graftlm.recipes.merging import TEXTS, merge_to
from graftlm.recipes.sources import read_source
from graftlm.recipes.stage_settings import BaseStage, MergeStage, merged_models
from graftlm.recipes.stages.base import model_key
from graftlm.recipes.stages.context import Grown, StageContext
from graftlm.recipes.stages.outcome import plain_receipt

COMPARED = 64
"""Texts of each block that models are compared on."""


def run(stage: StageContext) -> Receipt:
    settings = stage.settings
    assert isinstance(settings, MergeStage)
    began = time.perf_counter()
    models = {place_of(name, stage.models): weight for name, weight in settings.weighted.items()}
    based = settings.method in ON_A_BASE or any(is_adapter(place) for place in models)
    how = Merging(
        settings.method,
        tuple(models.values()),
        density=settings.density,
        scale=settings.scale,
        alpha=settings.alpha,
        seed=stage.recipe.seed,
    )
    figures = merge_to(
        stage.model_folder,
        models,
        base=place_of(settings.base or stage.recipe.start_of(stage.name), stage.models) if based else None,
        how=how,
        precision=stage.recipe.save_as,
        texts=_texts(stage) or TEXTS,
        bounds=settings.gate.bounds,
    )
    return plain_receipt(stage, began, figures=figures)


def merge_inputs(settings: BaseStage, models: Mapping[str, Grown]) -> dict[str, str]:
    """Identity of what is merged, by name."""
    names = merged_models(settings)
    return {f"merge {name}": models[name].key if name in models else model_key(name) for name in names}


def place_of(name: str, models: Mapping[str, Grown]) -> str:
    """The folder of a stage's model; any other name is a place by itself."""
    return models[name].where if name in models else name


def _texts(stage: StageContext) -> list[str]:
    return [
        text_of_sample(sample)
        for block in stage.settings.blocks
        for sample in list(read_source(block, stage.recipe.data[block]).samples)[:COMPARED]
    ]
