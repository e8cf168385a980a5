"""The story that the stages on given data share: mix, pack, load, train, save, write the receipt."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import PretrainedConfig

from graftlm.core.console import say
from graftlm.core.files import atomic_folder
from graftlm.core.receipts import BlockShare, Memory, Receipt, versions
from graftlm.data.mixing import Mixture, mix
from graftlm.data.packing import PackingPlan, pack
from graftlm.data.store import TokenStore
from graftlm.models.acceleration import accelerate, compiled_layers
from graftlm.models.adapters import (
    make_trainable,
    merge_adapter,
    parameter_counts,
    recompute_activations,
    save_adapter,
)
from graftlm.models.loading import load_model, save_model
from graftlm.models.trunk import causal_lm
from graftlm.recipes.budget import Budget, settle
from graftlm.recipes.stage_settings import GradientStage, TrainingStage
from graftlm.recipes.stages.context import StageContext, now
from graftlm.recipes.tokenise import token_share
from graftlm.training.distributed import gather_weights, shard_model
from graftlm.training.epochs import HEURISTIC, epochs_for
from graftlm.training.feed import Feed
from graftlm.training.memory import GIB, peak_memory, reset_peak
from graftlm.training.meter import attention_width
from graftlm.training.objective import Objective
from graftlm.training.profiling import SKIPPED, StepProfile
from graftlm.training.trainer import Trainer, TrainingRecord, TrainingSettings

PADDED = "this model's attention cannot keep packed documents apart: they are padded instead, which is slower"

MakeObjective = Callable[[torch.nn.Module, list[PackingPlan]], Objective]
"""The trainable model, and the plans (training rows, held-out rows if any) → what is minimised."""


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


def train(stage: StageContext, make_objective: MakeObjective) -> Receipt:
    """Run a language-model stage on given data; it goes on from its last checkpoint when it was killed."""
    loaded = load_trainable(stage)
    trainer, mixture = fit(stage, loaded, make_objective)
    save_language_model(stage, whole_model(stage, loaded))
    return write_receipt(stage, loaded, trainer, mixture)


def load_trainable(
    stage: StageContext, load: Callable[[str, torch.dtype, torch.device], torch.nn.Module] | None = None
) -> Loaded:
    """The start model in the stage's precision, every weight or an adapter ready for training.

    Args:
        load: place, number format and device → model; a causal language model by default.
    """
    settings, world = stage.settings, stage.world
    reset_peak(stage.device)
    load = load or (lambda where, dtype, device: load_model(where, dtype=dtype, device=device, bits=settings.bits))
    trained = torch.float32 if settings.weights == "fp32" else torch.bfloat16
    held = torch.bfloat16 if stage.bf16 and settings.method != "full" else trained

    def build(device: torch.device) -> torch.nn.Module:
        model = load(stage.start.where, held, device)
        lora = settings.lora
        torch.manual_seed(stage.recipe.seed)  # a new adapter's matrices are random
        return make_trainable(
            model,
            settings.method,
            rank=lora.rank,
            alpha=lora.alpha,
            dropout=lora.dropout,
            targets=lora.targets,
            weights=trained,
        )

    with world.in_turn():
        model = build(torch.device("cpu") if world.size > 1 else stage.device)
        notes = [] if causal_lm(model).graft_packs else [PADDED]
        parameters = parameter_counts(model)
        budget = settle_budget(stage, causal_lm(model).config, parameters)
        if budget.recompute == "full":
            recompute_activations(model)
        shard_model(model, world, bf16=stage.bf16)
    if world.size > 1:
        notes.append(f"{world.size} processes: {world.copies} copies of the weights over {world.shards} processes each")
    if budget.accelerated:
        accelerate(model, float8=settings.float8)
    elif settings.float8:
        notes.append("float8 needs a GPU that computes in bf16, and `compile: true`: it was left out")
    loaded = Loaded(model, parameters, budget, notes=notes, rebuild=build)
    for note in notes:
        say(f"  {note}")
    return loaded


def fit(stage: StageContext, loaded: Loaded, make_objective: MakeObjective) -> tuple[Trainer, Mixture]:
    """Mix and pack the blocks, and train on them."""
    settings = stage.settings
    assert isinstance(settings, TrainingStage)
    mixture = mix_blocks(stage, settings, loaded.notes)
    plan = pack(mixture, row_tokens=settings.row_tokens, rows_per_step=settings.rows_per_step)
    held_out = pack_held_out(stage)
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
    part: str = "",
) -> Trainer:
    """A trainer with the stage's settings, which keeps its checkpoints in the stage's folder.

    Args:
        rows_at_once: rows of one pass, by the memory budget.
        part: of a stage that trains several times: which time this is.
    """
    settings = stage.settings
    return Trainer(
        model,
        objective,
        feed,
        TrainingSettings(
            learning_rate=settings.peak_rate,
            weight_decay=settings.weight_decay,
            warmup=settings.warmup,
            clip=settings.clip,
            moments=settings.moments,
            rounding=settings.rounding,
            bf16=stage.bf16,
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
        if stage.settings.method != "full":
            save_adapter(model, str(folder / "adapter"))
        save_model(merge_adapter(model), stage.tokenizer, folder, save_format(stage))


def save_format(stage: StageContext) -> torch.dtype:
    return torch.bfloat16 if stage.recipe.save_as == "bf16" else torch.float32


def write_receipt(stage: StageContext, loaded: Loaded, trainer: Trainer, mixture: Mixture | None = None) -> Receipt:
    """The receipt of a stage that was trained; `mixture` where it was trained on given data."""
    settings, record = stage.settings, trainer.record
    rows = {name: block.train.accounting for name, block in stage.blocks.items()}
    asked = {name: prompts.accounting for name, prompts in stage.prompts.items()}
    return Receipt(
        stage=stage.name,
        kind=settings.stage,
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
            device=stage.device,
            attention_width=attention_width(causal_lm(loaded.model).config) // stage.world.size,
        ),
        memory=Memory(
            predicted_gib=loaded.budget.needed / GIB,
            measured_gib=peak_memory(stage.device) / GIB,
            what="GPU memory" if stage.device.type == "cuda" else "resident memory of the process",
        ),
        shares=block_shares(settings, mixture) if mixture is not None else {},
        losses=record.losses,
        held_out=record.held_out,
        accounting=rows or asked,
        parameters=loaded.parameters,
        notes=loaded.notes,
    )


def mix_blocks(stage: StageContext, settings: TrainingStage, notes: list[str]) -> Mixture:
    """Decide how many tokens to train on, and draw them."""
    stores = {name: stage.blocks[name].train for name in settings.blocks}
    shares = token_share(settings.blocks, stores)
    own: list[str] = []
    tokens = settings.tokens or tokens_for_epochs(settings.epochs, stores, shares, own)
    for note in own:
        say(f"  {note}")
    notes += own
    order = settings.mix or stage.recipe.mix
    return mix(stores, shares, tokens, order, stage.recipe.seed)


def tokens_for_epochs(
    epochs: float | str, stores: dict[str, TokenStore], shares: dict[str, float], notes: list[str]
) -> int:
    """Tokens of the whole mix when the first block is passed over `epochs` times."""
    first = next(iter(shares))
    samples = stores[first].samples
    if epochs == "auto":
        epochs = epochs_for(samples)
        notes.append(f"epochs: {epochs:.1f} for the {samples:,} samples of {first}, by {HEURISTIC}")
    return int(float(epochs) * float(stores[first].offsets[-1]) / shares[first])


def pack_held_out(stage: StageContext) -> PackingPlan | None:
    """All samples kept back, once each, numbered apart from the training blocks."""
    stores = [stage.blocks[name].held_out for name in stage.settings.blocks]
    counts = [store.samples for store in stores]
    if sum(counts) == 0:
        return None
    mixture = Mixture(
        tuple(stage.settings.blocks),
        tuple(stores),
        np.repeat(np.arange(len(stores)), counts),
        np.concatenate([np.arange(count) for count in counts]),
        np.concatenate([store.sample_lengths for store in stores]),
        first_block=len(stores),
    )
    return pack(mixture, row_tokens=stage.settings.row_tokens)


def block_shares(settings: GradientStage, mixture: Mixture) -> dict[str, BlockShare]:
    """What was asked of each block, and what was trained on."""
    requested = token_share(settings.blocks, dict(zip(mixture.names, mixture.stores, strict=True)))
    realised = mixture.realised_shares()
    found = {}
    for place, (name, store) in enumerate(zip(mixture.names, mixture.stores, strict=True)):
        chosen = mixture.block == place
        found[name] = BlockShare(
            requested=requested[name],
            realised=realised[name],
            samples=int(chosen.sum()),
            tokens=int(mixture.lengths[chosen].sum()),
            epochs=float(chosen.sum() / max(store.samples, 1)),
        )
    return found


def settle_budget(stage: StageContext, config: PretrainedConfig, parameters: dict[str, int]) -> Budget:
    """How the stage is trained, said beside what that needs."""
    budget = settle(
        stage.settings,
        config,
        parameters["all"],
        parameters["trained"],
        device=stage.device,
        bf16=stage.bf16,
        shards=stage.world.shards,
    )
    say(f"  memory: {budget}")
    if budget.accelerated:
        tokens = budget.rows_at_once * stage.settings.row_tokens
        say(f"  passes of {tokens:,} tokens, compiled layers, recomputed: {budget.recompute}")
    return budget
