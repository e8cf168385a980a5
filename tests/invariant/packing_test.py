"""Packed rows and padded rows are two ways to compute one thing: losses and gradients agree."""

from __future__ import annotations

import pytest
import torch

from graftlm.models.adapters import make_trainable, recompute_activations
from graftlm.models.trunk import causal_lm
from graftlm.objectives.causal_lm import CausalLM

LENGTHS = [33, 1, 64, 7, 12, 50, 29, 3, 3, 18]


def loss_and_gradients(
    model: torch.nn.Module, plan, pad_to: int | None = None
) -> tuple[float, dict[str, torch.Tensor]]:
    model.train()
    model.zero_grad()
    total = 0.0
    for row in range(plan.rows):
        loss = CausalLM()(model, plan.row(row, pad_to=pad_to))
        loss.total.backward()
        total += loss.total.item()
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(one, other) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    assert one[1].keys() == other[1].keys()
    assert len(one[1]) > 5
    for name, gradient in one[1].items():
        scale = float(other[1][name].abs().max())
        assert scale > 0, name
        torch.testing.assert_close(gradient, other[1][name], rtol=1e-3, atol=1e-4 * scale)


def trainable(tiny_model, family: str, method: str) -> torch.nn.Module:
    model = make_trainable(tiny_model(family), method, rank=4)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # a new adapter's B is 0, and so would be A's gradient
                parameter.normal_(0, 0.1, generator=generator)
    return model


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3"])
def test_packed_equals_padded(tiny_model, make_plan, family, method):
    plan = make_plan(LENGTHS, row_tokens=128)
    model = trainable(tiny_model, family, method)
    assert causal_lm(model).graft_packs
    packed = loss_and_gradients(model, plan)
    causal_lm(model).graft_packs = False
    assert_same(loss_and_gradients(model, plan), packed)


def test_gpt2_packs_with_its_dropout_off(tiny_model, make_plan):
    plan = make_plan(LENGTHS, row_tokens=128)
    model = trainable(
        lambda family: tiny_model(family, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0), "gpt2", "full"
    )
    packed = loss_and_gradients(model, plan)
    causal_lm(model).graft_packs = False
    assert_same(loss_and_gradients(model, plan), packed)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_filling_a_row_changes_nothing(tiny_model, make_plan, family):
    plan = make_plan(LENGTHS, row_tokens=128)
    model = trainable(tiny_model, family, "full")
    assert plan.row(0, pad_to=128).padding or plan.row(plan.rows - 1, pad_to=128).padding
    assert_same(loss_and_gradients(model, plan, pad_to=128), loss_and_gradients(model, plan))


def test_how_documents_share_rows_changes_nothing(tiny_model, make_plan):
    model = trainable(tiny_model, "llama", "full")
    wide, narrow = (make_plan(LENGTHS, row_tokens=row_tokens) for row_tokens in (256, 64))
    assert wide.rows < narrow.rows
    assert_same(loss_and_gradients(model, wide), loss_and_gradients(model, narrow))


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_recomputing_activations_changes_nothing(tiny_model, make_plan, family, method):
    quiet = {"resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0} if family == "gpt2" else {}
    plan = make_plan(LENGTHS, row_tokens=128)
    model = trainable(lambda name: tiny_model(name, **quiet), family, method)
    calls: list[int] = []
    attention = next(module for module in model.modules() if type(module).__name__.endswith("Attention"))
    attention.register_forward_pre_hook(lambda *_: calls.append(1))
    kept = loss_and_gradients(model, plan)
    once = len(calls)
    recompute_activations(model)
    assert_same(loss_and_gradients(model, plan), kept)
    assert len(calls) == 3 * once, "the layers ran again in the backward pass"
