"""Where the attention heads of a model stand in its weights.

Shapes: H query heads, G key/value heads (H a multiple of G), D head size.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from transformers import PretrainedConfig
from transformers.pytorch_utils import Conv1D

from graftlm.core.errors import ModelError

PER_HEAD = ("gpt_neox", "bloom")
"""Families whose `query_key_value` holds query, key and value of a head next to each other."""

OUTPUTS = ("o_proj", "out_proj", "c_proj", "dense")


@dataclass(frozen=True)
class Slices:
    """Rows of a projection into heads, or columns of the one out of them, that belong to some heads.

    Attributes:
        side: whether they are outputs (with their biases) or inputs of the layer.
        own: whether they are queries' or outputs', which every head has for itself; keys and values may be shared.
    """

    layer: nn.Module
    side: Literal["out", "in"]
    places: torch.Tensor
    own: bool

    @property
    def dim(self) -> int:
        """Of the weight: transformers' Conv1D stores it transposed."""
        return int((self.side == "in") != isinstance(self.layer, Conv1D))


def head_count(config: PretrainedConfig) -> int:
    """H; 0 for a model without attention."""
    return getattr(config.get_text_config(), "num_attention_heads", None) or 0


def head_slices(attention: nn.Module, config: PretrainedConfig, heads: Collection[int]) -> list[Slices]:
    """The slices of some heads of a layer. Keys and values are among them where all heads that share them are chosen:
    otherwise heads that were not chosen would change.

    Raises:
        ModelError: the layout of this attention is not known.
    """
    text = config.get_text_config()
    H, G = head_count(config), getattr(text, "num_key_value_heads", None) or head_count(config)
    D = getattr(text, "head_dim", None) or text.hidden_size // H
    group = H // G
    shared = [g for g in range(G) if all(h in heads for h in range(g * group, (g + 1) * group))]
    queries, keys = _places(heads, D), _places(shared, D)
    layers = dict(attention.named_children())
    output = next((layers[name] for name in OUTPUTS if name in layers), None)
    if output is None or _width(output, "in") != H * D:
        raise _unknown(attention)
    found = [Slices(output, "in", queries, own=True)]
    if all(name in layers for name in ("q_proj", "k_proj", "v_proj")) and _width(layers["q_proj"], "out") == H * D:
        found.append(Slices(layers["q_proj"], "out", queries, own=True))
        found += [Slices(layers[name], "out", keys, own=False) for name in ("k_proj", "v_proj")]
    elif fused := layers.get("qkv_proj") or layers.get("c_attn"):
        if _width(fused, "out") != (H + 2 * G) * D:
            raise _unknown(attention)
        found.append(Slices(fused, "out", queries, own=True))
        found += [Slices(fused, "out", start + keys, own=False) for start in (H * D, (H + G) * D)]
    elif "query_key_value" in layers and text.model_type in PER_HEAD:
        triples = [_places(heads, D, stride=3 * D, start=part * D) for part in range(3)]
        found += [Slices(layers["query_key_value"], "out", rows, own=part == 0) for part, rows in enumerate(triples)]
    else:
        raise _unknown(attention)
    return [slices for slices in found if len(slices.places)]


def _places(numbers: Collection[int], size: int, *, stride: int | None = None, start: int = 0) -> torch.Tensor:
    """Indices of the blocks with these numbers."""
    first = torch.tensor(sorted(numbers), dtype=torch.long)[:, None] * (stride or size) + start
    return (first + torch.arange(size)).flatten()


def _width(layer: nn.Module, side: Literal["out", "in"]) -> int:
    weight = layer.weight
    return int(weight.shape[(side == "in") != isinstance(layer, Conv1D)])  # type: ignore[index]


def _unknown(attention: nn.Module) -> ModelError:
    return ModelError(
        "where its heads stand in its weights is not known", where=type(attention).__name__, fix="use another method"
    )
