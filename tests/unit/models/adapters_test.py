"""Adapters: a new one changes nothing, merging keeps the logits, only the right weights are trained."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from graftlm.core.errors import ModelError
from graftlm.models.adapters import (
    Expand,
    Freeze,
    Full,
    Heads,
    Lora,
    Prefix,
    copied_weights,
    layers_with_gradient,
    make_trainable,
    merge_adapter,
    parameter_counts,
    save_adapter,
)
from graftlm.models.loading import load_model, load_tokenizer, save_model
from graftlm.models.trunk import hidden_states

TOKENS = torch.arange(3, 23)
BOUNDARIES = torch.tensor([0, 8, 20], dtype=torch.int32)


def states(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return hidden_states(model.eval(), TOKENS, BOUNDARIES)


def shake_adapter(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_a_new_adapter_is_exactly_the_identity(tiny_model, family):
    model = tiny_model(family)
    before = states(model)
    adapted = make_trainable(model, "lora", rank=4)
    assert torch.equal(states(adapted), before)
    shake_adapter(adapted)
    assert not torch.allclose(states(adapted), before, atol=1e-2)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_merging_keeps_the_logits(tiny_model, family):
    adapted = make_trainable(tiny_model(family), "lora", rank=4)
    shake_adapter(adapted)
    with torch.no_grad():
        before = adapted(input_ids=TOKENS[None]).logits
        merged = merge_adapter(adapted)
        after = merged(input_ids=TOKENS[None]).logits
    assert not any("lora" in name for name, _ in merged.named_parameters())
    torch.testing.assert_close(after, before, atol=1e-5 * float(before.abs().max()), rtol=0)
    assert merge_adapter(merged) is merged


def test_lora_trains_only_fp32_adapter_weights_of_every_linear_layer_but_the_head(tiny_model):
    model = tiny_model("llama").to(torch.bfloat16)
    adapted = make_trainable(model, "lora", rank=2, targets="all-linear")
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name and p.dtype == torch.float32 for name, p in trained.items())
    assert all(p.dtype == torch.bfloat16 for name, p in adapted.named_parameters() if "lora_" not in name)
    layers = {name.split(".")[-4] for name in trained}
    assert layers == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_full_trains_everything_in_fp32(tiny_model):
    model = make_trainable(tiny_model("llama").to(torch.bfloat16), "full")
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())


ALL = [
    Full(), Freeze(last=1), Lora(rank=2), Lora(rank=2, kind="dora"), Lora(rank=2, kind="pissa"), Prefix(tokens=3),
    Heads(((0, 1), (1, 2))), Expand(1),
]  # fmt: skip


@pytest.mark.parametrize("how", ALL, ids=repr)
def test_counts_are_known_without_weights(tiny_model, how):
    """The check before a run adapts a model that has none."""
    model = tiny_model("llama")
    with torch.device("meta"):
        empty = make_trainable(AutoModelForCausalLM.from_config(copy.deepcopy(model.config)), how)
    model = make_trainable(model, how)
    assert parameter_counts(empty) == parameter_counts(model)
    assert layers_with_gradient(empty) == layers_with_gradient(model)
    assert copied_weights(empty) == copied_weights(model)


@pytest.mark.parametrize("how", ALL, ids=repr)
def test_what_is_saved_is_what_was_trained(how, tmp_path):
    """Merged or with its prefix, in a folder that loads by itself."""
    cpu, tokens = torch.device("cpu"), torch.arange(100, 140)
    base = load_model("rootstock", dtype=torch.float32, device=cpu)
    model = make_trainable(load_model("rootstock", dtype=torch.float32, device=cpu), how)
    shake_adapter(model)
    with torch.no_grad():
        before = hidden_states(model.eval(), tokens, BOUNDARIES * 2)
    save_model(merge_adapter(model), load_tokenizer("rootstock"), tmp_path)
    again = load_model(str(tmp_path), dtype=torch.float32, device=cpu)
    with torch.no_grad():
        after = hidden_states(again, tokens, BOUNDARIES * 2)
        untrained = hidden_states(base, tokens, BOUNDARIES * 2)
    torch.testing.assert_close(after, before, atol=2e-4, rtol=1e-4)
    assert (untrained - before).abs().max() > 0.01


def test_an_unknown_layer_is_a_clear_error(tiny_model):
    with pytest.raises(ModelError, match=r"LoRA cannot be applied.*(?s:.*)fix: use `all-linear`"):
        make_trainable(tiny_model("llama"), "lora", targets=["no_such_layer"])


@pytest.mark.parametrize("tied", [False, True])
def test_parameter_counts(plain_model, tied):
    model = plain_model("llama", tie_word_embeddings=tied)
    attention = 2 * 32 * 32 + 2 * 32 * 16
    layers = 2 * (attention + 3 * 32 * 48 + 2 * 32) + 32
    counts = parameter_counts(model)
    assert counts["all"] == layers + 96 * 32 * (1 if tied else 2)
    assert counts["matmul"] == layers + 96 * 32
    adapted = make_trainable(model, "lora", rank=2)
    expected = 2 * 2 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 48))
    assert parameter_counts(adapted)["trained"] == expected


def test_a_saved_adapter_is_loaded_by_peft(tiny_model, plain_model, tmp_path):
    from peft import PeftModel

    adapted = make_trainable(tiny_model("llama"), "lora", rank=4)
    shake_adapter(adapted)
    save_adapter(adapted, str(tmp_path))
    again = PeftModel.from_pretrained(plain_model("llama"), str(tmp_path)).eval()
    with torch.no_grad():
        torch.testing.assert_close(
            again(input_ids=TOKENS[None]).logits, adapted(input_ids=TOKENS[None]).logits, atol=1e-4, rtol=1e-4
        )
