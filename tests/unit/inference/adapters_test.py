"""Requests with adapters of their own share steps, and each gets what its adapter alone gives it."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaForCausalLM

from graftlm.core.errors import ModelError
from graftlm.inference.decoding import Decoding
from graftlm.inference.engine import Engine
from graftlm.inference.request import open_requests
from graftlm.models.adapter_routes import NONE, AdapterRoutes
from graftlm.models.trunk import prepare_trunk

ADAPTERS = {
    "clinic": LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"]),
    "court": LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "up_proj"]),
    "shop": LoraConfig(r=3, lora_alpha=3, use_rslora=True, target_modules=["k_proj", "o_proj", "gate_proj"]),
}
NAMES = (None, *ADAPTERS)


@pytest.fixture(scope="module")
def wrapped(model: LlamaForCausalLM) -> PeftModel:
    torch.manual_seed(4)
    found = None
    for name, config in ADAPTERS.items():
        if found is None:
            found = get_peft_model(copy.deepcopy(model), config, adapter_name=name)
        else:
            found.add_adapter(name, config)
    for name, parameter in found.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.4)
    prepare_trunk(found)
    return found.eval()


def logits_alone(model, tokens, name):
    if name is None:
        with model.disable_adapter():
            return model(tokens).logits
    model.set_adapter(name)
    return model(tokens).logits


@torch.no_grad()
def test_each_row_is_what_its_adapter_alone_makes_of_it(wrapped):
    tokens = torch.randint(0, 260, (8, 11), generator=torch.Generator().manual_seed(0))
    names = [*NAMES, "court", None, "clinic", "clinic"]
    routes = AdapterRoutes(wrapped)
    with routes.on(torch.tensor([[routes.place(name)] for name in names])):
        found = wrapped(tokens).logits
    for row, name in enumerate(names):
        wanted = logits_alone(wrapped, tokens[row : row + 1], name)[0]
        torch.testing.assert_close(found[row], wanted, atol=1e-5, rtol=1e-5)
    assert (found[0] - logits_alone(wrapped, tokens[:1], "clinic")[0]).abs().max() > 0.1  # adapters that show


@pytest.mark.parametrize("draft", [0, 3])
def test_one_engine_answers_for_all_adapters(wrapped, draft):
    """Also with equal prompts, whose states differ from adapter to adapter, and with slots that move up."""
    prompts = [[7, 8, 9] * 3, [100, 3, 5]]
    greedy = Decoding(greedy=True, max_new_tokens=12)
    asked, wanted = [], []
    for name in NAMES:
        requests = open_requests(wrapped, prompts, greedy, [], None, None)
        for place, request in enumerate(requests):
            request.budget = 4 + 2 * place + 2 * NAMES.index(name)
        alone = copy.deepcopy(requests)
        if name is None:
            with wrapped.disable_adapter():
                Engine(wrapped, slots=2, positions=24).run(alone)
        else:
            wrapped.set_adapter(name)
            Engine(wrapped, slots=2, positions=24).run(alone)
        for request in requests:
            request.adapter = name
        asked, wanted = asked + requests, wanted + [request.tokens for request in alone]
    assert len({tuple(tokens[:4]) for tokens in wanted}) == 8  # every adapter says something else
    Engine(wrapped, slots=5, positions=24, adapters=True, draft=draft).run(asked)
    assert [request.tokens for request in asked] == wanted


def test_the_model_is_as_it_was(wrapped):
    before = [type(module) for module in wrapped.modules()]
    routes = AdapterRoutes(wrapped)
    with pytest.raises(RuntimeError), routes.on(torch.tensor([[NONE]])):
        raise RuntimeError
    assert [type(module) for module in wrapped.modules()] == before
    assert not any(hasattr(module, "graft_routes") for module in wrapped.modules())


def test_what_cannot_share_a_step_is_refused(model, wrapped):
    with pytest.raises(ModelError, match="no adapters"):
        AdapterRoutes(model)
    dora = get_peft_model(copy.deepcopy(model), LoraConfig(r=2, use_dora=True, target_modules=["q_proj"]))
    with pytest.raises(ModelError, match="not plain LoRA"):
        AdapterRoutes(dora)
    (request,) = open_requests(wrapped, [[1]], Decoding(max_new_tokens=1), [], None, None)
    request.adapter = "bank"
    with pytest.raises(ModelError, match=r"no adapter `bank`\n  fix: one of: clinic, court, shop"):
        Engine(wrapped, slots=1, positions=8, adapters=True).submit(request)
    with pytest.raises(ModelError, match="adapters=True"):
        Engine(wrapped, slots=1, positions=8).submit(request)
