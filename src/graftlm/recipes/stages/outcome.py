"""What a stage leaves behind: its model and its receipt."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from graftlm.core.files import atomic_folder
from graftlm.core.receipts import Memory, Receipt, versions
from graftlm.data.mixing import Mixture
from graftlm.models.adapters import (
    merge_adapter,
    prefix_of,
    save_adapter,
)
from graftlm.models.loading import save_model
from graftlm.models.trunk import causal_lm, kernel_choice
from graftlm.recipes.adapting import LORA
from graftlm.recipes.budget import Budget
from graftlm.recipes.stage_settings import InfillStage
from graftlm.recipes.stages.blocks import block_shares
from graftlm.recipes.stages.context import StageContext, now
from graftlm.training.distributed import gather_weights
from graftlm.training.memory import GIB, peak_memory
from graftlm.training.meter import attention_width
from graftlm.training.trainer import Trainer


@dataclass
class Loaded:
    """A model ready to be trained, and what is known about it."""

    model: torch.nn.Module
    parameters: dict[str, int]
    budget: Budget
    began: float = field(default_factory=time.perf_counter)
    started: str = field(default_factory=now)
    notes: list[str] = field(default_factory=list)
    rebuild: Callable[[torch.device], torch.nn.Module] | None = None  # the model as it was loaded, once more


def whole_model(stage: StageContext, loaded: Loaded) -> torch.nn.Module | None:
    """The trained model in one piece; of several processes the first one's, in host memory, None in the others.

    What was trained is gathered tensor by tensor and put into the start model, loaded once more: no GPU ever holds
    all of it.
    """
    if stage.world.size == 1:
        return loaded.model
    assert loaded.rebuild is not None
    trained = {name: p.detach() for name, p in loaded.model.named_parameters() if p.requires_grad}
    weights = gather_weights(trained, stage.world)
    if not stage.world.first:
        return None
    model = loaded.rebuild(torch.device("cpu"))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = weights.pop(name)
    return model


def save_language_model(stage: StageContext, model: torch.nn.Module | None) -> None:
    """The adapter by itself, if there is one, and the whole model; nothing where another process has the model."""
    if model is None:
        return
    with atomic_folder(stage.model_folder) as folder:
        if stage.training.method in LORA:
            save_adapter(model, str(folder / "adapter"))
        save_model(merge_adapter(model), stage.tokenizer, folder, save_format(stage))


def save_format(stage: StageContext) -> torch.dtype:
    return torch.bfloat16 if stage.recipe.save_as == "bf16" else torch.float32


def write_receipt(stage: StageContext, loaded: Loaded, trainer: Trainer, mixture: Mixture | None = None) -> Receipt:
    """The receipt of a stage that was trained; `mixture` where it was trained on given data."""
    settings, record = stage.training, trainer.record
    whole_or_adapter = settings.method == "full" or settings.method in LORA
    rows = {name: block.train.accounting for name, block in stage.blocks.items()}
    asked = {name: prompts.accounting for name, prompts in stage.prompts.items()}
    return Receipt(
        stage=stage.name,
        kind=stage.settings.stage,
        key=stage.key,
        seed=stage.recipe.seed,
        started=loaded.started,
        seconds=time.perf_counter() - loaded.began,
        versions=versions(),
        inputs=stage.inputs,
        settings=settings.model_dump(mode="json", by_alias=True),
        steps=record.steps,
        tokens=int(mixture.lengths.sum()) if mixture is not None else trainer.meter.all - trainer.meter.padding,
        targets=trainer.meter.target,
        stopped=record.stopped,
        speed=trainer.meter.speed(
            matmul_parameters=loaded.parameters["matmul"] // stage.world.size,  # utilisation is that of one GPU
            lora=settings.method != "full",
            # of the other methods no formula counts the operations: no utilisation is claimed
            device=stage.device if whole_or_adapter else torch.device("cpu"),
            attention_width=attention_width(causal_lm(loaded.model).config) // stage.world.size,
        ),
        memory=Memory(
            predicted_gib=loaded.budget.needed / GIB,
            measured_gib=peak_memory(stage.device) / GIB,
            what="GPU memory" if stage.device.type == "cuda" else "resident memory of the process",
        ),
        ways=ways_taken(stage, loaded),
        shares=block_shares(settings, mixture) if mixture is not None else {},
        losses=record.losses,
        held_out=record.held_out,
        accounting=rows or asked,
        parameters=loaded.parameters,
        notes=loaded.notes,
    )


def plain_receipt(
    stage: StageContext,
    began: float,
    *,
    figures: dict[str, float | str] | None = None,
    parameters: dict[str, int] | None = None,
    notes: list[str] | None = None,
) -> Receipt:
    """The receipt of a stage without gradients.

    Args:
        began: `time.perf_counter()` when it began.
        figures: what it measured, by names that a reader understands.
        parameters: `all` and `trained` of the model that it made.
    """
    seconds = time.perf_counter() - began
    started = datetime.datetime.now().astimezone() - datetime.timedelta(seconds=seconds)
    return Receipt(
        stage=stage.name,
        kind=stage.settings.stage,
        key=stage.key,
        seed=stage.recipe.seed,
        started=started.isoformat(timespec="seconds"),
        seconds=seconds,
        versions=versions(),
        inputs=stage.inputs,
        settings=stage.settings.model_dump(mode="json", by_alias=True),
        figures=figures or {},
        parameters=parameters or {},
        notes=notes or [],
    )


def ways_taken(stage: StageContext, loaded: Loaded) -> dict[str, str]:
    """What was measured or settled to train fast, for the receipt."""
    model, budget = causal_lm(loaded.model), loaded.budget
    attention = str(kernel_choice(model)) if model.graft_packs else "padded rows"
    attention = attention if prefix_of(model) is None else "documents of like length together, each behind the prefix"
    if isinstance(stage.settings, InfillStage):
        attention = "samples of like length, each seeing its context both ways"
    layers = f"compiled, recomputed: {budget.recompute}" if budget.accelerated else f"recomputed: {budget.recompute}"
    tokens = budget.rows_at_once * stage.training.row_tokens
    return {"attention": attention, "layers": layers, "pass": f"{tokens} tokens", "memory": str(budget)}
