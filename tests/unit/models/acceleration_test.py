"""An accelerated model is the model: same losses, same gradients."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from graftlm.models.acceleration import Float8Linear, accelerate, compiled_layers, decoder_layers
from graftlm.models.adapters import make_trainable
from graftlm.models.trunk import hidden_states, prepare_trunk

TOKENS, BOUNDARIES = torch.arange(48) % 60, torch.tensor([0, 10, 13, 48], dtype=torch.int32)


def tiny(kind: torch.dtype = torch.float32, device: str = "cpu") -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(kind).to(device)
    prepare_trunk(model)
    return model


def loss_and_gradients(model: torch.nn.Module) -> tuple[torch.Tensor, list[torch.Tensor]]:
    device = next(model.parameters()).device
    states_TD = hidden_states(model, TOKENS.to(device), BOUNDARIES.to(device)).float()
    # Not their squares: those of normalised states have the same sum whatever the weights, and no gradient.
    wanted_TD = torch.randn(states_TD.shape, generator=torch.Generator().manual_seed(2)).to(device)
    loss = (states_TD - wanted_TD).square().mean()
    return loss, list(torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad]))


def train(model: torch.nn.Module, method: str) -> torch.nn.Module:
    if method == "lora":
        model = make_trainable(model, "lora", rank=4, alpha=8)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator(parameter.device).manual_seed(1))
        return model
    model.lm_head.requires_grad_(False)  # no part of the hidden states
    return model


@pytest.mark.slow  # compiles
@pytest.mark.parametrize("cheap_again", [False, True])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_compiled_is_eager(method, cheap_again):
    plain = loss_and_gradients(train(tiny(), method))
    model = train(tiny(), method)
    accelerate(model)
    with compiled_layers(model, cheap_again=cheap_again):
        fast = loss_and_gradients(model)
    assert not any(layer._compiled_call_impl for layer in decoder_layers(model))
    torch.testing.assert_close(fast[0], plain[0], atol=1e-6, rtol=1e-5)
    for one, other in zip(fast[1], plain[1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_eight_bits_are_near(method):
    plain = loss_and_gradients(train(tiny(torch.bfloat16), method))
    model = train(tiny(torch.bfloat16), method)
    accelerate(model, float8=True)
    eight = [m for m in model.modules() if isinstance(m, Float8Linear) or getattr(m, "stack", None)]
    assert len(eight) == 14
    assert not isinstance(getattr(model, "lm_head", None), Float8Linear)
    loss, gradients = loss_and_gradients(model)
    assert float(loss) == pytest.approx(float(plain[0]), rel=0.01)
    norms = [sum(float(g.float().square().sum()) for g in found) ** 0.5 for found in (gradients, plain[1])]
    assert norms[0] == pytest.approx(norms[1], rel=0.3)  # 64 numbers to a sum: 8-bit noise does not average out


def test_layers_are_found_in_a_peft_wrapper_too():
    assert len(decoder_layers(tiny())) == len(decoder_layers(train(tiny(), "lora"))) == 2


@pytest.mark.gpu
@pytest.mark.parametrize("float8", [False, True])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_fast_path_is_near_the_plain_one_on_a_gpu(method, float8):
    plain = loss_and_gradients(train(tiny(torch.float32, "cuda"), method))
    model = train(tiny(torch.bfloat16, "cuda"), method)
    accelerate(model, float8=float8)
    with compiled_layers(model):
        loss, gradients = loss_and_gradients(model)
    assert float(loss) == pytest.approx(float(plain[0]), rel=0.02 if float8 else 5e-3)
    for one, other in zip(gradients, plain[1], strict=True):
        assert (one.float() - other.float()).norm() <= (0.3 if float8 else 0.05) * other.float().norm() + 1e-6
