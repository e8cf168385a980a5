"""Frozen weights in 4 or 8 bits for an adapter on top: QLoRA (Dettmers et al., arXiv 2305.14314).

4 bits: NF4 with double quantisation, blocks of 64. 8 bits: LLM.int8 (arXiv 2208.07339). Embeddings and head stay as
they are. The extra `qlora` (bitsandbytes) does the arithmetic, on CUDA and on CPU.
"""

from __future__ import annotations

import importlib.util
from typing import Literal

import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import BitsAndBytesConfig, PretrainedConfig, PreTrainedModel

from graftlm.core.errors import ModelError
from graftlm.models.trunk import causal_lm

Bits = Literal[4, 8]

WEIGHT_BYTES = {4: 0.5 + 0.127 / 8, 8: 1.0}
"""Of a quantised weight; 0.127 bits of block scales that are themselves quantised (arXiv 2305.14314, section 3)."""


def quantisation(bits: Bits, dtype: torch.dtype) -> BitsAndBytesConfig:
    """How to load the weights; products are computed in `dtype`.

    Raises:
        ModelError: bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            "quantised weights need bitsandbytes, which is not installed",
            where="bits",
            fix='pip install "graftlm[qlora]", or train on weights that are not quantised',
        )
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def keep_differentiable(model: torch.nn.Module) -> None:
    """On CPUs with AVX512-BF16 bitsandbytes repacks a weight at its first look without gradients, for a kernel that
    has no backward pass; from then on gradients would be cut off without a word. So it must not repack."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def is_quantised(model: torch.nn.Module) -> bool:
    return bool(getattr(causal_lm(model), "is_quantized", False))


def weight_count(parameter: torch.nn.Parameter) -> int:
    """Weights that a parameter stands for: NF4 packs two into a byte."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else int(state.shape.numel())


def frozen_bytes(config: PretrainedConfig, parameters: int, bits: Bits, unquantised: int) -> float:
    """Mean bytes of a frozen weight; embedding and head keep `unquantised` bytes each."""
    text = config.get_text_config()
    apart = text.vocab_size * text.hidden_size * (1 if text.tie_word_embeddings else 2)
    return (apart * unquantised + (parameters - apart) * WEIGHT_BYTES[bits]) / parameters


def dequantised(base: PreTrainedModel) -> PreTrainedModel:
    """The plain model, in the format of the weights that are not quantised; a prefix on it keeps its own."""
    return base.dequantize().to(base.dtype)


def merge_quantised(model: PeftModel) -> torch.nn.Module:
    """The plain model, its weights dequantised and the adapter's change added to them.

    peft's own merging would quantise the sum again and lose what was learnt: a step of NF4 is larger than most
    changes. The sum is made in the format of the weights that are not quantised.
    """
    config, adapter = model.active_peft_config, get_peft_model_state_dict(model, adapter_name=model.active_adapter)
    whole = get_peft_model(dequantised(model.unload()), config)
    set_peft_model_state_dict(whole, adapter)
    return whole.merge_and_unload()
