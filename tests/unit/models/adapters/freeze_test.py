"""Freezing: the right weights are trained, all others stay bit for bit, the plan knows what is left of the work."""

from __future__ import annotations

import pytest
import torch

from graftlm.core.errors import ModelError
from graftlm.models.adapters import Freeze, layers_with_gradient, make_trainable, merge_adapter, parameter_counts
from graftlm.objectives.causal_lm import CausalLM
from graftlm.training.trainer import Trainer, TrainingSettings

LAYER = "model.layers.1."


def trained(model: torch.nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        (Freeze(last=1), lambda name: name.startswith(LAYER)),
        (Freeze(), lambda name: name.startswith("model.layers.")),
        (Freeze(match=r"layers\.0\..*(q|v)_proj"), lambda name: name[:14] == "model.layers.0" and name[-13] in "qv"),
        (Freeze(last=1, head=True), lambda name: name.startswith(LAYER) or name == "lm_head.weight"),
        (Freeze(last=1, embedding=True), lambda name: name.startswith(LAYER) or "embed_tokens" in name),
    ],
)
def test_what_is_trained(tiny_model, how, wanted):
    model = make_trainable(tiny_model("llama", tie_word_embeddings=False), how)
    names = {name for name, _ in model.named_parameters()}
    assert trained(model) == {name for name in names if wanted(name)} != set()
    assert parameter_counts(model)["trained"] == sum(p.numel() for n, p in model.named_parameters() if wanted(n))


def test_trained_weights_are_fp32_and_frozen_ones_as_loaded(tiny_model):
    model = make_trainable(tiny_model("qwen2").to(torch.bfloat16), Freeze(last=1))
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if name in trained(model) else torch.bfloat16), name


def test_training_leaves_the_rest_bit_equal(tiny_model, make_plan):
    model = make_trainable(tiny_model("llama"), Freeze(last=1))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    settings = TrainingSettings(learning_rate=1e-2, weight_decay=0.5)
    Trainer(model, CausalLM(), make_plan([30] * 12, row_tokens=64), settings).fit()
    assert merge_adapter(model) is model
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != (name in trained(model)), name


@pytest.mark.parametrize(
    ("how", "through"),
    [
        (Freeze(last=1), 1), (Freeze(last=2), 2), (Freeze(last=1, embedding=True), 3), (Freeze(last=3), 3),
        (Freeze(match="lm_head"), 0), (Freeze(match=r"model\.norm"), 0), (Freeze(match=r"layers\.1"), 2),
    ],
)  # fmt: skip
def test_layers_that_the_backward_pass_goes_through(tiny_model, how, through):
    """Against autograd: the lowest layer whose output needs a gradient."""
    model = make_trainable(tiny_model("llama", num_hidden_layers=3, tie_word_embeddings=False), how)
    assert layers_with_gradient(model) == through
    outputs = []
    for layer in model.model.layers:
        layer.register_forward_hook(lambda module, inputs, output: outputs.append(output.requires_grad))
    model(input_ids=torch.arange(5)[None])
    assert sum(outputs) == through


def test_a_tied_embedding_is_the_head(tiny_model):
    model = make_trainable(tiny_model("llama", tie_word_embeddings=True), Freeze(last=1, head=True))
    assert "model.embed_tokens.weight" in trained(model)
    assert layers_with_gradient(model) == 2


def test_the_head_of_a_reward_model_is_trained(plain_model):
    from transformers import AutoModelForSequenceClassification, LlamaConfig

    config = LlamaConfig(**plain_model("llama").config.to_dict() | {"num_labels": 1})
    model = make_trainable(AutoModelForSequenceClassification.from_config(config), Freeze(last=1))
    assert trained(model) == {name for name, _ in model.named_parameters() if name.startswith((LAYER, "score"))}


@pytest.mark.parametrize(
    ("how", "said"), [(Freeze(last=3), r"has 2 layers, not 3"), (Freeze(match="nothing"), r"name like `nothing`")]
)
def test_what_cannot_be_found_is_a_clear_error(tiny_model, how, said):
    with pytest.raises(ModelError, match=said):
        make_trainable(tiny_model("llama"), how)
