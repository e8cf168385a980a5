"""The story that the stages on given data share: mix, pack, load, train, save, write the receipt."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from graftlm.core.console import say
from graftlm.core.receipts import Receipt
from graftlm.data.mixing import Mixture
from graftlm.data.packing import PackingPlan
from graftlm.models.acceleration import accelerate, compiled_layers
from graftlm.models.adapters import (
    copied_weights,
    layers_with_gradient,
    make_trainable,
    parameter_counts,
    prefix_of,
    recompute_activations,
)
from graftlm.models.loading import load_model
from graftlm.models.trunk import causal_lm
from graftlm.objectives.causal_lm import CausalLM
from graftlm.recipes.adapting import adaptation_of, held_format, learning_rates
from graftlm.recipes.blanks import refuse_mismatch
from graftlm.recipes.budget import Budget, settle
from graftlm.recipes.stage_settings import InfillStage, TrainingStage
from graftlm.recipes.stages.blocks import Pack, mix_blocks, pack_held_out, packed_whole
from graftlm.recipes.stages.context import StageContext
from graftlm.recipes.stages.head_choice import choose_heads
from graftlm.recipes.stages.outcome import Loaded, save_language_model, whole_model, write_receipt
from graftlm.training.distributed import shard_model
from graftlm.training.feed import Feed
from graftlm.training.memory import reset_peak
from graftlm.training.objective import Objective
from graftlm.training.profiling import SKIPPED, StepProfile
from graftlm.training.trainer import Trainer, TrainingRecord, TrainingSettings

PADDED = "this model's attention cannot keep packed documents apart: they are padded instead, which is slower"

MakeObjective = Callable[[torch.nn.Module, list[PackingPlan]], Objective]
"""The trainable model, and the plans (training rows, held-out rows if any) → what is minimised."""


def train(stage: StageContext, make_objective: MakeObjective, pack_rows: Pack | None = None) -> Receipt:
    """Run a language-model stage on given data; it goes on from its last checkpoint when it was killed.

    Args:
        pack_rows: a mixture → rows; samples as they are by default.
    """
    loaded = load_trainable(stage)
    trainer, mixture = fit(stage, loaded, make_objective, pack_rows)
    save_language_model(stage, whole_model(stage, loaded))
    return write_receipt(stage, loaded, trainer, mixture)


def load_trainable(
    stage: StageContext, load: Callable[[str, torch.dtype, torch.device], torch.nn.Module] | None = None
) -> Loaded:
    """The start model in the stage's precision, every weight or an adapter ready for training.

    Args:
        load: place, number format and device → model; a causal language model by default.
    """
    settings, world = stage.training, stage.world
    reset_peak(stage.device)
    load = load or (lambda where, dtype, device: load_model(where, dtype=dtype, device=device, bits=settings.bits))
    held = held_format(settings, bf16=stage.bf16)

    def build(device: torch.device) -> torch.nn.Module:
        model = load(stage.start.where, held, device)
        torch.manual_seed(stage.recipe.seed)  # a new adapter's matrices are random
        heads = choose_heads(stage, model) if settings.method == "heads" else ()
        return make_trainable(model, adaptation_of(settings, heads))

    with world.in_turn():
        model = build(torch.device("cpu") if world.size > 1 else stage.device)
        refuse_mismatch(causal_lm(model).config, settings.stage, f"stages.{stage.name}")
        notes = [] if causal_lm(model).graft_packs or isinstance(settings, InfillStage) else [PADDED]
        parameters = parameter_counts(model)
        budget = settle_budget(stage, model, parameters)
        if budget.recompute == "full":
            recompute_activations(model)
        shard_model(model, world, bf16=stage.bf16)
    if world.size > 1:
        notes.append(f"{world.size} processes: {world.copies} copies of the weights over {world.shards} processes each")
    if budget.accelerated:
        accelerate(model, float8=budget.float8)
    if settings.recompute == "cheap" and budget.recompute != "cheap":
        notes.append("recompute: cheap was left out: it is a way of compiled layers; `full` works everywhere")
    if settings.float8 and not budget.float8:
        notes.append("float8 was left out: it needs one process, `compile: true`, bf16, and a GPU of Ada kind or newer")
    loaded = Loaded(model, parameters, budget, notes=notes, rebuild=build)
    for note in notes:
        say(f"  {note}")
    return loaded


def fit(
    stage: StageContext, loaded: Loaded, make_objective: MakeObjective, pack_rows: Pack | None = None
) -> tuple[Trainer, Mixture]:
    """Mix and pack the blocks, and train on them."""
    settings = stage.training
    assert isinstance(settings, TrainingStage)
    mixture = mix_blocks(stage, settings, loaded.notes)
    pack_rows = pack_rows or packed_whole(stage)
    plan, held_out = pack_rows(mixture), pack_held_out(stage, pack_rows)
    say(
        f"  {len(mixture.lengths):,} samples, {int(mixture.lengths.sum()):,} tokens, {plan.steps:,} steps of "
        f"{settings.rows_per_step} × {settings.row_tokens:,} tokens, rows {plan.fill:.0%} full"
    )
    idle = stage.world.idle(settings.rows_per_step)
    if idle:
        loaded.notes.append(
            f"{idle:.0%} of the processes' work does not count: a step has {settings.rows_per_step} rows for "
            f"{stage.world.size} processes; set step_tokens to a multiple of {stage.world.size * settings.row_tokens:,}"
        )
        say(f"  {loaded.notes[-1]}")
    objective = make_objective(loaded.model, [plan, *([held_out] if held_out else [])])
    trainer = make_trainer(
        stage,
        loaded.model,
        objective,
        plan,
        held_out=held_out,
        evaluate_every=settings.evaluate_every or max(1, plan.steps // 10),
        patience=settings.patience,
        rows_at_once=loaded.budget.rows_at_once,
        autocast=stage.bf16 and not (isinstance(objective, CausalLM) and _all_bf16(loaded)),
    )
    with training_speed(loaded):
        record = run_trainer(stage, trainer)
    if record.best_step is not None:
        loaded.notes.append(f"the weights are those of step {record.best_step}, where the held-out loss was lowest")
    return trainer, mixture


def training_speed(loaded: Loaded) -> AbstractContextManager[None]:
    """The model's layers compiled, where the budget has it so."""
    if not loaded.budget.accelerated:
        return nullcontext()
    return compiled_layers(loaded.model, cheap_again=loaded.budget.recompute == "cheap")


def run_trainer(stage: StageContext, trainer: Trainer) -> TrainingRecord:
    """Train; with `profile: true` also say where the time of a step goes."""
    if not stage.recipe.profile:
        return trainer.fit()
    steps = StepProfile(stage.folder, stage.device)
    record = trainer.fit(steps)
    steps.close()
    table = steps.table()
    say(table if table is not None else f"  too few steps for a profile: {SKIPPED + 1} are needed")
    return record


def make_trainer(
    stage: StageContext,
    model: torch.nn.Module,
    objective: Objective,
    feed: Feed,
    *,
    held_out: PackingPlan | None = None,
    evaluate_every: int = 0,
    patience: int = 0,
    rows_at_once: int = 1,
    autocast: bool | None = None,
    part: str = "",
) -> Trainer:
    """A trainer with the stage's settings, which keeps its checkpoints in the stage's folder.

    Args:
        rows_at_once: rows of one pass, by the memory budget.
        autocast: compute in bf16 what is held in fp32; by default where the stage is to compute in bf16.
        part: of a stage that trains several times: which time this is.
    """
    settings = stage.training
    return Trainer(
        model,
        objective,
        feed,
        TrainingSettings(
            learning_rate=settings.peak_rate,
            weight_decay=settings.weight_decay,
            warmup=settings.warmup,
            clip=settings.clip,
            rates=learning_rates(settings),
            moments=settings.moments,
            rounding=settings.rounding,
            bf16=stage.bf16 if autocast is None else autocast,
            seed=stage.recipe.seed,
            log_every=max(1, feed.steps // 100),
            evaluate_every=evaluate_every,
            patience=patience,
            save_every=settings.save_every,
            save_seconds=0 if settings.save_every else 300,
            keep=settings.keep,
            pad_rows=stage.device.type == "cuda",
            rows_at_once=rows_at_once,
        ),
        held_out=held_out,
        folder=stage.folder / "checkpoints" / part,
        key=stage.key,
        title=f"{stage.name} {part}".rstrip(),
        world=stage.world,
    )


def settle_budget(stage: StageContext, model: torch.nn.Module, parameters: dict[str, int]) -> Budget:
    """How the stage is trained, said beside what that needs."""
    budget = settle(
        stage.training,
        causal_lm(model).config,
        parameters["all"],
        parameters["trained"],
        device=stage.device,
        bf16=stage.bf16,
        processes=stage.world.size,
        shards=stage.world.shards,
        layers=layers_with_gradient(model),
        copied=copied_weights(model),
        compilable=prefix_of(model) is None,
    )
    say(f"  memory: {budget}")
    if budget.accelerated:
        tokens = budget.rows_at_once * stage.training.row_tokens
        say(f"  passes of {tokens:,} tokens, compiled layers, recomputed: {budget.recompute}")
    return budget


def _all_bf16(loaded: Loaded) -> bool:
    """Accelerated layers on bf16 weights have nothing that autocast would have to cast. Objectives that compare with
    a reference keep it, because the reference is computed under it."""
    weight = causal_lm(loaded.model).get_input_embeddings().weight
    return loaded.budget.accelerated and weight.dtype == torch.bfloat16
