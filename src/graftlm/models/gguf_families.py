"""How each family of models is written in GGUF: its keys, its tensors' names, and what llama.cpp wants changed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

from graftlm.core.errors import ModelError

Change = Callable[[str, Tensor, PretrainedConfig], Tensor]


def _unchanged(name: str, tensor: Tensor, config: PretrainedConfig) -> Tensor:
    return tensor


def _interleaved(name: str, tensor: Tensor, config: PretrainedConfig) -> Tensor:
    """transformers rotates the two halves of a head, llama.cpp's `llama` neighbouring pairs: rows change places."""
    if ".q_proj." in name:
        heads = config.num_attention_heads
    elif ".k_proj." in name:
        heads = config.num_key_value_heads
    else:
        return tensor
    halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return halves.transpose(1, 2).reshape(tensor.shape)


def _transposed(name: str, tensor: Tensor, config: PretrainedConfig) -> Tensor:
    """GPT-2 stores its layers [in, out]."""
    is_layer = name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight"))
    return tensor.T if is_layer else tensor


def _norms_plus_one(name: str, tensor: Tensor, config: PretrainedConfig) -> Tensor:
    """Gemma's norms multiply by 1 + weight, llama.cpp's by the weight."""
    return tensor + 1 if name.endswith("norm.weight") else tensor


@dataclass(frozen=True)
class Family:
    """A model type of transformers in llama.cpp.

    Attributes:
        architecture: llama.cpp's name.
        activation: what `hidden_act` has to be.
        change: the tensor as llama.cpp wants it.
        fixed: settings that llama.cpp takes for granted.
    """

    architecture: str
    activation: str = "silu"
    change: Change = _unchanged
    fixed: Mapping[str, Any] | None = None


FAMILIES: Mapping[str, Family] = {
    "llama": Family("llama", change=_interleaved),
    "mistral": Family("llama", change=_interleaved),
    "qwen2": Family("qwen2", fixed={"use_sliding_window": False}),
    "qwen3": Family("qwen3", fixed={"use_sliding_window": False, "attention_bias": False}),
    "gpt2": Family(
        "gpt2",
        "gelu_new",
        _transposed,
        {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "reorder_and_upcast_attn": False},
    ),
    "gemma": Family("gemma", "gelu_pytorch_tanh", _norms_plus_one, {"tie_word_embeddings": True}),
    "gemma2": Family("gemma2", "gelu_pytorch_tanh", _norms_plus_one, {"tie_word_embeddings": True}),
}


def family_of(config: PretrainedConfig, where: str) -> Family:
    """Raises ModelError for a family, or a setting of one, that llama.cpp would not compute as transformers does."""
    family = FAMILIES.get(config.model_type)
    fix = "export with --to hugging-face"
    if family is None:
        raise ModelError(
            f"GGUF of `{config.model_type}` is not known here; known: {', '.join(FAMILIES)}", where=where, fix=fix
        )
    activation = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
    activation = activation or getattr(config, "activation_function", None)
    wanted = {"activation": family.activation, **(family.fixed or {})}
    for name, value in wanted.items():
        found = activation if name == "activation" else getattr(config, name, value)
        if found != value:
            raise ModelError(f"llama.cpp computes {name} {value}, the model has {found}", where=where, fix=fix)
    if config.model_type == "gemma2" and config.query_pre_attn_scalar != config.head_dim:
        raise ModelError("llama.cpp scales queries by the head's size, the model does not", where=where, fix=fix)
    return family


def describe(writer: Any, family: Family, config: PretrainedConfig, where: str) -> list[str]:
    """Write the keys of the architecture; returns what llama.cpp does otherwise."""
    if family.architecture == "gpt2":
        _describe_gpt2(writer, config)
        return []
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    window = getattr(config, "sliding_window", None)
    longest, notes = config.max_position_embeddings, []
    if family.architecture == "llama" and window and window < longest:
        longest = window
        notes.append(f"llama.cpp has no sliding window for it: texts of up to {window} tokens are computed alike")
    writer.add_context_length(longest)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head_size)
    writer.add_vocab_size(config.vocab_size)
    if family.architecture == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
        writer.add_sliding_window(config.sliding_window)
    _describe_rotation(writer, config, where)
    return notes


def _describe_gpt2(writer: Any, config: PretrainedConfig) -> None:
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_vocab_size(config.vocab_size)


def rotation_of(config: PretrainedConfig) -> dict[str, Any]:
    """The rotary embedding's settings; empty for a model without."""
    return dict(getattr(config, "rope_parameters", None) or {})


def _describe_rotation(writer: Any, config: PretrainedConfig, where: str) -> None:
    import gguf

    rotation = rotation_of(config)
    kind = rotation.get("rope_type", "default")
    writer.add_rope_freq_base(float(rotation["rope_theta"]))
    if kind in ("default", "llama3"):  # llama3's factors are a tensor
        return
    scaling = {"linear": gguf.RopeScalingType.LINEAR, "yarn": gguf.RopeScalingType.YARN}.get(kind)
    if scaling is None:
        raise ModelError(
            f"GGUF of the rotary scaling `{kind}` is not known here", where=where, fix="export with --to hugging-face"
        )
    writer.add_rope_scaling_type(scaling)
    writer.add_rope_scaling_factor(float(rotation["factor"]))
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(int(rotation["original_max_position_embeddings"]))


def rotation_factors(config: PretrainedConfig) -> Tensor | None:
    """Llama 3's divisors of the rotary frequencies, [head size / 2]; None for other models.

    Frequencies whose wave is longer than original/low are divided by `factor`, those shorter than original/high are
    kept, those between are blended (Llama 3.1's model card).
    """
    rotation = rotation_of(config)
    if rotation.get("rope_type") != "llama3":
        return None
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    original = rotation["original_max_position_embeddings"]
    low, high, factor = (float(rotation[name]) for name in ("low_freq_factor", "high_freq_factor", "factor"))
    waves = 2 * math.pi * rotation["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float64) / size)
    share = ((original / waves - low) / (high - low)).clamp(0, 1)
    return (1 / ((1 - share) / factor + share)).float()
