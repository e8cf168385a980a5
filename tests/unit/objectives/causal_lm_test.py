"""The language-model loss against torch's own cross entropy, document by document."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from graftlm.objectives.causal_lm import CausalLM, PerExample
from graftlm.ops.cross_entropy import IGNORE

LENGTHS = [9, 1, 17, 30, 4, 22]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mamba"])
@pytest.mark.parametrize("pad_to", [None, 96])
def test_loss_and_gradients_equal_torchs_cross_entropy(tiny_model, plain_model, make_plan, family, pad_to):
    plan = make_plan(LENGTHS, row_tokens=96)
    assert plan.rows == 1
    model, untouched = tiny_model(family), plain_model(family)
    batch = plan.row(0, pad_to=pad_to)
    objective = CausalLM()
    loss = objective(model, batch)
    loss.total.backward()

    expected = torch.zeros(())
    units = 0
    (store,) = plan.mixture.stores
    for sample in range(store.samples):
        ((tokens, wanted),) = store.documents(sample)
        ids = torch.from_numpy(tokens.astype("int64"))
        logits = untouched(input_ids=ids[None], use_cache=False).logits[0]
        targets = torch.where(torch.from_numpy(wanted.copy()), ids, IGNORE)[1:]
        expected = expected + F.cross_entropy(logits[:-1], targets, ignore_index=IGNORE, reduction="sum")
        units += int((targets != IGNORE).sum())
    expected.backward()

    assert loss.units == objective.units(batch) == units > 20
    torch.testing.assert_close(loss.total, expected, rtol=1e-4, atol=1e-4)
    for (name, one), other in zip(model.named_parameters(), untouched.parameters(), strict=True):
        if other.grad is None:
            continue
        scale = float(other.grad.abs().max())
        torch.testing.assert_close(
            one.grad, other.grad, rtol=1e-3, atol=1e-3 * scale, msg=f"gradient of {name}"
        )


def test_a_row_without_targets_costs_nothing(tiny_model, make_plan):
    plan = make_plan([5, 6], row_tokens=16, share=0.0)
    loss = CausalLM()(tiny_model(), plan.row(0))
    loss.total.backward()
    assert (loss.total.item(), loss.units) == (0.0, 0)


def test_every_example_weighs_the_same(tiny_model, make_plan):
    """By hand: log p of each example by itself, its mean, their sum; packed, filled and padded."""
    plan = make_plan(LENGTHS, row_tokens=96)
    model = tiny_model("llama")
    wanted, tokens_wanted = 0.0, 0
    (store,) = plan.mixture.stores
    for sample in range(store.samples):
        ((tokens, targets),) = store.documents(sample)
        places = [place for place in range(1, len(tokens)) if targets[place]]
        with torch.no_grad():
            log_p = model(input_ids=torch.from_numpy(tokens.astype("int64"))[None]).logits[0].log_softmax(-1)
        own = [-float(log_p[place - 1, int(tokens[place])]) for place in places]
        wanted += sum(own) / len(own) if own else 0.0
        tokens_wanted += len(own)

    gradients = []
    for packs, pad_to in ((True, None), (True, 96), (False, None)):
        model.graft_packs = packs
        model.zero_grad()
        batch = plan.row(0, pad_to=pad_to)
        loss = PerExample()(model, batch)
        loss.total.backward()
        assert loss.total.item() == pytest.approx(wanted, rel=1e-5)
        assert loss.units == PerExample().units(batch) == len(LENGTHS)
        gradients.append(model.model.layers[0].mlp.up_proj.weight.grad.clone())
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-3, atol=1e-5)
    by_token = CausalLM()(model, batch).total.item() / tokens_wanted
    assert loss.total.item() / len(LENGTHS) != pytest.approx(by_token, rel=1e-2)


def test_a_short_answer_pulls_as_hard_as_a_long_one(tiny_model, make_plan):
    """Two examples, of 2 and 60 tokens: the gradient is the sum of their own means' gradients."""
    model = tiny_model("llama")
    weight = model.model.layers[0].mlp.up_proj.weight

    def gradient(objective, plan, units):
        model.zero_grad()
        for row in range(plan.rows):
            (objective(model, plan.row(row)).total / units).backward()
        return weight.grad.clone()

    both = gradient(PerExample(), make_plan([2, 60], row_tokens=64, share=1.0, learnable=True), 2)
    apart = gradient(PerExample(), make_plan([2, 60], row_tokens=60, share=1.0, learnable=True), 2)
    torch.testing.assert_close(both, apart, rtol=1e-3, atol=1e-6)
    by_token = gradient(CausalLM(), make_plan([2, 60], row_tokens=64, share=1.0, learnable=True), 60)
    assert float((by_token - both).norm() / both.norm()) > 0.1
