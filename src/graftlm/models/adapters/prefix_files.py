"""The prefix of a model on disk: peft's PrefixTuning file in `prefix/` beside the weights that it belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import PrefixTuningConfig
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from graftlm.core.errors import ModelError
from graftlm.models.adapters.prefix import ATTRIBUTE, PrefixEncoder, attach_prefix, prefix_of
from graftlm.models.trunk import causal_lm

FOLDER = "prefix"
WEIGHTS = "adapter_model.safetensors"
KEY = "prompt_embeddings"


def save_prefix(model: nn.Module, folder: Path) -> None:
    """Write `prefix/` where the model has one: what the projection makes of it, not the projection."""
    encoder = prefix_of(model)
    if encoder is None:
        return
    P, double, heads, size = encoder.shape
    where = folder / FOLDER
    where.mkdir(parents=True, exist_ok=True)
    config = PrefixTuningConfig(
        task_type="CAUSAL_LM",
        inference_mode=True,
        num_virtual_tokens=P,
        num_layers=double // 2,
        num_attention_heads=heads,
        token_dim=heads * size,
        num_transformer_submodules=1,
    )
    config.save_pretrained(str(where))
    with torch.no_grad():
        save_file({KEY: encoder.flat().float().cpu().contiguous()}, where / WEIGHTS, metadata={"format": "pt"})


def load_prefix(inner: PreTrainedModel, folder: Path) -> None:
    """Give the model the prefix of its folder, if there is one; graft's own or peft's PrefixTuning.

    Raises:
        ModelError: the file is of another method, or does not fit the model.
    """
    where = folder / FOLDER
    if not (where / WEIGHTS).is_file():
        return
    config = PrefixTuningConfig.from_pretrained(str(where))
    weights = load_file(where / WEIGHTS)
    if not isinstance(config, PrefixTuningConfig) or KEY not in weights:
        raise ModelError("it is not a prefix", where=where, fix="remove the folder")
    P, layers, heads, width = (
        int(getattr(config, name) or 1)
        for name in ("num_virtual_tokens", "num_layers", "num_attention_heads", "token_dim")
    )
    encoder = PrefixEncoder(P, layers, heads, width // heads, hidden=None, dropout=0.0, std=0.0)
    if weights[KEY].shape != encoder.embedding.weight.shape:
        shape = tuple(weights[KEY].shape)
        raise ModelError(f"its shape {shape} is not what its config says", where=where, fix="copy the folder anew")
    with torch.no_grad():
        encoder.embedding.weight.copy_(weights[KEY])
    attach_prefix(inner, encoder.requires_grad_(False))


@contextmanager
def without_prefix(model: nn.Module) -> Iterator[None]:
    """Inside, the prefix is none of the model's parameters: it has a file of its own and keeps its fp32."""
    inner = causal_lm(model)
    encoder = inner._modules.pop(ATTRIBUTE, None)
    try:
        yield
    finally:
        if encoder is not None:
            inner._modules[ATTRIBUTE] = encoder
