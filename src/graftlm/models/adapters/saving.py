"""From what was trained to what is kept."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel

from graftlm.models.adapters.heads import merge_heads
from graftlm.models.adapters.pissa import is_pissa, save_as_plain_lora
from graftlm.models.adapters.prefix_files import without_prefix
from graftlm.models.quantised import dequantised, is_quantised, merge_quantised
from graftlm.models.trunk import causal_lm


def merge_adapter(model: torch.nn.Module) -> torch.nn.Module:
    """The plain model with the adapter's change added to its weights; a model without adapter as it is, its weights
    dequantised. A prefix stays what it is."""
    merge_heads(model)
    if not is_quantised(model):
        return model.merge_and_unload() if isinstance(model, PeftModel) else model
    with without_prefix(model):
        return merge_quantised(model) if isinstance(model, PeftModel) else dequantised(causal_lm(model))


def save_adapter(model: torch.nn.Module, folder: str) -> None:
    """The trained adapter in peft's format; a reward model's on the same trunk is not part of it."""
    if is_pissa(model):
        save_as_plain_lora(model, Path(folder))  # type: ignore[arg-type]
    elif isinstance(model, PeftModel):
        model.save_pretrained(folder, selected_adapters=[model.active_adapter])
