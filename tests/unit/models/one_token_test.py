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

HERE = [
    pytest.param("cpu", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="kernels run where they can")),
    pytest.param("cuda", marks=pytest.mark.gpu),
]
PACKED = {"cuda": 1e-2, "cpu": 4e-4}
"""Of the largest logit. A GPU multiplies by inputs in fp16; without one, offsets cost fp32 some digits."""

FORMS = (
    IntFormat(4, 32), IntFormat(4, None), IntFormat(4, 32, symmetric=False), IntFormat(8, 32), IntFormat(8, None),
)  # fmt: skip

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


def model_of(family: str, device: str) -> torch.nn.Module:
    torch.manual_seed(0)
    model = FAMILIES[family]()
    for name, parameter in model.named_parameters():  # gains and biases too
        torch.nn.init.normal_(parameter, float("norm" in name), 0.2)
    prepare_trunk(model)
    return model.to(device).eval()


def steps(model: torch.nn.Module, kernels: bool, count: int = 2) -> torch.Tensor:
    """Logits [N, V] of each step after a prompt of 70 tokens, every step fed the same tokens."""
    engine = Engine(model, slots=1, positions=96)
    decoding = Decoding(greedy=True, max_new_tokens=20)
    engine.submit(*open_requests(model, [[t % 90 for t in range(70)]], decoding, [], None, None))
    engine.step()
    following, found = engine._next, []
    with torch.inference_mode(), one_token_layers(model) if kernels else nullcontext():
        for token in range(count):
            following.tokens_S[:] = (7 * token) % 90
            found.append(following._forward(1).clone())
            following.lengths_S += 1
    return torch.cat(found)


@pytest.mark.parametrize("device", HERE)
@pytest.mark.parametrize("family", FAMILIES)
def test_layers_by_kernels_are_the_layers(family, device):
    model = model_of(family, device)
    wanted, found = steps(model, False), steps(model, True)
    assert wanted.std() > 0.3
    assert float((found - wanted).abs().max()) < 2e-4 * float(wanted.abs().max())


@pytest.mark.slow  # in the interpreter half a minute
@pytest.mark.parametrize("device", HERE)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_packed_weights_by_kernels_are_the_packed_weights(form, device):
    model = model_of("llama", device)
    quantise_model(model, Rounding("absmax", form.bits, form.group, form.symmetric), None)
    wanted, found = steps(model, False), steps(model, True)
    assert float((found - wanted).abs().max()) < PACKED[device] * float(wanted.abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("device", HERE)
def test_layers_of_different_bits_follow_each_other(device):
    model = model_of("llama", device)
    for place, form in enumerate((IntFormat(8, 32), IntFormat(4, 32))):
        for name, layer in list(model.model.layers[place].named_modules()):
            if isinstance(layer, torch.nn.Linear):
                packed = QuantLinear(quantise(layer.weight.data, form))
                put_in_place(model, f"model.layers.{place}.{name}", packed)
    wanted, found = steps(model, False), steps(model, True)
    assert float((found - wanted).abs().max()) < PACKED[device] * float(wanted.abs().max())
