"""A decoder layer's kernels for one token against transformers' own layers (in Triton's interpreter without a GPU)."""

from __future__ import annotations

from contextlib import nullcontext
from importlib.util import find_spec

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from graftlm.inference.decoding import Decoding
from graftlm.inference.engine import Engine
from graftlm.inference.request import open_requests
from graftlm.models.one_token import one_token_layers
from graftlm.models.quant_linear import QuantLinear, put_in_place
from graftlm.models.trunk import prepare_trunk
from graftlm.models.weight_quantisation import Rounding, quantise_model
from graftlm.ops.int_weights import IntFormat, quantise

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PACKED = 5e-3 if DEVICE == "cuda" else 4e-4
"""Of the largest logit. A GPU multiplies by inputs in fp16; without one, offsets cost fp32 some digits."""

LAYERS = 2
SMALL = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 96, "max_position_embeddings": 256, "head_dim": 16,
}  # fmt: skip
FAMILIES = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
    "llama, biased": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, attention_bias=True)),
    "mistral, window": lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=8)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SMALL)),
}


def model_of(family: str, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    torch.manual_seed(0)
    model = FAMILIES[family]()
    for name, parameter in model.named_parameters():  # gains and biases too
        torch.nn.init.normal_(parameter, float("norm" in name), 0.2)
    prepare_trunk(model)
    return model.to(DEVICE, dtype).eval()


def steps(model: torch.nn.Module, kernels: bool, count: int = 2) -> torch.Tensor:
    """Logits [N, V] of each step after a prompt of 70 tokens, every step fed the same tokens."""
    engine = Engine(model, slots=1, positions=96)
    requests = open_requests(model, [[t % 90 for t in range(70)]], Decoding(greedy=True, max_new_tokens=20), [], None, None)
    engine.submit(requests[0])
    engine.step()
    following, found = engine._next, []
    with torch.inference_mode(), one_token_layers(model) if kernels else nullcontext():
        for token in range(count):
            following.tokens_S[:] = (7 * token) % 90
            found.append(following._forward(1).clone())
            following.lengths_S += 1
    return torch.cat(found)


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_by_kernels_are_the_layers(family):
    model = model_of(family)
    wanted, found = steps(model, False), steps(model, True)
    assert wanted.std() > 0.3
    assert float((found - wanted).abs().max()) < 2e-4 * float(wanted.abs().max())


@pytest.mark.parametrize("form", [IntFormat(4, 32), IntFormat(4, None), IntFormat(4, 32, symmetric=False), IntFormat(8, 32),
                                  IntFormat(8, None)], ids=str)  # fmt: skip
def test_packed_weights_by_kernels_are_the_packed_weights(form):
    model = model_of("llama")
    quantise_model(model, Rounding("absmax", form.bits, form.group, form.symmetric), None)
    wanted, found = steps(model, False), steps(model, True)
    assert float((found - wanted).abs().max()) < PACKED * float(wanted.abs().max())


def test_layers_of_different_bits_follow_each_other():
    model = model_of("llama")
    for place, form in enumerate((IntFormat(8, 32), IntFormat(4, 32))):
        for name, layer in list(model.model.layers[place].named_modules()):
            if isinstance(layer, torch.nn.Linear):
                packed = QuantLinear(quantise(layer.weight.data, form))
                put_in_place(model, f"model.layers.{place}.{name}", packed)
    wanted, found = steps(model, False), steps(model, True)
    assert float((found - wanted).abs().max()) < PACKED * float(wanted.abs().max())
