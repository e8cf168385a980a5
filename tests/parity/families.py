"""Tiny models of every family with random weights, and how the numpy decoder reads them.

Sizes are written down once and given to both sides; nothing is read from a model but its weights, so a configuration
that is read wrongly shows, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tests.parity.reference import Array, Decoder, alibi_slopes, gelu_tanh, llama3_rotary, rotary

V, D, I, L, H, G, K = 96, 48, 40, 2, 6, 2, 8
"""Vocabulary, hidden size, MLP, layers, query heads, key heads, size of a head."""

CONTEXT, EPS = 128, 1e-3  # an eps that shows
SPECIAL = {"bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}

SIZES: dict[str, Any] = SPECIAL | {
    "vocab_size": V, "hidden_size": D, "intermediate_size": I, "num_hidden_layers": L, "num_attention_heads": H,
    "num_key_value_heads": G, "head_dim": K, "max_position_embeddings": CONTEXT, "rms_norm_eps": EPS,
}  # fmt: skip

State = dict[str, Array]
Change = Callable[[Decoder], Decoder]


@dataclass(frozen=True)
class Family:
    """
    Attributes:
        read: weights by transformers' names → the numpy decoder of this family.
        wrong: what: a decoder that is wrong in this one thing.
        packs: graft isolates packed documents in place (else it pads).
    """

    model_type: str
    sizes: dict[str, Any]
    read: Callable[[State], Decoder]
    wrong: dict[str, Change] = field(default_factory=dict)
    packs: bool = True


def random_model(family: Family, seed: int = 0, size: float = 5.0) -> PreTrainedModel:
    """In fp32, no weight left as it begins, the largest logit about `size`."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family.model_type, **family.sizes)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            start = parameter if parameter.ndim == 1 and not name.endswith("bias") else 0  # a norm's 1, or Gemma's 0
            parameter.copy_(start + 0.25 * torch.randn_like(parameter))
        decoder = model.transformer if hasattr(model, "transformer") else model.model
        last = decoder.ln_f if hasattr(decoder, "ln_f") else decoder.norm
        logits = model(input_ids=torch.arange(32)[None]).logits
        offset = 1 if "Gemma" in type(last).__name__ else 0
        factor = size / logits.abs().max()
        last.weight.copy_((last.weight + offset) * factor - offset)
        if getattr(last, "bias", None) is not None:
            last.bias.mul_(factor)
    return model


def state_of(model: torch.nn.Module) -> State:
    return {name: p.detach().double().numpy() for name, p in model.state_dict().items()}


def renamed(state: State, names: dict[str, str], layer_prefix: str, layer_names: dict[str, str]) -> State:
    """Weights by the decoder's names; `.weight` is left out there, `.bias` kept."""
    pairs = list(names.items())
    pairs += [(f"{layer_prefix}.{i}.{theirs}", f"{i}.{ours}") for i in range(L) for theirs, ours in layer_names.items()]
    found = {ours: state[f"{theirs}.weight"] for theirs, ours in pairs if f"{theirs}.weight" in state}
    return found | {f"{ours}.bias": state[f"{theirs}.bias"] for theirs, ours in pairs if f"{theirs}.bias" in state}


# GPT-2 (picoGPT, Wenzhong, Yuyuan): matrices as [in, out]; queries, keys and values side by side.


def gpt2(state: State, order: str = "qkv") -> Decoder:
    found = renamed(
        {name: value.T for name, value in state.items()},
        {"transformer.wte": "embed", "transformer.wpe": "positions", "transformer.ln_f": "norm"},
        "transformer.h",
        {"ln_1": "norm1", "ln_2": "norm2", "attn.c_attn": "qkv", "attn.c_proj": "o", "mlp.c_fc": "gate"}
        | {"mlp.c_proj": "down"},
    )
    found |= {name: found[name].T for name in ("embed", "positions")}  # these two are no matrices of a product
    for i in range(L):
        for part in ("", ".bias"):
            thirds = np.split(found.pop(f"{i}.qkv{part}"), 3)
            found |= {f"{i}.{name}{part}": third for name, third in zip(order, thirds, strict=True)}
    return Decoder(found, L, H, H, EPS, activation=gelu_tanh, centred=True)


# BLOOM: queries, keys and values side by side in each head; a norm after the embedding; ALiBi.


def bloom(heads: int, *, in_each_head: bool = True) -> Callable[[State], Decoder]:
    def read(state: State) -> Decoder:
        found = renamed(
            state,
            {"transformer.word_embeddings": "embed", "transformer.word_embeddings_layernorm": "embed_norm"}
            | {"transformer.ln_f": "norm"},
            "transformer.h",
            {"input_layernorm": "norm1", "post_attention_layernorm": "norm2", "mlp.dense_h_to_4h": "gate"}
            | {"self_attention.query_key_value": "qkv", "self_attention.dense": "o", "mlp.dense_4h_to_h": "down"},
        )
        for i in range(L):
            for part in ("", ".bias"):
                qkv = found.pop(f"{i}.qkv{part}")
                shape = (heads, 3, D // heads) if in_each_head else (3, heads, D // heads)
                thirds = np.moveaxis(qkv.reshape(*shape, -1), 1 if in_each_head else 0, 0)
                sizes = (D, D) if part == "" else (D,)
                found |= {f"{i}.{name}{part}": third.reshape(sizes) for name, third in zip("qkv", thirds, strict=True)}
        return Decoder(
            found, L, heads, heads, EPS, activation=gelu_tanh, centred=True, slopes=alibi_slopes(heads)
        )

    return read


def bloom_family(heads: int, wrong: dict[str, Change]) -> Family:
    sizes = SPECIAL | {"vocab_size": V, "hidden_size": D, "n_layer": L, "n_head": heads, "layer_norm_epsilon": EPS}
    return Family("bloom", sizes, bloom(heads), wrong, packs=False)


# LLaMA and those that follow its names.

LAYER = {
    "input_layernorm": "norm1", "post_attention_layernorm": "norm2",
    "self_attn.q_proj": "q", "self_attn.k_proj": "k", "self_attn.v_proj": "v", "self_attn.o_proj": "o",
    "self_attn.q_norm": "q_norm", "self_attn.k_norm": "k_norm",
    "mlp.gate_proj": "gate", "mlp.up_proj": "up", "mlp.down_proj": "down", "mlp.gate": "router",
}  # fmt: skip
SANDWICH = {"post_attention_layernorm": "after1", "post_feedforward_layernorm": "after2"}
GEMMA_LAYER = LAYER | SANDWICH | {"pre_feedforward_layernorm": "norm2"}
GLM4_LAYER = LAYER | {"post_self_attn_layernorm": "after1", "post_mlp_layernorm": "after2", "mlp.gate_up_proj": "both"}


def like_llama(layer: dict[str, str] = LAYER, **options: Any) -> Callable[[State], Decoder]:
    chosen = {"turns": (rotary(K),) * L} | options

    def read(state: State) -> Decoder:
        found = renamed(
            state, {"model.embed_tokens": "embed", "model.norm": "norm", "lm_head": "head"}, "model.layers", layer
        )
        for i in range(L):
            if f"{i}.both" in found:
                found[f"{i}.gate"], found[f"{i}.up"] = np.split(found.pop(f"{i}.both"), 2)
            for name in ("gate_up_proj", "down_proj"):
                for expert, weight in enumerate(state.get(f"model.layers.{i}.mlp.experts.{name}", ())):
                    parts = {"down": weight}
                    if name == "gate_up_proj":
                        parts = dict(zip(("gate", "up"), np.split(weight, 2), strict=True))
                    found |= {f"{i}.{expert}.{part}": value for part, value in parts.items()}
        return Decoder(found, L, H, G, EPS, **chosen)

    return read


def but(**options: Any) -> Change:
    return lambda decoder: replace(decoder, **options)


def without(suffix: str) -> Change:
    """The decoder without the weights whose names end so."""
    return lambda decoder: replace(
        decoder, weights={name: value for name, value in decoder.weights.items() if not name.endswith(suffix)}
    )


def swapped(one: str, other: str) -> Change:
    """The decoder with two weights of each layer in each other's place."""

    def change(decoder: Decoder) -> Decoder:
        w, pairs = decoder.weights, [(f"{i}.{one}", f"{i}.{other}") for i in range(L)]
        return replace(decoder, weights=dict(w) | {a: w[b] for a, b in pairs} | {b: w[a] for a, b in pairs})

    return change


NEIGHBOURS, NO_ROTARY, EPS_1E5 = but(interleaved=True), but(turns=()), but(eps=1e-5)
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3_TURNS = llama3_rotary(K, 500.0, 8.0, 1.0, 4.0, 32)
GEMMA3_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    "full_attention": {"rope_type": "linear", "rope_theta": 1000.0, "factor": 4.0},
}
GEMMA = {"norm_offset": 1.0, "embed_scale": D**0.5, "activation": gelu_tanh, "score_scale": 12**-0.5}
GEMMA_SIZES = SIZES | {"query_pre_attn_scalar": 12, "sliding_window": 6}
GEMMA_SIZES |= {"layer_types": ["sliding_attention", "full_attention"]}
GEMMA_WRONG = {
    "norms without their 1": but(norm_offset=0.0),
    "embeddings not scaled": but(embed_scale=1.0),
    "scores scaled by the head's size": but(score_scale=None),
    "no window": but(windows=()),
    "no norm after the attention": without("after1"),
}

FAMILIES: dict[str, Family] = {
    "GPT-2": Family(
        "gpt2",
        SPECIAL | {"vocab_size": V, "n_embd": D, "n_layer": L, "n_head": H, "n_positions": CONTEXT}
        | {"layer_norm_epsilon": EPS},
        gpt2,
        {"eps 1e-5": EPS_1E5, "queries and keys swapped": swapped("q", "k"), "no positions": without("positions")},
    ),
    "BLOOM, 6 heads": bloom_family(
        6,
        {"eps 1e-5": EPS_1E5, "no norm after the embedding": without("embed_norm"), "no ALiBi": but(slopes=None)}
        | {"slopes 2^(-8 i / 6)": but(slopes=2.0 ** (-8 * np.arange(1, 7) / 6))},
    ),
    "BLOOM, 8 heads": bloom_family(8, {"slopes of the other order": but(slopes=alibi_slopes(8)[::-1])}),
    "LLaMA": Family(
        "llama", SIZES | {"num_key_value_heads": H}, lambda state: replace(like_llama()(state), key_heads=H),
        {"eps 1e-5": EPS_1E5, "rotary pairs as neighbours": NEIGHBOURS, "gate and up swapped": swapped("gate", "up")},
    ),
    "Llama 3": Family(
        "llama",
        SIZES | {"rope_parameters": LLAMA3 | {"original_max_position_embeddings": 32}, "tie_word_embeddings": True},
        like_llama(turns=(LLAMA3_TURNS,) * L),
        {"rotary not scaled": but(turns=(rotary(K, 500.0),) * L)}
        | {"rotary scaled in all pairs": but(turns=(rotary(K, 500.0) / 8,) * L)},
    ),
    "Mistral": Family(
        "mistral", SIZES | {"sliding_window": 6}, like_llama(windows=(6,) * L),
        {"no window": but(windows=()), "window of 7": but(windows=(7,) * L)},
    ),
    "Qwen2": Family("qwen2", SIZES, like_llama(), {"no biases": without(".bias")}),
    "Qwen3": Family(
        "qwen3", SIZES, like_llama(),
        {"no norm of the queries": without("q_norm"), "rotary pairs as neighbours": NEIGHBOURS},
    ),
    "Gemma 2": Family(
        "gemma2",
        GEMMA_SIZES | {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 8.0},
        like_llama(GEMMA_LAYER, windows=(6, None), caps=(3.0, 8.0), **GEMMA),
        GEMMA_WRONG | {"scores not capped": but(caps=(None, 8.0)), "logits not capped": but(caps=(3.0, None))},
        packs=False,
    ),
    "Gemma 3": Family(
        "gemma3_text",
        GEMMA_SIZES | {"rope_parameters": GEMMA3_ROPE},
        like_llama(GEMMA_LAYER, windows=(6, None), turns=(rotary(K, 100.0), rotary(K, 1000.0) / 4), **GEMMA),
        GEMMA_WRONG | {"one rotary for all layers": but(turns=(rotary(K, 100.0),) * L)},
    ),
    "GLM-4": Family(
        "glm4",
        SIZES | {"attention_bias": True},
        like_llama(GLM4_LAYER, turns=(rotary(K // 2),) * L, interleaved=True),
        {"rotary pairs as halves": but(interleaved=False), "the whole head rotated": but(turns=(rotary(K),) * L)}
        | {"no norm after the MLP": without("after2"), "gate and up swapped": swapped("gate", "up")},
    ),
    "Qwen3-MoE": Family(
        "qwen3_moe",
        SIZES | {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "norm_topk_prob": True},
        like_llama(chosen=2),
        {"shares not renormalised": but(renormalised=False), "three experts": but(chosen=3)},
    ),
}  # fmt: skip
