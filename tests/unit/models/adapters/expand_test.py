"""Block expansion: exactly the old model at the start, only copies learn, and what is saved is a plain deeper model."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from graftlm.core.errors import ModelError
from graftlm.inference.decoding import Decoding
from graftlm.inference.generation import generate
from graftlm.models.adapters import (
    Expand,
    Prefix,
    layers_with_gradient,
    make_trainable,
    merge_adapter,
    parameter_counts,
)
from graftlm.models.loading import load_model, load_tokenizer, save_model
from graftlm.models.trunk import hidden_states
from graftlm.objectives.causal_lm import CausalLM
from graftlm.training.trainer import Trainer, TrainingSettings

TOKENS = torch.arange(3, 23)
BOUNDARIES = torch.tensor([0, 8, 20], dtype=torch.int32)


def states(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return hidden_states(model.eval(), TOKENS, BOUNDARIES)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "gpt2", "bloom", "gemma2", "qwen2_moe"])
def test_the_deeper_model_begins_as_the_old_one(tiny_model, family):
    model = tiny_model(family)
    before = states(model)
    layers = model.config.num_hidden_layers
    model = make_trainable(model, Expand(1))
    assert torch.equal(states(model), before)
    assert model.config.num_hidden_layers == layers + 1
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all(f".{layers}." in name for name in trained), "one group: its copy is the last layer"
    assert layers_with_gradient(model) == 1


@pytest.mark.parametrize(
    ("layers", "blocks", "copies"),
    [(4, 2, {2, 5}), (4, 4, {1, 3, 5, 7}), (6, 2, {3, 7}), (5, 2, {2, 6}), (3, 3, {1, 3, 5}), (8, None, {4, 9})],
)
def test_a_copy_stands_behind_each_group(tiny_model, layers, blocks, copies):
    model = tiny_model("llama", num_hidden_layers=layers)
    old = [layer.mlp.up_proj.weight.detach().clone() for layer in model.model.layers]
    model = make_trainable(model, Expand(blocks))
    found = list(model.model.layers)
    assert len(found) == layers + len(copies)
    assert {number for number, layer in enumerate(found) if layer.mlp.up_proj.weight.requires_grad} == copies
    kept = [layer for number, layer in enumerate(found) if number not in copies]
    assert all(torch.equal(layer.mlp.up_proj.weight, weight) for layer, weight in zip(kept, old, strict=True))
    for number in copies:
        source = found[number - 1]
        assert torch.equal(found[number].mlp.up_proj.weight, source.mlp.up_proj.weight)
        assert not found[number].self_attn.o_proj.weight.any() and not found[number].mlp.down_proj.weight.any()
    assert [layer.self_attn.layer_idx for layer in found] == list(range(layers + len(copies)))
    a_layer = sum(p.numel() for p in found[0].parameters())
    assert parameter_counts(model)["trained"] == len(copies) * a_layer


def test_only_the_copies_learn_and_the_folder_loads_plainly(tmp_path, make_plan):
    model = load_model("rootstock", dtype=torch.float32, device=torch.device("cpu"))
    model = make_trainable(model, Expand(2))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    settings = TrainingSettings(learning_rate=1e-2, log_every=1)
    losses = Trainer(model, CausalLM(), make_plan([40] * 40, row_tokens=256, learnable=True), settings).fit().losses
    assert losses[-1]["loss"] < losses[0]["loss"]
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert torch.equal(parameter, before[name]), name
    after = states(model)
    save_model(merge_adapter(model), load_tokenizer("rootstock"), tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert len(plain.model.layers) == plain.config.num_hidden_layers == len(model.model.layers)
    again = load_model(str(tmp_path), dtype=torch.float32, device=torch.device("cpu"))
    torch.testing.assert_close(states(again), after)
    with torch.no_grad():
        logits = again(input_ids=TOKENS[None]).logits
        torch.testing.assert_close(plain(input_ids=TOKENS[None]).logits, logits, atol=1e-4, rtol=1e-4)


def test_lists_with_an_entry_a_layer_grow_along(tiny_model, tmp_path):
    model = tiny_model("gemma2", num_hidden_layers=3)
    types = list(model.config.layer_types)
    before = states(model)
    model = make_trainable(model, Expand(3))
    assert model.config.layer_types == [kind for one in types for kind in (one, one)]
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again(input_ids=TOKENS[None, :8]).logits, model(input_ids=TOKENS[None, :8]).logits)
    torch.testing.assert_close(states(model), before)


def test_cached_answers_are_the_old_models(tiny_model):
    model = tiny_model("llama")
    decoding = Decoding(greedy=True, max_new_tokens=5)
    before = generate(model, [[5, 6, 7], [9]], decoding, stop_ids={999}, pad_id=0)
    after = generate(make_trainable(model, Expand(2)), [[5, 6, 7], [9]], decoding, stop_ids={999}, pad_id=0)
    assert [one.tokens for one in after] == [one.tokens for one in before]


def test_what_cannot_be_expanded_is_a_clear_error(tiny_model):
    with pytest.raises(ModelError, match="has 2 layers, not 3"):
        make_trainable(tiny_model("llama"), Expand(3))
    with pytest.raises(ModelError, match="not what it was"):
        make_trainable(tiny_model("gpt2", scale_attn_by_inverse_layer_idx=True), Expand(2))
    with pytest.raises(ModelError, match="has a prefix"):
        make_trainable(make_trainable(tiny_model("llama"), Prefix(tokens=2)), Expand(1))
