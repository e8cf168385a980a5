"""More pieces for the tokenizer, and rows for them: the stages that follow read and write with the new ones."""

from __future__ import annotations

import time

from graftlm.core.console import say
from graftlm.core.receipts import Receipt
from graftlm.recipes.stage_settings import VocabularyStage
from graftlm.recipes.stages.context import StageContext
from graftlm.recipes.stages.outcome import plain_receipt, save_format
from graftlm.recipes.vocabulary import extend_folder, gather, print_figures


def run(stage: StageContext) -> Receipt:
    began, settings, data = time.perf_counter(), stage.settings, stage.recipe.data
    assert isinstance(settings, VocabularyStage)
    material = gather({name: data[name] for name in settings.blocks}, {name: data[name] for name in settings.general})
    measured = extend_folder(
        stage.start.where, stage.model_folder, material, settings, dtype=save_format(stage), seed=stage.recipe.seed
    )
    print_figures(measured)
    if measured.objections:
        say("  the stage goes on all the same")
    trained = {"all": measured.cost.parameters_after, "trained": 0}
    return plain_receipt(stage, began, figures=measured.figures(), parameters=trained)
