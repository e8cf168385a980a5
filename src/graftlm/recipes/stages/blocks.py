"""The data of a stage: how much of each block is trained on, and what is kept back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graftlm.core.console import say
from graftlm.core.receipts import BlockShare
from graftlm.data.mixing import Mixture, mix
from graftlm.data.packing import PackingPlan, pack
from graftlm.data.store import TokenStore
from graftlm.recipes.stage_settings import GradientStage, TrainingStage
from graftlm.recipes.stages.context import StageContext
from graftlm.recipes.tokenise import token_share
from graftlm.training.epochs import HEURISTIC, epochs_for

Pack = Callable[[Mixture], PackingPlan]
"""How a stage makes rows of a mixture."""


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


def packed_whole(stage: StageContext) -> Pack:
    """Samples as they are."""
    settings = stage.training
    rows_per_step = settings.rows_per_step if isinstance(settings, TrainingStage) else 1
    return lambda mixture: pack(mixture, row_tokens=settings.row_tokens, rows_per_step=rows_per_step)


def pack_held_out(stage: StageContext, pack_rows: Pack) -> PackingPlan | None:
    """All samples kept back, once each, numbered apart from the training blocks."""
    stores = [stage.blocks[name].held_out for name in stage.training.blocks]
    counts = [store.samples for store in stores]
    if sum(counts) == 0:
        return None
    mixture = Mixture(
        tuple(stage.training.blocks),
        tuple(stores),
        np.repeat(np.arange(len(stores)), counts),
        np.concatenate([np.arange(count) for count in counts]),
        np.concatenate([store.sample_lengths for store in stores]),
        first_block=len(stores),
    )
    return pack_rows(mixture)


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
