"""From multi-head to grouped-query attention: the key and value heads of a group become their mean (arXiv 2305.13245).

Exact where the heads of a group are equal. Otherwise the paper trains on for about 5 % of the pre-training steps.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import torch

from graftlm.core.errors import ModelError
from graftlm.models.families.layout import Checkpoint

POOLED = re.compile(r"self_attn\.[kv]_proj\.(weight|bias)$")


def pool_key_value_heads(checkpoint: Checkpoint, kv_heads: int) -> Checkpoint:
    """The checkpoint with so many key/value heads in every layer.

    Raises:
        ModelError: the model has no separate key and value projections, or its heads do not fall into groups.
    """
    config = copy.deepcopy(checkpoint.config)
    before = getattr(config, "num_key_value_heads", None)
    pooled = [name for name in checkpoint.tensors if POOLED.search(name)]
    if before is None or not pooled:
        raise ModelError(
            f"a {config.model_type} model has no key and value heads of its own to pool",
            where="--kv-heads",
            fix="Llama-like, Qwen, GLM and Baichuan 7B models have",
        )
    if kv_heads < 1 or before % kv_heads or kv_heads == before:
        fewer = [str(count) for count in range(1, before) if before % count == 0]
        raise ModelError(
            f"{before} key/value heads do not make {kv_heads}",
            where="--kv-heads",
            fix=f"choose one of {', '.join(fewer)}" if fewer else "it has a single one already",
        )
    config.num_key_value_heads = kv_heads
    tensors = dict(checkpoint.tensors)
    for name in pooled:
        tensors[name] = _pooled(tensors[name], before, kv_heads)
    note = f"{before} key/value heads pooled to {kv_heads}; train on, about 5 % of the pre-training (arXiv 2305.13245)"
    return Checkpoint(config, tensors, checkpoint.tokenizer, checkpoint.copies, [*checkpoint.notes, note])


def _pooled(read: Callable[[], torch.Tensor], before: int, after: int) -> Callable[[], torch.Tensor]:
    return lambda: pool_heads(read(), before, after)


def pool_heads(weight: torch.Tensor, before: int, after: int) -> torch.Tensor:
    """[before · K, …] → [after · K, …]: the mean of each group of heads, taken in fp32 at least."""
    K = weight.shape[0] // before
    exact = weight.to(torch.promote_types(weight.dtype, torch.float32))
    grouped = exact.reshape(after, before // after, K, *weight.shape[1:])
    return grouped.mean(dim=1).reshape(after * K, *weight.shape[1:]).to(weight.dtype)
