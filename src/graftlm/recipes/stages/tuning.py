"""The story that all training stages share: mix, pack, load, train, save, write the receipt."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from graftlm.core.console import say
from graftlm.core.files import atomic_folder
from graftlm.core.receipts import BlockShare, Memory, Receipt, versions
from graftlm.data.mixing import Mixture, mix
from graftlm.data.packing import PackingPlan, pack
from graftlm.data.store import TokenStore
from graftlm.models.adapters import (
    make_trainable,
    merge_adapter,
    parameter_counts,
    recompute_activations,
    save_adapter,
)
from graftlm.models.loading import load_model, save_model
from graftlm.models.trunk import causal_lm
from graftlm.recipes.sources import token_share
from graftlm.recipes.stages.context import StageContext, now
from graftlm.training.epochs import HEURISTIC, epochs_for
from graftlm.training.memory import GIB, available_memory, peak_memory, plan_memory, reset_peak
from graftlm.training.objective import Objective
from graftlm.training.trainer import Trainer, TrainingSettings

PADDED = "this model's attention cannot keep packed documents apart: they are padded instead, which is slower"

MakeObjective = Callable[[torch.nn.Module, list[PackingPlan]], Objective]


def train(stage: StageContext, make_objective: MakeObjective) -> Receipt:
    """Run a training stage; it goes on from its last checkpoint when it was killed."""
    started, began = now(), time.perf_counter()
    settings = stage.settings
    notes: list[str] = []

    mixture = mix_blocks(stage, notes)
    plan = pack(mixture, row_tokens=settings.row_tokens, rows_per_step=settings.rows_per_step)
    held_out = pack_held_out(stage)
    say(
        f"  {len(mixture.lengths):,} samples, {int(mixture.lengths.sum()):,} tokens, {plan.steps:,} steps of "
        f"{settings.rows_per_step} × {settings.row_tokens:,} tokens, rows {plan.fill:.0%} full"
    )

    reset_peak(stage.device)
    frozen = torch.bfloat16 if stage.bf16 and settings.method == "lora" else torch.float32
    model: torch.nn.Module = load_model(stage.start_from, dtype=frozen, device=stage.device)
    if not causal_lm(model).graft_packs:
        notes.append(PADDED)
        say(f"  {PADDED}")
    lora = settings.lora
    torch.manual_seed(stage.recipe.seed)  # a new adapter's matrices are random
    model = make_trainable(
        model, settings.method, rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout, targets=lora.targets
    )
    if settings.recompute:
        recompute_activations(model)
    parameters = parameter_counts(model)
    predicted = predict_memory(stage, model.config, parameters)

    trainer = Trainer(
        model,
        make_objective(model, [plan, *([held_out] if held_out else [])]),
        plan,
        TrainingSettings(
            learning_rate=settings.peak_rate,
            weight_decay=settings.weight_decay,
            warmup=settings.warmup,
            clip=settings.clip,
            bf16=stage.bf16,
            seed=stage.recipe.seed,
            log_every=max(1, plan.steps // 100),
            evaluate_every=settings.evaluate_every or max(1, plan.steps // 10),
            patience=settings.patience,
            save_every=settings.save_every,
            save_seconds=0 if settings.save_every else 300,
            keep=settings.keep,
            pad_rows=stage.device.type == "cuda",
        ),
        held_out=held_out,
        folder=stage.folder / "checkpoints",
        key=stage.key,
        title=stage.name,
    )
    record = trainer.fit()
    if record.best_step is not None:
        notes.append(f"the weights are those of step {record.best_step}, where the held-out loss was lowest")

    with atomic_folder(stage.model_folder) as folder:
        if settings.method == "lora":
            save_adapter(model, str(folder / "adapter"))
        save_as = torch.bfloat16 if stage.recipe.save_as == "bf16" else torch.float32
        save_model(merge_adapter(model), stage.tokenizer, folder, save_as)
    return Receipt(
        stage=stage.name,
        kind=settings.stage,
        key=stage.key,
        seed=stage.recipe.seed,
        started=started,
        seconds=time.perf_counter() - began,
        versions=versions(),
        inputs=stage.inputs,
        settings=settings.model_dump(mode="json", by_alias=True),
        steps=record.steps,
        tokens=int(mixture.lengths.sum()),
        targets=trainer.meter.target,
        stopped=record.stopped,
        speed=trainer.meter.speed(
            matmul_parameters=parameters["matmul"], lora=settings.method == "lora", device=stage.device
        ),
        memory=Memory(
            predicted_gib=predicted / GIB,
            measured_gib=peak_memory(stage.device) / GIB,
            what="GPU memory" if stage.device.type == "cuda" else "resident memory of the process",
        ),
        shares=block_shares(stage, mixture),
        losses=record.losses,
        held_out=record.held_out,
        accounting={name: block.train.accounting for name, block in stage.blocks.items()},
        parameters=parameters,
        notes=notes,
    )


def mix_blocks(stage: StageContext, notes: list[str]) -> Mixture:
    """Decide how many tokens to train on, and draw them."""
    settings = stage.settings
    stores = {name: stage.blocks[name].train for name in settings.blocks}
    shares = token_share(settings.blocks, stores)
    tokens = settings.tokens or tokens_for_epochs(settings.epochs, stores, shares, notes)
    for note in notes:
        say(f"  {note}")
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


def block_shares(stage: StageContext, mixture: Mixture) -> dict[str, BlockShare]:
    """What was asked of each block, and what was trained on."""
    requested = token_share(stage.settings.blocks, dict(zip(mixture.names, mixture.stores, strict=True)))
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


def predict_memory(stage: StageContext, config: object, parameters: dict[str, int]) -> int:
    """Predicted peak in bytes; warns where the device has less."""
    plan = plan_memory(
        config,  # type: ignore[arg-type]
        parameters=parameters["all"],
        trained=parameters["trained"],
        row_tokens=stage.settings.row_tokens,
        compute_bytes=2 if stage.bf16 else 4,
        frozen_bytes=2 if stage.bf16 else 4,
        recompute=stage.settings.recompute,
        on_cpu=stage.device.type == "cpu",
    )
    say(f"  memory: needs about {plan.total / GIB:.2f} of {available_memory(stage.device) / GIB:.0f} GiB")
    return plan.total
