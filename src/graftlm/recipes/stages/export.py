"""Stage `export`: the model before it, for another program."""

from __future__ import annotations

import time

from graftlm.core.files import remove_folder
from graftlm.core.receipts import Receipt
from graftlm.recipes.exporting import export_model
from graftlm.recipes.stage_settings import ExportStage
from graftlm.recipes.stages.context import StageContext
from graftlm.recipes.stages.outcome import plain_receipt


def run(stage: StageContext) -> Receipt:
    settings = stage.settings
    assert isinstance(settings, ExportStage)
    began = time.perf_counter()
    out = stage.folder / "export"
    remove_folder(out)  # of a run that was killed before its receipt
    figures = export_model(
        stage.start.where,
        out,
        settings.to,
        kind=settings.type,
        licence=settings.licence,
        template=stage.recipe.template,
        title=stage.recipe.name,
    )
    return plain_receipt(stage, began, figures=figures)
