"""Checkpoints of llama2.c (github.com/karpathy/llama2.c): one `.bin` of weights, a `tokenizer.bin` beside it.

Layout: seven int32 (dim, hidden, layers, heads, kv_heads, vocabulary, context), then fp32 arrays, each over
all layers: token embedding, attention norm, wq, wk, wv, wo, mlp norm, w1 (gate), w2 (down), w3 (up), final
norm, rotary cosine and sine tables; a head follows when the vocabulary is given as a negative number
(untied). Rotary pairs are interleaved (2i, 2i+1), transformers' are the two halves, so the rows of wq and wk
are permuted.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, normalizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from graftlm.core.errors import ModelError
from graftlm.models.families.layout import Checkpoint, Layout
from graftlm.models.rotary import halves_from_pairs
from graftlm.models.weight_files import Tensors

HEADER = struct.Struct("7i")


def is_checkpoint(path: str) -> bool:
    return path.endswith(".bin") and Path(path).is_file()


def load_config(path: Path) -> LlamaConfig:
    return _config(_header(path))


def load_model(path: Path) -> LlamaForCausalLM:
    """fp32 model. Raises ModelError when the file's size does not fit its header."""
    sizes = _header(path)
    config = _config(sizes)
    values = np.fromfile(path, np.float32, offset=HEADER.size)
    D, M, L, V = config.hidden_size, config.intermediate_size, config.num_hidden_layers, config.vocab_size
    H, G = sizes[3], sizes[4]
    K = D // H * G
    rotary = config.max_position_embeddings * (D // H)  # cosine and sine, half a head each
    shapes = {
        "embed": (V, D), "attention_norm": (L, D),
        "wq": (L, D, D), "wk": (L, K, D), "wv": (L, K, D), "wo": (L, D, D),
        "mlp_norm": (L, D), "w1": (L, M, D), "w2": (L, D, M), "w3": (L, M, D),
        "norm": (D,), "rotary": (rotary,),
    }  # fmt: skip
    if not config.tie_word_embeddings:
        shapes["head"] = (V, D)
    expected = sum(int(np.prod(shape)) for shape in shapes.values())
    if len(values) != expected:
        raise ModelError(
            f"{len(values):,} weights in the file, but its header asks for {expected:,}",
            where=path,
            fix="download the file again",
        )
    read, at = {}, 0
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        read[name], at = torch.from_numpy(values[at : at + size].reshape(shape).copy()), at + size
    state = {"model.embed_tokens.weight": read["embed"], "model.norm.weight": read["norm"]}
    state["lm_head.weight"] = read.get("head", read["embed"])
    for i in range(L):
        layer = f"model.layers.{i}."
        state |= {
            layer + "input_layernorm.weight": read["attention_norm"][i],
            layer + "post_attention_layernorm.weight": read["mlp_norm"][i],
            layer + "self_attn.q_proj.weight": halves_from_pairs(read["wq"][i], H),
            layer + "self_attn.k_proj.weight": halves_from_pairs(read["wk"][i], G),
            layer + "self_attn.v_proj.weight": read["wv"][i],
            layer + "self_attn.o_proj.weight": read["wo"][i],
            layer + "mlp.gate_proj.weight": read["w1"][i],
            layer + "mlp.down_proj.weight": read["w2"][i],
            layer + "mlp.up_proj.weight": read["w3"][i],
        }
    model = LlamaForCausalLM(config)
    model.load_state_dict(state)
    return model


def load_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """The SentencePiece-like BPE of `tokenizer.bin`, as a fast tokenizer with byte fallback.

    Layout: int32 longest piece, then for each piece fp32 score, int32 length, bytes. Merges are not stored:
    they are all the ways in which a piece splits into two pieces, the better scored piece first.
    """
    file = path.parent / "tokenizer.bin"
    if not file.is_file():
        raise ModelError(
            "there is no tokenizer.bin beside the checkpoint",
            where=path,
            fix="put the model's tokenizer.bin there",
        )
    raw, at, pieces, scores = file.read_bytes(), 4, [], []
    for _ in range(load_config(path).vocab_size):
        score, length = struct.unpack_from("fi", raw, at)
        pieces.append(raw[at + 8 : at + 8 + length].decode())
        scores.append(score)
        at += 8 + length
    # Ids 0-2 are unknown, begin and end, padded with newlines in the file; 3-258 are bytes, here <0x00>.
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names += [piece.replace(" ", "▁") for piece in pieces[len(names) :]]
    ids = {name: i for i, name in enumerate(names)}
    merges = [
        (scores[ids[name]], name[:cut], name[cut:])
        for name in names[259:]
        for cut in range(1, len(name))
        if name[:cut] in ids and name[cut:] in ids
    ]
    merges.sort(key=lambda merge: -merge[0])
    rust = RustTokenizer(
        models.BPE(
            ids,
            [(left, right) for _, left, right in merges],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    rust.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    rust.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=rust, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )


def _header(path: Path) -> tuple[int, ...]:
    with path.open("rb") as file:
        head = file.read(HEADER.size)
    if len(head) < HEADER.size or min(HEADER.unpack(head)[:5]) <= 0:
        raise ModelError("not a llama2.c checkpoint: its header is wrong", where=path, fix="check the file")
    return HEADER.unpack(head)


def _config(sizes: tuple[int, ...]) -> LlamaConfig:
    dim, hidden, layers, heads, kv_heads, vocabulary, context = sizes
    return LlamaConfig(
        vocab_size=abs(vocabulary),
        hidden_size=dim,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=context,
        rms_norm_eps=1e-5,
        tie_word_embeddings=vocabulary > 0,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )


def read_checkpoint(path: Path) -> Checkpoint:
    """Raises ModelError when the file is damaged. It is read whole: these models are small."""
    model = load_model(path)
    state = model.state_dict()
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    tensors: Tensors = {name: lambda tensor=tensor: tensor for name, tensor in state.items()}  # type: ignore[misc]
    if not (path.parent / "tokenizer.bin").is_file():
        return Checkpoint(model.config, tensors, notes=["there is no tokenizer.bin: the target has no tokenizer"])
    return Checkpoint(model.config, tensors, load_tokenizer(path))


LLAMA2C = Layout("llama2.c", "llama2.c (one .bin file)", lambda path: is_checkpoint(str(path)), read_checkpoint)
