"""From what was trained to what is kept."""

from __future__ import annotations

import torch
from peft import PeftModel

from graftlm.models.quantised import is_quantised, merge_quantised


def merge_adapter(model: torch.nn.Module) -> torch.nn.Module:
    """The plain model with the adapter's change added to its weights; a model without adapter as it is."""
    if not isinstance(model, PeftModel):
        return model
    return merge_quantised(model) if is_quantised(model) else model.merge_and_unload()


def save_adapter(model: torch.nn.Module, folder: str) -> None:
    """The trained adapter in peft's format; a reward model's on the same trunk is not part of it."""
    if isinstance(model, PeftModel):
        model.save_pretrained(folder, selected_adapters=[model.active_adapter])
