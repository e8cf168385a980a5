"""Which attention heads a stage with `method: heads` trains: those that are named, or the most important ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from graftlm.core.console import say
from graftlm.core.errors import RecipeError
from graftlm.core.files import read_json, write_json
from graftlm.data.packing import pack
from graftlm.models.adapters import head_importance, most_important
from graftlm.models.adapters.heads import Head
from graftlm.objectives.causal_lm import CausalLM
from graftlm.recipes.stage_settings import TrainingStage
from graftlm.recipes.stages.blocks import mix_blocks
from graftlm.recipes.stages.context import StageContext


def choose_heads(stage: StageContext, model: torch.nn.Module) -> tuple[Head, ...]:
    """The heads that are trained. Importance is measured once; a run that goes on reads `heads.json`.

    Raises:
        RecipeError: importance is asked for where there are no given tokens to measure it on, or of several processes.
    """
    settings = stage.training.heads
    if settings.chosen is not None:
        return settings.named
    file = stage.folder / "heads.json"
    if not file.is_file():
        importance_LH = head_importance(model, _sample_losses(stage, model))
        chosen = most_important(importance_LH, max(1, round(settings.share * importance_LH.numel())))
        write_json(file, {"chosen": [list(head) for head in chosen], "importance": importance_LH.tolist()})
    kept = tuple((layer, head) for layer, head in read_json(file)["chosen"])
    say(f"  heads: {', '.join(f'{layer}.{head}' for layer, head in kept)}")
    return kept


def _sample_losses(stage: StageContext, model: torch.nn.Module) -> Iterator[Callable[[], torch.Tensor]]:
    """The usual loss of some of the rows that the stage will train on."""
    settings = stage.training
    if stage.world.size > 1 or settings.stage not in ("pretrain", "sft"):
        where = f"{stage.world.size} processes" if stage.world.size > 1 else f"a {settings.stage} stage"
        raise RecipeError(
            f"the importance of heads is not measured in {where}",
            where=f"stages.{stage.name}.heads",
            fix='name the heads, as `chosen: "0.3, 5.7"`',
        )
    assert isinstance(settings, TrainingStage)
    plan = pack(mix_blocks(stage, settings, []), row_tokens=settings.row_tokens, rows_per_step=1)

    def loss(row: int) -> torch.Tensor:
        with torch.autocast(stage.device.type, torch.bfloat16, enabled=stage.bf16):
            found = CausalLM()(model, plan.row(row).to(stage.device))
        return found.total / max(found.units, 1)

    for row in range(min(settings.heads.sample, plan.rows)):
        yield lambda row=row: loss(row)  # type: ignore[misc]
