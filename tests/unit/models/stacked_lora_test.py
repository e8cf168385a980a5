"""Stacked LoRA layers do what peft's own do, value by value and gradient by gradient."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from graftlm.models.adapters import make_trainable, merge_adapter
from graftlm.models.stacked_lora import StackedLoraLinear, stack_lora, stack_mlps
from graftlm.models.trunk import hidden_states, prepare_trunk

TOKENS, BOUNDARIES = torch.arange(40) % 60, torch.tensor([0, 10, 13, 40], dtype=torch.int32)


def adapted(bias: bool = False, dropout: float = 0.0, targets: str | list[str] = "all-linear") -> torch.nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, attention_bias=bias,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    prepare_trunk(model)
    model = make_trainable(model, "lora", rank=4, alpha=12, dropout=dropout, targets=targets)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)  # a new adapter is zero: anything would agree
    return model


def outcome(model: torch.nn.Module) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    states = hidden_states(model, TOKENS, BOUNDARIES)
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    gradients = torch.autograd.grad(states.square().sum(), list(named.values()))
    return states, dict(zip(named, gradients, strict=True))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj", "down_proj"]])
def test_stacked_layers_are_pefts(bias, targets):
    plain = outcome(adapted(bias, targets=targets))
    model = adapted(bias, targets=targets)
    assert stack_lora(model) == (14 if targets == "all-linear" else 6)
    states, gradients = outcome(model)
    torch.testing.assert_close(states, plain[0], atol=1e-5, rtol=1e-4)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, plain[1][name], atol=1e-4, rtol=1e-3)


def test_siblings_share_one_weight_and_none_is_kept_twice():
    model = adapted()
    stack_lora(model)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, StackedLoraLinear)}
    attention = next(layer for name, layer in layers.items() if name.endswith("0.self_attn.q_proj"))
    assert len(attention.stack.parts) == 3
    for layer in layers.values():
        rows = layer.get_base_layer().weight
        assert rows.untyped_storage().data_ptr() == layer.stack.whole.weight.untyped_storage().data_ptr()
    assert attention.stack._input is None  # nothing stays behind a forward pass


@pytest.mark.parametrize("fused", [False, True])
def test_in_8_bits_a_weight_is_kept_once_for_each_direction(fused):
    model = adapted().bfloat16()
    stack_lora(model, float8=True)
    if fused:
        stack_mlps(model)
    stacks = {layer.stack for layer in model.modules() if isinstance(layer, StackedLoraLinear)}
    held = [frozen for stack in stacks for frozen in (stack.whole, *stack.parts)]
    copies = [copy[0].numel() for frozen in held for copy in (frozen.rows, frozen.columns) if copy]
    assert sum(copies) == 2 * sum(stack.whole.weight.numel() for stack in stacks)


def test_the_merged_model_is_the_adapted_one():
    model = adapted()
    before = hidden_states(model, TOKENS, BOUNDARIES)
    stack_lora(model)
    torch.testing.assert_close(hidden_states(merge_adapter(model), TOKENS, BOUNDARIES), before, atol=1e-4, rtol=1e-4)


def test_a_switched_off_adapter_leaves_the_base():
    model = adapted()
    with model.disable_adapter():
        before = hidden_states(model, TOKENS, BOUNDARIES)
    stack_lora(model)
    with model.disable_adapter():
        torch.testing.assert_close(hidden_states(model, TOKENS, BOUNDARIES), before, atol=1e-5, rtol=1e-5)


def test_layers_with_dropout_stay_as_they_are():
    assert stack_lora(adapted(dropout=0.1)) == 0


def test_a_fused_mlp_without_its_adapters_is_the_plain_one():
    model = adapted().bfloat16()
    with model.disable_adapter():
        base = hidden_states(model, TOKENS, BOUNDARIES)
    stack_lora(model)
    assert stack_mlps(model) == 2
    with model.disable_adapter():
        torch.testing.assert_close(hidden_states(model, TOKENS, BOUNDARIES), base, atol=2e-2, rtol=2e-2)
    merged = merge_adapter(model)
    assert hidden_states(merged, TOKENS, BOUNDARIES).shape == base.shape
    assert merged.model.layers[0].mlp.gate_proj.weight.shape == (48, 32)


def test_only_bf16_mlps_are_fused():
    model = adapted()
    stack_lora(model)
    assert stack_mlps(model) == 0
