"""Direct preference optimisation: of two answers to one question, prefer the better one."""

from __future__ import annotations

from graftlm.core.errors import DataError
from graftlm.core.receipts import Receipt
from graftlm.objectives.preference import DPO, reference_log_probabilities
from graftlm.recipes.stage_settings import DpoStage
from graftlm.recipes.stages.context import StageContext
from graftlm.recipes.stages.tuning import train


def run(stage: StageContext) -> Receipt:
    settings = stage.settings
    assert isinstance(settings, DpoStage)
    for name, block in stage.blocks.items():
        if block.train.group != 2:
            raise DataError(
                "DPO needs pairs of answers",
                where=f"data.{name}",
                fix="give rows with `chosen` and `rejected`",
            )
    pad_rows = stage.device.type == "cuda"
    return train(
        stage,
        lambda model, plans: DPO(
            settings.beta, reference_log_probabilities(model, plans, pad_rows=pad_rows, bf16=stage.bf16)
        ),
    )
