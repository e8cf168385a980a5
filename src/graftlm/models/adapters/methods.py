"""The methods by name, and the way into them."""

from __future__ import annotations

from typing import Literal

import torch

from graftlm.core.errors import ModelError
from graftlm.models.adapters.expand import Expand
from graftlm.models.adapters.freeze import Freeze
from graftlm.models.adapters.full import Full
from graftlm.models.adapters.heads import Heads
from graftlm.models.adapters.lora import Lora
from graftlm.models.adapters.prefix import Prefix
from graftlm.models.quant_linear import quantised_layers
from graftlm.models.trunk import causal_lm

Method = Literal["full", "lora", "qlora"]
Adaptation = Full | Freeze | Lora | Prefix | Heads | Expand
"""How a model is adapted. `apply` readies a model, in place or wrapped: what is trained, and only that, then requires
gradients."""


def make_trainable(
    model: torch.nn.Module,
    how: Adaptation | Method,
    *,
    rank: int = 8,
    alpha: int = 16,
    dropout: float = 0.0,
    targets: str | list[str] = "all-linear",
    weights: torch.dtype = torch.float32,
) -> torch.nn.Module:
    """Ready the model for training.

    Args:
        how: the method with its settings; a name is short for one whose settings are given beside it, all weights in
            the format `weights` (`full`) or a LoRA adapter (`qlora`: the weights were quantised when they were loaded).

    Raises:
        ModelError: the method does not fit the model.
    """
    if quantised_layers(model):
        raise ModelError(
            "its weights are quantised and cannot be trained",
            where=type(causal_lm(model)).__name__,
            fix="train the model that it was made from, and quantise the result; or method: qlora on that model",
        )
    if isinstance(how, str):
        how = Full(weights) if how == "full" else Lora(rank, alpha, dropout, targets)
    return how.apply(model)
