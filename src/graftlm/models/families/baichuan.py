"""Baichuan 1 and 2 (baichuan-inc): 7B ↔ `LlamaForCausalLM`, 13B ↔ graft's own class, which keeps the names.

7B is a Llama whose query, key and value lie in one bias-free `W_pack` of equal thirds. Baichuan 2's head, of either
size, is normalised: logits = h · rows of length 1. For Llama the rows are normalised once and for all. That cannot be
undone (the lengths are gone), but changes no logit.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, PretrainedConfig, PreTrainedTokenizerFast

from graftlm.core.errors import ModelError
from graftlm.core.files import write_json
from graftlm.models.families.baichuan_alibi import BaichuanAlibiConfig
from graftlm.models.families.layout import Checkpoint, Layout, config_of, copy_sentencepiece
from graftlm.models.sentencepiece_file import fast_tokenizer, read_sentencepiece
from graftlm.models.weight_files import Tensors, joined, open_weights, rows, write_safetensors

USER, ASSISTANT = 195, 196
"""Ids of the reserved tokens that open a user's turn and an answer."""

BAICHUAN2_VOCABULARY = 125_696
LAYER = (
    "input_layernorm",
    "self_attn.W_pack",
    "self_attn.o_proj",
    "post_attention_layernorm",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
UNIT = 0.02
"""A row of length 1 rounded to bf16 is within this of it."""

TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ 'USER' ~ message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ 'ASSISTANT' ~ message['content'] ~ eos_token }}"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT{% endif %}"
)


def recognises(folder: Path) -> bool:
    return config_of(folder).get("model_type") == "baichuan"


def read(folder: Path) -> Checkpoint:
    """Raises ModelError when the weights are not whole."""
    found = config_of(folder)
    # Only 7B has rotary positions and with them a number of positions that is not just the tokenizer's.
    rotary = "max_position_embeddings" in found
    config, tensors, notes = (_read_rotary if rotary else _read_alibi)(found, folder)
    file = folder / "tokenizer.model"
    if not file.is_file():
        notes.append("there is no tokenizer.model: the target has no tokenizer")
        return Checkpoint(config, tensors, notes=notes)
    return Checkpoint(config, tensors, make_tokenizer(file), (file,), notes)


def _has_norm_head(found: dict[str, Any]) -> bool:
    told = "z_loss_weight" in found or found["vocab_size"] == BAICHUAN2_VOCABULARY
    return bool(found.get("norm_head", told))


def _common(found: dict[str, Any]) -> dict[str, Any]:
    same = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return {name: found[name] for name in same} | {
        "rms_norm_eps": found.get("rms_norm_eps", 1e-6),
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
    }


def _read_rotary(found: dict[str, Any], folder: Path) -> tuple[PretrainedConfig, Tensors, list[str]]:
    positions = found["max_position_embeddings"]
    config = LlamaConfig(**_common(found), max_position_embeddings=positions, architectures=["LlamaForCausalLM"])
    tensors, D = _weights(folder, config.num_hidden_layers), config.hidden_size
    for name in [name for name in tensors if "W_pack" in name]:
        packed = tensors.pop(name)
        for third, letter in enumerate("qkv"):
            tensors[name.replace("W_pack", f"{letter}_proj")] = rows(packed, third * D, (third + 1) * D)
    if not _has_norm_head(found):
        return config, tensors, ["Baichuan 7B, with a plain head"]
    tensors["lm_head.weight"] = _normalised(tensors["lm_head.weight"])
    return config, tensors, ["Baichuan 2 7B: the rows of its head are normalised, which cannot be undone"]


def _normalised(head: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    return lambda: F.normalize(head().float()).to(head().dtype)


def _read_alibi(found: dict[str, Any], folder: Path) -> tuple[PretrainedConfig, Tensors, list[str]]:
    norm_head = _has_norm_head(found)
    config = BaichuanAlibiConfig(
        **_common(found),
        norm_head=norm_head,
        z_loss_weight=found.get("z_loss_weight", 0.0),
        model_max_length=found.get("model_max_length", 4096),
        architectures=["BaichuanAlibiForCausalLM"],
    )
    kind = "Baichuan 2 13B, with a normalised head" if norm_head else "Baichuan 13B, with a plain head"
    return config, _weights(folder, config.num_hidden_layers), [kind]


def _weights(folder: Path, layers: int) -> Tensors:
    """All tensors by their own names. Raises ModelError when one is missing, or there are others."""
    source = open_weights(folder)
    names = ["model.embed_tokens", *(f"model.layers.{i}.{part}" for i in range(layers) for part in LAYER)]
    tensors = {f"{name}.weight": source.tensor(f"{name}.weight") for name in (*names, "model.norm", "lm_head")}
    source.refuse_rest(besides=r"(rotary_emb\.inv_freq|future_mask)$")
    return tensors


def make_tokenizer(file: Path) -> PreTrainedTokenizerFast:
    pieces = read_sentencepiece(file)
    marks = [pieces.pieces[number] for number in (USER, ASSISTANT) if number < len(pieces.pieces)]
    template = TEMPLATE.replace("USER", marks[0]).replace("ASSISTANT", marks[1]) if len(marks) == 2 else None
    return PreTrainedTokenizerFast(
        tokenizer_object=fast_tokenizer(pieces, marks),
        unk_token=pieces.pieces[0],
        bos_token=pieces.pieces[1],
        eos_token=pieces.pieces[2],
        pad_token=pieces.pieces[0],
        additional_special_tokens=marks,
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )


def write(checkpoint: Checkpoint, folder: Path) -> int:
    """Raises ModelError when the model is neither a Baichuan 13B nor a Llama of Baichuan 7B's kind."""
    config = checkpoint.config
    if isinstance(config, BaichuanAlibiConfig):
        tensors = dict(checkpoint.tensors)
        own = {name: getattr(config, name) for name in ("model_max_length", "norm_head", "z_loss_weight")}
    else:
        tensors = _packed(checkpoint)
        # Rows of length 1 stay as they are.
        own = {"max_position_embeddings": config.max_position_embeddings, "norm_head": False}
    write_json(folder / "config.json", _baichuan_config(checkpoint) | own)
    copy_sentencepiece(checkpoint, folder)
    checkpoint.notes.append("the original's own Python files (configuration, modelling, tokenizer) belong beside it")
    return write_safetensors(folder, tensors)


def _packed(checkpoint: Checkpoint) -> Tensors:
    """Llama's tensors with W_pack."""
    _refuse_other_llamas(checkpoint)
    tensors = {name: read for name, read in checkpoint.tensors.items() if ".self_attn." not in name}
    for layer in range(checkpoint.config.num_hidden_layers):
        attention = f"model.layers.{layer}.self_attn."
        parts = [checkpoint.tensors[f"{attention}{letter}_proj.weight"] for letter in "qkv"]
        tensors[f"{attention}W_pack.weight"] = joined(parts)
        tensors[f"{attention}o_proj.weight"] = checkpoint.tensors[f"{attention}o_proj.weight"]
    tensors["lm_head.weight"] = checkpoint.head()
    return tensors


def _refuse_other_llamas(checkpoint: Checkpoint) -> None:
    config, rope = checkpoint.config, getattr(checkpoint.config, "rope_parameters", None) or {}
    plain = rope.get("rope_type", "default") == "default" and rope.get("rope_theta", 10_000.0) == 10_000.0
    grouped = config.num_attention_heads != getattr(config, "num_key_value_heads", None)
    if config.model_type != "llama" or grouped or not plain or getattr(config, "attention_bias", False):
        raise ModelError(
            f"a {config.model_type} model of this shape does not fit into Baichuan's layout",
            where="--to baichuan",
            fix="only Llamas with as many key/value heads as heads, no biases and a rotary base of 10,000 do",
        )
    if config.vocab_size != BAICHUAN2_VOCABULARY:
        return
    length = checkpoint.head()().float().norm(dim=1)
    if (length - 1).abs().max() > UNIT:
        raise ModelError(
            "the rows of its head are not of length 1, and Baichuan 2's code would make them so: logits would change",
            where="--to baichuan",
            fix="keep it as a Llama, or train with the head frozen",
        )


def _baichuan_config(checkpoint: Checkpoint) -> dict[str, Any]:
    config = checkpoint.config
    first = config.vocab_size != BAICHUAN2_VOCABULARY and not isinstance(config, BaichuanAlibiConfig)
    name = "BaiChuan" if first else "Baichuan"  # Baichuan 1 7B spells itself so
    same = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return {one: getattr(config, one) for one in same} | {
        "model_type": "baichuan",
        "architectures": [f"{name}ForCausalLM"],
        "auto_map": {
            "AutoConfig": f"configuration_baichuan.{name}Config",
            "AutoModelForCausalLM": f"modeling_baichuan.{name}ForCausalLM",
        },
        "hidden_act": "silu",
        "initializer_range": config.initializer_range,
        "rms_norm_eps": config.rms_norm_eps,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
        "torch_dtype": str(checkpoint.dtype).removeprefix("torch."),
    }


BAICHUAN = Layout("baichuan", "Baichuan 1/2 (baichuan-inc's own layout)", recognises, read, write)
