"""LLaMA 1, 2 and 3 as Meta gives them (meta-llama/llama, llama3): `consolidated.NN.pth` + params.json ↔ transformers.

The files of one model are its parts for several GPUs: what was split is joined along the dimension it was split by.
Rotary pairs are interleaved in Meta's files and halves in transformers', so rows of wq and wk are reordered.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig

from graftlm.core.errors import ModelError
from graftlm.core.files import read_json, write_json
from graftlm.models.families.layout import Checkpoint, Layout, copy_sentencepiece
from graftlm.models.families.meta_tokenizer import make_tokenizer
from graftlm.models.rotary import halves_from_pairs, pairs_from_halves
from graftlm.models.weight_files import Tensors, Weights, joined, model_files

LAYER = (
    ("attention.wq", "self_attn.q_proj", 0),
    ("attention.wk", "self_attn.k_proj", 0),
    ("attention.wv", "self_attn.v_proj", 0),
    ("attention.wo", "self_attn.o_proj", 1),
    ("feed_forward.w1", "mlp.gate_proj", 0),
    ("feed_forward.w2", "mlp.down_proj", 1),
    ("feed_forward.w3", "mlp.up_proj", 0),
    ("attention_norm", "input_layernorm", None),
    ("ffn_norm", "post_attention_layernorm", None),
)
"""(Meta's name, transformers' name, the dimension that files split; None: each file has it whole)."""

AROUND = (("output", "lm_head", 0), ("norm", "model.norm", None))


def recognises(folder: Path) -> bool:
    """Not where Hugging Face's files lie beside Meta's."""
    return (folder / "params.json").is_file() and any(folder.glob("consolidated.*.pth")) and not model_files(folder)


def read(folder: Path) -> Checkpoint:
    """Raises ModelError when the files are not the whole of a model that params.json describes."""
    params = read_json(folder / "params.json")
    files = sorted(folder.glob("consolidated.*.pth"))
    parts = [Weights([file]) for file in files]
    config = llama_config(params, parts)
    tensors: Tensors = {"model.embed_tokens.weight": _joined_embedding(parts, config.hidden_size)}
    tensors |= {f"{ours}.weight": _whole(parts, f"{theirs}.weight", dim) for theirs, ours, dim in AROUND}
    heads = _heads_of(config)
    for layer in range(config.num_hidden_layers):
        for theirs, ours, dim in LAYER:
            read_it = _whole(parts, f"layers.{layer}.{theirs}.weight", dim)
            if theirs in heads:
                read_it = _reordered(read_it, halves_from_pairs, heads[theirs])
            tensors[f"model.layers.{layer}.{ours}.weight"] = read_it
    for part in parts:
        part.refuse_rest(besides=r"^rope\.freqs$")
    notes = [f"{len(files)} file{'s' if len(files) > 1 else ''}, {config.max_position_embeddings:,} positions"]
    return _with_tokenizer(Checkpoint(config, tensors, notes=notes), folder, params)


def _with_tokenizer(checkpoint: Checkpoint, folder: Path, params: dict[str, Any]) -> Checkpoint:
    """Meta keeps it beside LLaMA 3's weights and above the folders of LLaMA 1 and 2."""
    file = next((f for f in (folder / "tokenizer.model", folder.parent / "tokenizer.model") if f.is_file()), None)
    if file is None:
        checkpoint.notes.append("there is no tokenizer.model beside or above it: the target has no tokenizer")
        return checkpoint
    tokenizer = make_tokenizer(file, newer=bool(params.get("use_scaled_rope")))
    config = checkpoint.config
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    checkpoint.notes.append("no chat template: for a chat model say `template: llama2` or `llama3` in the recipe")
    return Checkpoint(config, checkpoint.tensors, tokenizer, (file,), checkpoint.notes)


def llama_config(params: dict[str, Any], parts: list[Weights]) -> LlamaConfig:
    """Raises ModelError when the weights do not have the shape that the parameters ask for."""
    heads = params["n_heads"]
    kv_heads = params.get("n_kv_heads") or heads
    dim, eps = params["dim"], params.get("norm_eps", 1e-5)
    K = dim // heads
    found = sum(part.tensor("layers.0.attention.wk.weight")().shape[0] for part in parts)
    if found != kv_heads * K:
        raise ModelError(
            f"the files have {found} rows of keys together, params.json asks for {kv_heads} heads of {K}",
            where="consolidated.*.pth",
            fix="download all of the model's files",
        )
    return LlamaConfig(
        vocab_size=sum(part.tensor("output.weight")().shape[0] for part in parts),
        hidden_size=dim,
        intermediate_size=sum(part.tensor("layers.0.feed_forward.w1.weight")().shape[0] for part in parts),
        num_hidden_layers=params["n_layers"],
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=_positions(params, eps),
        rms_norm_eps=eps,
        rope_parameters=_rope(params),
        tie_word_embeddings=False,
        architectures=["LlamaForCausalLM"],
    )


def _positions(params: dict[str, Any], eps: float) -> int:
    """params.json does not say: LLaMA 1 (eps 1e-6) was trained on 2,048, 2 on 4,096, 3 on 8,192, 3.1 on 131,072."""
    if "max_seq_len" in params:
        return int(params["max_seq_len"])
    if params.get("use_scaled_rope"):
        return 131_072
    if params.get("rope_theta", 10_000.0) > 10_000.0:
        return 8_192
    return 2_048 if eps == 1e-6 else 4_096


def _rope(params: dict[str, Any]) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": float(params.get("rope_theta", 10_000.0))}
    if not params.get("use_scaled_rope"):
        return rope
    # 3.1 scales by 8, 3.2 (1B and 3B, hidden size 2,048 and 3,072) by 32.
    factor = params.get("rope_scale_factor") or (32 if params["dim"] <= 3_072 else 8)
    return rope | {
        "rope_type": "llama3",
        "factor": float(factor),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8_192,
    }


def _heads_of(config: Any) -> dict[str, int]:
    """The projections whose rows are reordered, and their heads."""
    return {"attention.wq": config.num_attention_heads, "attention.wk": config.num_key_value_heads}


def _whole(parts: list[Weights], name: str, dim: int | None) -> Callable[[], torch.Tensor]:
    reads = [part.tensor(name) for part in parts]
    return reads[0] if dim is None or len(reads) == 1 else joined(reads, dim)


def _joined_embedding(parts: list[Weights], dim: int) -> Callable[[], torch.Tensor]:
    """LLaMA 1 and 2 split its columns, LLaMA 3 its rows: the shape tells."""
    by_columns = parts[0].tensor("tok_embeddings.weight")().shape[1] < dim
    return _whole(parts, "tok_embeddings.weight", 1 if by_columns else 0)


def _reordered(
    read: Callable[[], torch.Tensor], order: Callable[[torch.Tensor, int], torch.Tensor], heads: int
) -> Callable[[], torch.Tensor]:
    return lambda: order(read(), heads)


def write(checkpoint: Checkpoint, folder: Path) -> int:
    """One file for one GPU; the whole model is held in memory. Raises ModelError when the model is no plain Llama."""
    config, ours = checkpoint.config, checkpoint.tensors
    if config.model_type != "llama" or config.attention_bias or config.mlp_bias:
        raise ModelError(
            f"a {config.model_type} model does not fit into Meta's layout",
            where="--to meta",
            fix="only Llamas without biases do",
        )
    write_json(folder / "params.json", params_of(config))
    tensors = {"tok_embeddings.weight": ours["model.embed_tokens.weight"](), "output.weight": checkpoint.head()()}
    tensors["norm.weight"] = ours["model.norm.weight"]()
    heads = _heads_of(config)
    for layer in range(config.num_hidden_layers):
        for theirs, name, _ in LAYER:
            tensor = ours[f"model.layers.{layer}.{name}.weight"]()
            tensors[f"layers.{layer}.{theirs}.weight"] = (
                pairs_from_halves(tensor, heads[theirs]) if theirs in heads else tensor
            )
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    torch.save(tensors, folder / "consolidated.00.pth")
    copy_sentencepiece(checkpoint, folder)
    return sum(tensor.nbytes for tensor in tensors.values())


def params_of(config: Any) -> dict[str, Any]:
    """Raises ModelError when Meta's code could not build the model."""
    rope = config.rope_parameters
    wide = config.head_dim * config.num_attention_heads != config.hidden_size
    if wide or rope["rope_type"] not in ("default", "llama3"):
        raise ModelError("its heads or rotary scaling are not Meta's", where="--to meta", fix="keep it as it is")
    size, unscaled = config.intermediate_size, int(8 * config.hidden_size / 3)
    step = size & -size  # the largest power of two that divides the MLP's size; Meta's code rounds up to its multiples
    found: dict[str, Any] = {
        "dim": config.hidden_size,
        "n_layers": config.num_hidden_layers,
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "vocab_size": config.vocab_size,
        "multiple_of": step,
        "ffn_dim_multiplier": (size - step / 2) / unscaled,
        "norm_eps": config.rms_norm_eps,
        "rope_theta": rope["rope_theta"],
        "max_seq_len": config.max_position_embeddings,
    }
    if rope["rope_type"] == "llama3":
        found |= {"use_scaled_rope": True, "rope_scale_factor": rope["factor"]}
    return found


META = Layout("meta", "LLaMA 1/2/3 (Meta's own layout)", recognises, read, write)
