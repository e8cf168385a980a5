"""Weights in 8 or 4 bits, and the gate that the result has to pass."""

from __future__ import annotations

import time

from graftlm.core.receipts import Receipt
from graftlm.recipes.quantisation import Job, quantise_folder
from graftlm.recipes.quantisation_data import exam_of, gather_evidence
from graftlm.recipes.stage_settings import QuantizeStage
from graftlm.recipes.stages.context import StageContext
from graftlm.recipes.stages.outcome import plain_receipt


def run(stage: StageContext) -> Receipt:
    began, settings = time.perf_counter(), stage.settings
    assert isinstance(settings, QuantizeStage)
    blocks = {name: stage.recipe.data[name] for name in settings.blocks}
    exam = exam_of(stage.recipe, settings.exam)
    evidence = gather_evidence(blocks, exam, settings, stage.tokenizer, stage.template, stage.recipe.seed)
    job = Job(
        stage.start.where, settings, evidence, stage.tokenizer, stage.template, stage.device, f"stages.{stage.name}"
    )
    made = quantise_folder(job, stage.model_folder)
    return plain_receipt(stage, began, figures=made.figures, notes=made.notes)
