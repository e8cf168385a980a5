"""A model as one GGUF file, for llama.cpp and what is built on it. Needs the extra `gguf`.

The file format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Tensors are read, changed, quantised and
written one at a time. Everything but products' weights (norms, biases, positions) stays in 32 bits.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase as Tokenizer

from graftlm.core.errors import ModelError
from graftlm.models.gguf_families import Family, describe, family_of, rotation_factors
from graftlm.models.gguf_tokens import adds, portable_template, token_table
from graftlm.models.loading import load_config, load_tokenizer
from graftlm.models.saved_weights import WeightFiles

TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
"""Formats of the weights: the number is their bits; blocks of 32 share a scale, with `_1` also a smallest value."""

MADE_BY_LLAMA_CPP = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k")
_STORED = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
_LEFT_OUT = (".attn.bias", ".attn.masked_bias", "rotary_emb.inv_freq")  # computed anew by every reader


@dataclass(frozen=True)
class GgufFile:
    """What was written.

    Attributes:
        kind: format of the weights.
        words: llama.cpp's name of the way that words are cut.
        notes: what llama.cpp does otherwise, and tensors that could not take the format.
    """

    path: Path
    kind: str
    tensors: int
    bytes: int
    words: str
    notes: list[str]


def stored_type(model: str) -> str:
    """The format that a model's weights are stored in, by GGUF's name."""
    files = WeightFiles(model)
    return _STORED.get(files.form(files.names[0]).dtype, "f32")


def check_type(kind: str) -> None:
    """Raises ModelError for a format that cannot be written, or without the package that writes it."""
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(
            "GGUF files need the package gguf, which is not installed",
            where="--to gguf",
            fix='pip install "graftlm[gguf]"',
        )
    if kind in MADE_BY_LLAMA_CPP:
        fix = f"export f16, then run llama.cpp's `llama-quantize model-f16.gguf model.gguf {kind.upper()}`; or q4_0"
        raise ModelError(f"`{kind}` can only be made by llama.cpp", where="--type", fix=fix)
    if kind not in TYPES:
        raise ModelError(f"no type `{kind}`", where="--type", fix=f"one of: {', '.join(TYPES)}")


def write_gguf(model: str, path: Path, kind: str) -> GgufFile:
    """Write a model's weights, tokenizer and chat template as `path`.

    Args:
        model: a folder, a hub name, or `rootstock`.
        kind: one of `TYPES`.

    Raises:
        ModelError: llama.cpp has no such architecture or tokenizer, or the package gguf is not there.
    """
    check_type(kind)
    import gguf

    files, config, tokenizer = WeightFiles(model), load_config(model), load_tokenizer(model)
    family = family_of(config, model)
    writer = gguf.GGUFWriter(path, family.architecture)
    notes = describe(writer, family, config, model)
    writer.add_name(Path(model).name)
    writer.add_file_type(_file_type(kind))
    words, told = _write_tokens(writer, tokenizer, config, model)
    names = _tensor_names(files, family, config)

    def shape_of(name: str) -> tuple[int, ...]:
        return tuple(family.change(name, torch.empty(files.form(name).shape, device="meta"), config).shape)

    layout = {name: _tensor_type(shape_of(name), there, kind, config) for name, there in names.items()}
    coarse = sum(found == "f16" != kind for found in layout.values())
    notes += told + ([f"{coarse} tensors are f16: blocks of 32 do not divide their rows"] if coarse else [])
    extra = rotation_factors(config)
    for name, there in names.items():
        _announce(writer, there, shape_of(name), layout[name])
    if extra is not None:
        _announce(writer, "rope_freqs.weight", tuple(extra.shape), "f32")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name in names:
        tensor = family.change(name, files.read(name).float(), config)
        writer.write_tensor_data(_quantised(tensor, layout[name]))
    if extra is not None:
        writer.write_tensor_data(extra.numpy())
    writer.close()
    return GgufFile(path, kind, len(names) + (extra is not None), path.stat().st_size, words, notes)


def _tensor_names(files: WeightFiles, family: Family, config: Any) -> dict[str, str]:
    """transformers' name → GGUF's.

    Raises:
        ModelError: a tensor has no place in the architecture.
    """
    import gguf

    numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    known = gguf.get_tensor_name_map(numbers[family.architecture], config.num_hidden_layers)
    names = {}
    for name in files.names:
        if name.endswith(_LEFT_OUT) or (name == "lm_head.weight" and config.tie_word_embeddings):
            continue
        there = known.get_name(name, try_suffixes=(".weight", ".bias"))
        if there is None:
            raise ModelError(f"llama.cpp has no place for its tensor `{name}`", where=files.name)
        names[name] = there
    return names


def _tensor_type(shape: tuple[int, ...], there: str, kind: str, config: Any) -> str:
    """The head keeps 8 bits where other weights have fewer: it decides each token by small differences."""
    if len(shape) < 2 or there.startswith("position_embd"):
        return "f32"
    if kind in ("f32", "f16", "bf16"):
        return kind
    if shape[-1] % 32:
        return "f16"
    is_head = there.startswith("output.") or (there.startswith("token_embd") and config.tie_word_embeddings)
    return "q8_0" if is_head else kind


def _announce(writer: Any, name: str, shape: tuple[int, ...], kind: str) -> None:
    import gguf

    number = gguf.GGMLQuantizationType[kind.upper()]
    if kind in ("f32", "f16"):
        dtype = np.dtype(np.float32 if kind == "f32" else np.float16)
        writer.add_tensor_info(name, shape, dtype, int(np.prod(shape)) * dtype.itemsize, number)
        return
    in_bytes = gguf.quants.quant_shape_to_byte_shape(shape, number)
    writer.add_tensor_info(name, in_bytes, np.dtype(np.uint8), int(np.prod(in_bytes)), number)


def _quantised(tensor: torch.Tensor, kind: str) -> np.ndarray:
    import gguf

    values = np.ascontiguousarray(tensor.numpy(), dtype=np.float32)
    return np.ascontiguousarray(gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind.upper()]))


def _file_type(kind: str) -> int:
    import gguf

    return int(gguf.LlamaFileType["ALL_F32" if kind == "f32" else f"MOSTLY_{kind.upper()}"])


def _write_tokens(writer: Any, tokenizer: Tokenizer, config: Any, where: str) -> tuple[str, list[str]]:
    """(how words are cut, what llama.cpp does otherwise)."""
    table = token_table(tokenizer, config.vocab_size, where)
    writer.add_tokenizer_model(table.model)
    writer.add_token_list(table.pieces)
    writer.add_token_types(table.types)
    if table.model == "gpt2":
        writer.add_tokenizer_pre(table.words)
        writer.add_token_merges(table.merges)
    else:
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(table.scores)
        writer.add_add_space_prefix(table.space_before)
    for name, write in (
        ("bos_token_id", writer.add_bos_token_id),
        ("eos_token_id", writer.add_eos_token_id),
        ("unk_token_id", writer.add_unk_token_id),
        ("pad_token_id", writer.add_pad_token_id),
    ):
        number = getattr(tokenizer, name)
        if number is not None:
            write(number)
    begins, ends = adds(tokenizer)
    writer.add_add_bos_token(begins)
    writer.add_add_eos_token(ends)
    if tokenizer.chat_template:
        writer.add_chat_template(portable_template(str(tokenizer.chat_template)))
    return table.words or "sentencepiece", table.notes
