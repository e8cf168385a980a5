"""Gradient checkpointing."""

from __future__ import annotations

import torch

from graftlm.core.errors import ModelError
from graftlm.models.trunk import causal_lm


def recompute_activations(model: torch.nn.Module) -> None:
    """Gradient checkpointing: keep one hidden state a layer and recompute the rest in the backward pass."""
    inner = causal_lm(model)
    if not inner.supports_gradient_checkpointing:
        raise ModelError(
            "it cannot recompute activations", where=type(inner).__name__, fix="set `recompute: none`"
        )
    # transformers 5.23 has the new name and warns of the old one, 5.17 has only the old one.
    enable = getattr(inner, "activation_checkpointing_enable", None) or inner.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    inner.enable_input_require_grads()
