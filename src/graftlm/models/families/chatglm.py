"""ChatGLM2-6B and ChatGLM3-6B (THUDM): their own files ↔ transformers' `GlmForCausalLM`.

What differs from GLM's defaults: two key/value groups, biases on the fused query-key-value projection only, RMSNorm
eps 1e-5, half of each head rotated in interleaved pairs (both implementations alike), base 10,000 × `rope_ratio`.
The gate comes first in the fused MLP projection in both. The tokenizer becomes a fast one; of its marks `sop` and
`eop` are spelled <sop> and <eop>, lest "philosophy" hold one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import processors
from transformers import GlmConfig, PreTrainedTokenizerFast

from graftlm.core.errors import ModelError
from graftlm.core.files import write_json
from graftlm.models.families.layout import Checkpoint, Layout, config_of, copy_sentencepiece, present
from graftlm.models.families.meta_tokenizer import is_ranked
from graftlm.models.sentencepiece_file import fast_tokenizer, read_sentencepiece
from graftlm.models.weight_files import Tensors, joined, open_weights, rows, write_safetensors

MARKS = ("[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>")
"""They get the ids behind the vocabulary, in this order."""

ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
"""ChatGLM3's, behind the marks."""

ROUNDS = (
    "[gMASK]<sop>{% set ns = namespace(round=0) %}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{% set ns.round = ns.round + 1 %}"
    "{{ '[Round ' ~ ns.round ~ ']\n\n问：' ~ message['content'] ~ '\n\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ '答：' ~ message['content'] ~ eos_token ~ '\n\n' }}"
    "{% else %}{{ message['content'] ~ '\n\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}答：{% endif %}"
)
"""ChatGLM2's chat template; an answer ends with the end token in earlier rounds, too, so that it is learnt."""

ROLE_TURNS = (
    "[gMASK]<sop>{% for message in messages %}"
    "{% set role = 'observation' if message['role'] == 'tool' else message['role'] %}"
    "{{ '<|' ~ role ~ '|>\n ' ~ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>"
    "{% elif messages and messages[-1]['role'] == 'assistant' %}<|user|>{% endif %}"
)
"""ChatGLM3's: the mark of the next turn ends an answer; the line of the answer's metadata is part of the answer."""

LAYER = (
    ("input_layernorm.weight", "input_layernorm.weight"),
    ("post_attention_layernorm.weight", "post_attention_layernorm.weight"),
    ("self_attention.dense.weight", "self_attn.o_proj.weight"),
    ("mlp.dense_h_to_4h.weight", "mlp.gate_up_proj.weight"),
    ("mlp.dense_4h_to_h.weight", "mlp.down_proj.weight"),
)
"""(ChatGLM's name, transformers' name) inside a layer."""

AROUND = (
    ("transformer.embedding.word_embeddings.weight", "model.embed_tokens.weight"),
    ("transformer.encoder.final_layernorm.weight", "model.norm.weight"),
    ("transformer.output_layer.weight", "lm_head.weight"),
)


def recognises(folder: Path) -> bool:
    config = config_of(folder)
    return config.get("model_type") == "chatglm" and "multi_query_group_num" in config


def read(folder: Path) -> Checkpoint:
    """Raises ModelError when its settings are not ChatGLM2's or ChatGLM3's, or its weights are not whole."""
    found = config_of(folder)
    source = open_weights(folder)
    config: Any = glm_config(found, folder)
    H, G, K = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    cuts = (0, H * K, (H + G) * K, (H + 2 * G) * K)
    tensors: Tensors = {ours: source.tensor(theirs) for theirs, ours in AROUND}
    for layer in range(config.num_hidden_layers):
        old, new = f"transformer.encoder.layers.{layer}.", f"model.layers.{layer}."
        tensors |= {new + ours: source.tensor(old + theirs) for theirs, ours in LAYER}
        for kind in ("weight", "bias") if config.attention_bias else ("weight",):
            fused = source.tensor(f"{old}self_attention.query_key_value.{kind}")
            for name, start, end in zip("qkv", cuts, cuts[1:], strict=False):
                tensors[f"{new}self_attn.{name}_proj.{kind}"] = rows(fused, start, end)
    source.refuse_rest(besides=r"rotary_pos_emb\.inv_freq$")
    file = folder / "tokenizer.model"
    if not file.is_file():
        return Checkpoint(config, tensors, notes=["there is no tokenizer.model: the target has no tokenizer"])
    if is_ranked(file):
        raise ModelError(
            "GLM-4's tokenizer, which is another one", where=file, fix="use the edition in Hugging Face's layout (…-hf)"
        )
    roles = speaks_in_roles(folder)
    tokenizer = make_tokenizer(file, roles=roles)
    if roles:
        config.eos_token_id = [2, *(tokenizer.get_vocab()[mark] for mark in ("<|user|>", "<|observation|>"))]
    note = f"{'ChatGLM3' if roles else 'ChatGLM2'} by its tokenizer's files; chat template set accordingly"
    return Checkpoint(config, tensors, tokenizer, (file,), [note])


def glm_config(found: dict[str, Any], folder: Path) -> GlmConfig:
    """Raises ModelError when a setting is not one that `GlmForCausalLM` can have."""
    fixed = {"add_bias_linear": False, "rmsnorm": True, "post_layer_norm": True, "original_rope": True,
             "apply_residual_connection_post_layernorm": False}  # fmt: skip
    for key, value in fixed.items():
        if found.get(key, value) != value:
            raise ModelError(
                f"{key} is {found[key]}, not {value}", where=folder / "config.json", fix="this model is of another kind"
            )
    heads = found["num_attention_heads"]
    return GlmConfig(
        vocab_size=found["padded_vocab_size"],
        hidden_size=found["hidden_size"],
        intermediate_size=found["ffn_hidden_size"],
        num_hidden_layers=found["num_layers"],
        num_attention_heads=heads,
        num_key_value_heads=found["multi_query_group_num"] if found.get("multi_query_attention") else heads,
        head_dim=found["kv_channels"],
        max_position_embeddings=found["seq_length"],
        rms_norm_eps=found.get("layernorm_epsilon", 1e-5),
        attention_bias=found.get("add_qkv_bias", False),
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10_000.0 * found.get("rope_ratio", 1),
            "partial_rotary_factor": 0.5,
        },
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=2,
        architectures=["GlmForCausalLM"],
    )


def speaks_in_roles(folder: Path) -> bool:
    """ChatGLM3 rather than ChatGLM2, whose weights have the same names and shapes."""
    named = present(folder, "config.json", "tokenizer_config.json", "tokenization_chatglm.py")
    texts = [file.read_text(encoding="utf-8") for file in named]
    return any("<|user|>" in text or "chatglm3" in text.lower() for text in texts)


def make_tokenizer(file: Path, *, roles: bool) -> PreTrainedTokenizerFast:
    """Every text begins with [gMASK] <sop>; batches are padded on the left.

    Args:
        roles: ChatGLM3's role marks and template instead of ChatGLM2's rounds.
    """
    pieces = read_sentencepiece(file)
    marks = [*MARKS, *(ROLES if roles else ())]
    rust = fast_tokenizer(pieces, marks)
    begin = [(mark, rust.token_to_id(mark)) for mark in ("[gMASK]", "<sop>")]
    rust.post_processor = processors.TemplateProcessing(
        single="[gMASK] <sop> $A", pair="[gMASK] <sop> $A $B:1", special_tokens=begin
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=rust,
        unk_token=pieces.pieces[0],
        pad_token=pieces.pieces[0],
        eos_token=pieces.pieces[2],
        additional_special_tokens=marks,
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
        chat_template=ROLE_TURNS if roles else ROUNDS,
        clean_up_tokenization_spaces=False,
    )


def write(checkpoint: Checkpoint, folder: Path) -> int:
    """Raises ModelError when the model is no GLM with half-rotated heads."""
    config, ours = checkpoint.config, checkpoint.tensors
    rope = getattr(config, "rope_parameters", None) or {}
    if config.model_type != "glm" or rope.get("partial_rotary_factor") != 0.5 or rope.get("rope_type") != "default":
        raise ModelError(
            f"a {config.model_type} model does not fit into ChatGLM's layout",
            where="--to chatglm",
            fix="only models of model_type glm with half-rotated heads do",
        )
    tensors: Tensors = {theirs: ours[name] for theirs, name in AROUND if name != "lm_head.weight"}
    tensors["transformer.output_layer.weight"] = checkpoint.head()
    for layer in range(config.num_hidden_layers):
        old, new = f"transformer.encoder.layers.{layer}.", f"model.layers.{layer}."
        tensors |= {old + theirs: ours[new + name] for theirs, name in LAYER}
        for kind in ("weight", "bias") if config.attention_bias else ("weight",):
            parts = [ours[f"{new}self_attn.{name}_proj.{kind}"] for name in "qkv"]
            tensors[f"{old}self_attention.query_key_value.{kind}"] = joined(parts)
    write_json(folder / "config.json", _chatglm_config(checkpoint, rope["rope_theta"]))
    copy_sentencepiece(checkpoint, folder)
    checkpoint.notes.append("the original's own Python files (configuration, modelling, tokenizer) belong beside it")
    return write_safetensors(folder, tensors)


def _chatglm_config(checkpoint: Checkpoint, rope_theta: float) -> dict[str, Any]:
    config = checkpoint.config
    prefix = "modeling_chatglm.ChatGLMFor"
    roles = checkpoint.tokenizer is not None and "<|user|>" in checkpoint.tokenizer.get_vocab()
    return {
        "_name_or_path": "chatglm3" if roles else "chatglm2",
        "model_type": "chatglm",
        "architectures": ["ChatGLMModel"],
        "auto_map": {
            "AutoConfig": "configuration_chatglm.ChatGLMConfig",
            "AutoModel": f"{prefix}ConditionalGeneration",
            "AutoModelForCausalLM": f"{prefix}ConditionalGeneration",
        },
        "add_bias_linear": False,
        "add_qkv_bias": config.attention_bias,
        "apply_query_key_layer_scaling": True,
        "apply_residual_connection_post_layernorm": False,
        "attention_softmax_in_fp32": True,
        "ffn_hidden_size": config.intermediate_size,
        "fp32_residual_connection": False,
        "hidden_size": config.hidden_size,
        "kv_channels": config.head_dim,
        "layernorm_epsilon": config.rms_norm_eps,
        "multi_query_attention": True,
        "multi_query_group_num": config.num_key_value_heads,
        "num_attention_heads": config.num_attention_heads,
        "num_layers": config.num_hidden_layers,
        "original_rope": True,
        "padded_vocab_size": config.vocab_size,
        "post_layer_norm": True,
        "rmsnorm": True,
        "rope_ratio": rope_theta / 10_000.0,
        "seq_length": config.max_position_embeddings,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "eos_token_id": 2,
        "torch_dtype": str(checkpoint.dtype).removeprefix("torch."),
    }


CHATGLM = Layout("chatglm", "ChatGLM2/3 (THUDM's own layout)", recognises, read, write)
