"""Keep the pieces of the vocabulary that the blocks' texts need."""

from __future__ import annotations

import time

import torch

from graftlm.core.receipts import Receipt
from graftlm.data.cleaning import text_of_sample
from graftlm.recipes.pruning import prune
from graftlm.recipes.sources import read_source
from graftlm.recipes.stage_settings import PruneVocabularyStage
from graftlm.recipes.stages.context import StageContext
from graftlm.recipes.stages.outcome import plain_receipt


def run(stage: StageContext) -> Receipt:
    began, settings = time.perf_counter(), stage.settings
    assert isinstance(settings, PruneVocabularyStage)
    sources = {name: stage.recipe.data[name] for name in settings.blocks}
    texts = [text_of_sample(sample) for name, source in sources.items() for sample in read_source(name, source).samples]
    dtype = torch.bfloat16 if stage.recipe.save_as == "bf16" else torch.float32
    done = prune(stage.start.where, texts, settings.at_least, stage.model_folder, dtype=dtype)
    done.say()
    return plain_receipt(
        stage, began, figures=done.figures(), parameters={"all": done.after.parameters, "trained": 0}
    )
