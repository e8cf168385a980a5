"""What is shown of a model is what the model computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from graftlm.core.errors import ModelError
from graftlm.models.anatomy import Attention, Step, dissect

TOKENS = [5, 17, 49, 0, 3, 3, 21, 8, 30]


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3", "gpt2", "gemma2", "bloom"])
def test_a_dissected_model_computes_the_same(tiny_model: Any, family: str) -> None:
    model = tiny_model(family)
    with torch.no_grad():
        plain = model(input_ids=torch.tensor([TOKENS]), output_hidden_states=True)
    own = model.config._attn_implementation
    found = dissect(model, TOKENS)
    assert model.config._attn_implementation == own
    torch.testing.assert_close(found.logits_TV, plain.logits[0], atol=1e-5, rtol=1e-4)
    for block, before in zip(found.blocks, plain.hidden_states, strict=False):
        torch.testing.assert_close(block.before_TD, before[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.blocks[-1].guess_V, plain.logits[0, -1], atol=1e-5, rtol=1e-4)
    assert len(found.blocks) == model.config.num_hidden_layers
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=torch.tensor([TOKENS])).logits, plain.logits)


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2", "gemma2"])
def test_weights_are_those_of_eager_attention(plain_model: Any, family: str) -> None:
    model = plain_model(family)
    found = dissect(model, TOKENS)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor([TOKENS]), output_attentions=True).attentions
    for block, weights in zip(found.blocks, wanted, strict=True):
        [attention] = [step for step in block.steps if isinstance(step, Attention)]
        torch.testing.assert_close(attention.weights_HTT, weights[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(attention.scores_HTT.softmax(-1), weights[0], atol=1e-5, rtol=1e-4)


def test_steps_come_in_their_order(tiny_model: Any) -> None:
    model = tiny_model("llama")
    [first, *_] = dissect(model, TOKENS).blocks
    names = [step.name.split(".")[-1] if isinstance(step, Step) else "attention" for step in first.steps]
    before = ["input_layernorm", "q_proj", "k_proj", "v_proj", "attention", "o_proj"]
    assert names == [*before, "post_attention_layernorm", "gate_proj", "up_proj", "down_proj"]
    steps = [step for step in first.steps if isinstance(step, Step)]
    changes = [step.values_TN for step in steps if step.name.endswith(("o_proj", "down_proj"))]
    torch.testing.assert_close(first.before_TD + sum(changes), first.after_TD, atol=1e-5, rtol=1e-4)
    layer = model.model.layers[0]
    assert not layer.self_attn.q_proj._forward_hooks, "hooks are taken off again"


def test_no_chain_of_blocks_is_an_error(tiny_model: Any) -> None:
    model = tiny_model("llama")
    model.model.layers = torch.nn.Sequential(*model.model.layers)
    with pytest.raises(ModelError, match="not a chain of blocks"):
        dissect(model, TOKENS)
